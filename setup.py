"""What setup.cfg can't say: the C parts are built with make, the bindings with cffi."""

import os
import subprocess

from setuptools import Command, Distribution, setup
from setuptools.command.build import build

CFFI_BUILDERS = ["launcher/pspawn/hwloc/_build.py", "launcher/pspawn/lib/_build.py"]


class build_native(Command):
    """Build the C parts in the source tree, where package_data and data_files look for them."""

    description = "build the C parts (make -C launcher)"
    user_options = []
    editable_mode = False

    def initialize_options(self):
        pass

    def finalize_options(self):
        pass

    def run(self):
        # Called from a make of the user, its flags (-n, -t, a job server) are not meant for us.
        env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        try:
            # What a newer compiler warns of is for us to fix, not a reason to fail on a user's machine.
            subprocess.run(["make", "-C", "launcher", "WARN=-Wall -Wextra"], check=True, env=env)
        except FileNotFoundError:
            raise SystemExit(
                "pspawn: make not found; its C parts need make and a C compiler"
                " (Debian: apt-get install gcc make pkg-config libhwloc-dev python3-dev)"
            ) from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"pspawn: {' '.join(error.cmd)} failed, see above") from None

    def get_source_files(self):
        return []

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}


class build_native_first(build):
    """Package data and the bindings need the C parts to be there."""

    sub_commands = [("build_native", None), *build.sub_commands]


class DataInEditableInstalls(Distribution):
    # An editable install asks for has_<kind> of everything it installs, and of data_files that isn't its name.
    def has_data(self):
        return self.has_data_files()


setup(
    distclass=DataInEditableInstalls,
    cmdclass={"build": build_native_first, "build_native": build_native},
    cffi_modules=[f"{path}:ffibuilder" for path in CFFI_BUILDERS],
)

"""Builds ``pspawn.hwloc._hwloc``: cffi in API mode against the system's libhwloc 2.x.

setuptools runs this file (``cffi_modules=["launcher/pspawn/hwloc/_build.py:ffibuilder"]``); ``python _build.py``
builds the extension in place. Compiler and linker flags come from ``pkg-config hwloc`` (``PKG_CONFIG`` and
``PKG_CONFIG_PATH`` are honoured). Only hwloc 2 will do, from 2.1: version 1 has NUMA nodes inside the tree and version
3 another ABI. Both are refused here, again by the C compiler, and once more when the extension is imported.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from cffi import FFI

INSTALL = "install hwloc 2.1 or a later 2.x with its headers (Debian: apt-get install libhwloc-dev pkg-config)"

# What is bound, and nothing more: a struct with "...;" leaves the rest of its members and its layout to the C compiler.
CDEF = """
typedef struct hwloc_topology *hwloc_topology_t;
typedef struct hwloc_bitmap_s *hwloc_bitmap_t;
typedef const struct hwloc_bitmap_s *hwloc_const_bitmap_t;
typedef enum { HWLOC_OBJ_PACKAGE, HWLOC_OBJ_CORE, HWLOC_OBJ_PU, HWLOC_OBJ_NUMANODE, ... } hwloc_obj_type_t;
enum hwloc_type_filter_e { HWLOC_TYPE_FILTER_KEEP_NONE, ... };

#define HWLOC_API_VERSION ...
#define HWLOC_UNKNOWN_INDEX ...
static const unsigned long HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED;
static const unsigned long HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST;
static const unsigned long HWLOC_DISTANCES_KIND_FROM_OS;
static const unsigned long HWLOC_DISTANCES_KIND_MEANS_LATENCY;

struct hwloc_numanode_attr_s { uint64_t local_memory; ...; };
union hwloc_obj_attr_u { struct hwloc_numanode_attr_s numanode; ...; };
typedef struct hwloc_obj {
    hwloc_obj_type_t type;
    unsigned os_index;
    unsigned logical_index;
    union hwloc_obj_attr_u *attr;
    hwloc_bitmap_t cpuset;
    hwloc_bitmap_t nodeset;
    ...;
} *hwloc_obj_t;
struct hwloc_distances_s { unsigned nbobjs; hwloc_obj_t *objs; unsigned long kind; uint64_t *values; ...; };

unsigned hwloc_get_api_version(void);

int hwloc_topology_init(hwloc_topology_t *topology);
int hwloc_topology_set_flags(hwloc_topology_t topology, unsigned long flags);
int hwloc_topology_set_io_types_filter(hwloc_topology_t topology, enum hwloc_type_filter_e filter);
int hwloc_topology_set_components(hwloc_topology_t topology, unsigned long flags, const char *name);
int hwloc_topology_set_synthetic(hwloc_topology_t topology, const char *description);
int hwloc_topology_set_xmlbuffer(hwloc_topology_t topology, const char *buffer, int size);
int hwloc_topology_load(hwloc_topology_t topology);
void hwloc_topology_destroy(hwloc_topology_t topology);
int hwloc_topology_is_thissystem(hwloc_topology_t topology);
int hwloc_topology_export_xmlbuffer(hwloc_topology_t topology, char **xmlbuffer, int *buflen, unsigned long flags);
void hwloc_free_xmlbuffer(hwloc_topology_t topology, char *xmlbuffer);
hwloc_const_bitmap_t hwloc_topology_get_allowed_cpuset(hwloc_topology_t topology);
hwloc_const_bitmap_t hwloc_topology_get_allowed_nodeset(hwloc_topology_t topology);
int pspawn_hwloc_rehearse_load(hwloc_topology_t topology);
hwloc_obj_t hwloc_get_next_obj_by_type(hwloc_topology_t topology, hwloc_obj_type_t type, hwloc_obj_t prev);

int hwloc_distances_get_by_type(hwloc_topology_t topology, hwloc_obj_type_t type, unsigned *nr,
                                struct hwloc_distances_s **distances, unsigned long kind, unsigned long flags);
void hwloc_distances_release(hwloc_topology_t topology, struct hwloc_distances_s *distances);

hwloc_bitmap_t hwloc_bitmap_alloc(void);
hwloc_bitmap_t hwloc_bitmap_dup(hwloc_const_bitmap_t bitmap);
void hwloc_bitmap_free(hwloc_bitmap_t bitmap);
int hwloc_bitmap_set(hwloc_bitmap_t bitmap, unsigned id);
int hwloc_bitmap_set_range(hwloc_bitmap_t bitmap, unsigned begin, int end);
int hwloc_bitmap_isset(hwloc_const_bitmap_t bitmap, unsigned id);
int hwloc_bitmap_next(hwloc_const_bitmap_t bitmap, int prev);
int hwloc_bitmap_weight(hwloc_const_bitmap_t bitmap);
int hwloc_bitmap_or(hwloc_bitmap_t res, hwloc_const_bitmap_t bitmap1, hwloc_const_bitmap_t bitmap2);
int hwloc_bitmap_and(hwloc_bitmap_t res, hwloc_const_bitmap_t bitmap1, hwloc_const_bitmap_t bitmap2);
int hwloc_bitmap_andnot(hwloc_bitmap_t res, hwloc_const_bitmap_t bitmap1, hwloc_const_bitmap_t bitmap2);
int hwloc_bitmap_xor(hwloc_bitmap_t res, hwloc_const_bitmap_t bitmap1, hwloc_const_bitmap_t bitmap2);
int hwloc_bitmap_isincluded(hwloc_const_bitmap_t sub_bitmap, hwloc_const_bitmap_t super_bitmap);
int hwloc_bitmap_isequal(hwloc_const_bitmap_t bitmap1, hwloc_const_bitmap_t bitmap2);
int hwloc_bitmap_list_snprintf(char *buf, size_t buflen, hwloc_const_bitmap_t bitmap);
"""

SOURCE = """
#include <hwloc.h>
#if (HWLOC_API_VERSION >> 16) != 2 || HWLOC_API_VERSION < 0x00020100
#error "pspawn needs hwloc 2.1 or a later 2.x; this hwloc.h is of another version"
#endif
"""


def _pkg_config(*arguments: str) -> str:
    command = [*shlex.split(os.environ.get("PKG_CONFIG", "pkg-config")), *arguments, "hwloc"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"pspawn.hwloc: cannot run {command[0]}: {error.strerror}; {INSTALL}") from None
    if done.returncode != 0:
        raise RuntimeError(f"pspawn.hwloc: {shlex.join(command)} found no hwloc; {INSTALL}")
    return done.stdout.strip()


def require_hwloc_2(version: str) -> None:
    """Raise RuntimeError unless ``version``, as pkg-config prints it (``2.9.0``), will do."""
    if not re.match(r"2\.[1-9]", version):
        raise RuntimeError(f"pspawn.hwloc: needs hwloc 2.1 or a later 2.x, but pkg-config found {version}; {INSTALL}")


def ffibuilder() -> FFI:
    """The cffi builder for the hwloc that pkg-config finds; RuntimeError with what to install if it finds none."""
    require_hwloc_2(_pkg_config("--modversion"))
    builder = FFI()
    builder.cdef(CDEF)
    builder.set_source(
        "pspawn.hwloc._hwloc",
        SOURCE + Path(__file__).with_name("rehearse.c").read_text(encoding="utf-8"),
        extra_compile_args=shlex.split(_pkg_config("--cflags")),
        extra_link_args=shlex.split(_pkg_config("--libs")),
    )
    return builder


if __name__ == "__main__":
    ffibuilder().compile(tmpdir=str(Path(__file__).resolve().parents[2]), verbose=True)

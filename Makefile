# make demo | demo-slurm | test | test-all | test-matrix | hardening | fuzz | effects | package-table | lint | format | clean: each sets up what it needs first (tests/setup/packages).

PYTHON ?= python3
PACKAGES = tests/setup/packages
PIP = -m pip --disable-pip-version-check --quiet
# Engines hang or lose a signal by themselves now and then: what fails is run once more, and the summary names it.
PYTEST = .venv/bin/python -m pytest tests --reruns 1 -raR $(LANES)
# Tests run two at a time where they can be kept apart (tests/support/lanes.py); LANES= for one after the other.
LANE = --tx 'popen//python=$(CURDIR)/tests/support/lane $(CURDIR)/.venv/bin/python'
LANES = $(if $(filter 0-1,$(shell id -u)-$(shell [ "$$(nproc)" -gt 1 ] && echo 1)),--dist loadscope $(LANE) $(LANE))
# Nothing of a user's own pspawn set-up may reach demo and tests.
unexport PSPAWN PSPAWN_FORK_POINT PSPAWN_REPORT PSPAWN_REQUIRE PSPAWN_TIMEOUT PSPAWN_VERBOSE
unexport PSPAWN_REPORT_PAGES PSPAWN_BIND_TO PSPAWN_ENGINE PSPAWN_DOMAINS PSPAWN_MPIRUN PSPAWN_REPLICATE PSPAWN_TOPOLOGY

C_SOURCES = find $(wildcard examples launcher spank_plugin tests) -name '*.[ch]' \
	-not -path '*/build/*' -not -path '*/_native/*' -not -name '_*.c' -print

# Stamps: what has been set up, and is up to date if nothing it was made from is newer.
VENV = .venv/.pspawn-installed
LINT = .venv/.lint-installed
MPI_WHEELS = .test-env/openmpi5/.installed .test-env/mpich5/.installed
MPICH4_LIB = .test-env/mpich4/lib/libmpi.so.12
TRIXIE = .test-env/trixie/.installed
GUEST = .test-env/guest/.installed
BULLSEYE = .test-env/bullseye/.installed

.NOTPARALLEL:
.PHONY: all demo demo-slurm test test-all test-matrix hardening fuzz effects package-table lint format clean native spank examples examples-wheels \
	bytecode packages-build packages-demo packages-slurm packages-test packages-lint

all: packages-build native $(VENV) bytecode

demo: packages-demo native $(VENV) bytecode examples
	.venv/bin/python -m pspawn.bench.demo

# A cluster on this host, as root: up, one step plainly and one with --pspawn, down.
demo-slurm: packages-slurm native spank $(VENV) bytecode
	@$(MAKE) --no-print-directory -C examples many_libraries
	PYTHONPATH=tests .venv/bin/python -m support.demo_slurm

test: packages-test native spank $(VENV) bytecode $(MPI_WHEELS) $(MPICH4_LIB) $(TRIXIE) $(GUEST) examples examples-wheels
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-all: packages-test native spank $(VENV) bytecode $(MPI_WHEELS) $(MPICH4_LIB) $(TRIXIE) $(GUEST) $(BULLSEYE) examples examples-wheels
	$(PYTEST) -m "long and not matrix" $(PYTEST_ARGS)

# By hand: the combinations of large products that test-all leaves out (tests/support/sampling.py).
test-matrix: packages-test native spank $(VENV) bytecode $(MPI_WHEELS) $(MPICH4_LIB) $(TRIXIE) $(GUEST) $(BULLSEYE) examples examples-wheels
	$(PYTEST) -m "long and matrix" $(PYTEST_ARGS)

# By hand, for hours: each fault in each state; 10,000 launches, every tenth with a fault (SOAK_ARGS="--launches 1000" for
# fewer); then fuzz.
hardening: packages-test native spank $(VENV) bytecode $(MPI_WHEELS)
	$(PYTEST) -k test_every_state $(PYTEST_ARGS)
	PYTHONPATH=tests .venv/bin/python -m support.soak $(SOAK_ARGS)
	@setpriv --pdeathsig TERM $(MAKE) --no-print-directory fuzz

# By hand, for hours: ten million executions of each fuzz target (FUZZ_ARGS="--seconds 600" for fewer). It ends with make,
# however that one ends.
fuzz: packages-test native $(VENV)
	setpriv --pdeathsig TERM env PYTHONPATH=tests .venv/bin/python -m support.fuzzing $(FUZZ_ARGS)

# What imports and constructors do, one habit a job, held against plain launches. Fails as long as one differs.
effects: packages-test native $(VENV) bytecode
	PYTHONPATH=tests .venv/bin/python -m effects.compare $(EFFECTS_ARGS)

# What becomes of imported packages, and what that costs: those that PACKAGES_PYTHON has (docs/packages.md).
PACKAGES_PYTHON = .venv/bin/python
package-table: packages-test native $(VENV) bytecode
	PYTHONPATH=tests .venv/bin/python -m packages.table --python $(PACKAGES_PYTHON) $(PACKAGES_ARGS)

lint: packages-lint $(VENV) $(LINT)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(C_SOURCES) | xargs -r clang-format --dry-run -Werror

format: packages-lint $(VENV) $(LINT)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	$(C_SOURCES) | xargs -r clang-format -i

clean:
	-[ ! -f launcher/Makefile ] || $(MAKE) -C launcher clean
	rm -rf .venv .test-env .pytest_cache .mypy_cache .ruff_cache build dist
	rm -rf launcher/pspawn/_native launcher/pspawn.egg-info examples/build
	find launcher tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find launcher/pspawn -name '*.so' -delete

# First of all, and all at once: without them nothing is begun.
packages-build:
	@$(PACKAGES) build
packages-demo:
	@$(PACKAGES) build mpi
packages-test:
	@$(PACKAGES) build mpi slurm test
packages-slurm:
	@$(PACKAGES) build slurm
packages-lint:
	@$(PACKAGES) build lint

native:
	@$(MAKE) --no-print-directory -C launcher

# The SPANK plugin beside the stub, where the tests' clusters look for both.
spank: native
	@$(MAKE) --no-print-directory -C spank_plugin DEST=$(CURDIR)/launcher/pspawn/_native

examples: native
	@$(MAKE) --no-print-directory -C examples
	@$(MAKE) --no-print-directory -C examples mpi MPICC=mpicc.openmpi BUILD=build/openmpi4
	@$(MAKE) --no-print-directory -C examples mpi MPICC=mpicc.mpich BUILD=build/mpich4

examples-wheels: $(MPI_WHEELS)
	@$(MAKE) --no-print-directory -C examples mpi \
		MPICC=$(CURDIR)/.test-env/openmpi5/bin/mpicc BUILD=build/openmpi5
	@$(MAKE) --no-print-directory -C examples mpi \
		MPICC=$(CURDIR)/.test-env/mpich5/bin/mpicc BUILD=build/mpich5

# The commands of a wheel are copies; here they are links, so that they follow a rebuild.
$(VENV): setup.cfg setup.py pyproject.toml $(wildcard launcher/pspawn/*/_build.py launcher/pspawn/*/*.c) \
		$(wildcard launcher/libpspawn/include/*.h) launcher/pspawn/_version.py
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) install --editable '.[mpi4py,test]'
	@cd launcher/pspawn/_native && find * -type f | while read -r file; do \
		mkdir -p "$$(dirname "$(CURDIR)/.venv/$$file")"; ln -srf "$$file" "$(CURDIR)/.venv/$$file"; done
	@touch $@

# pip compiles what it copies; an editable install is compiled at each start where PYTHONDONTWRITEBYTECODE is set.
bytecode: $(VENV)
	@.venv/bin/python -m compileall -q launcher/pspawn

$(LINT): tests/setup/lint.txt $(VENV)
	.venv/bin/python $(PIP) install -r tests/setup/lint.txt
	@touch $@

# Each wheel brings an mpirun of its own, so each gets an environment of its own.
.test-env/%5/.installed: tests/setup/mpi-wheels.txt
	$(PYTHON) -m venv .test-env/$*5
	.test-env/$*5/bin/python $(PIP) install -c tests/setup/mpi-wheels.txt $*
	@touch $@

# mpi4py's one wheel looks for MPICH's library by the name of its ABI, which Debian's has not.
$(MPICH4_LIB):
	@mkdir -p $(@D)
	ln -sf "$$(realpath "$$(gcc -print-file-name=libmpich.so.12)")" $@

# Slurm as it is from 23.11 on. Without it the tests go on, and say so.
$(TRIXIE): tests/setup/trixie
	@tests/setup/trixie $(@D)

# A node whose C library is older. Without it the tests go on, and say so.
$(BULLSEYE): tests/setup/bullseye
	@tests/setup/bullseye $(@D)

# What a QEMU guest is booted from. Without it the tests go on, and say so.
$(GUEST): tests/setup/guest tests/setup/guest-init
	@tests/setup/guest $(@D)

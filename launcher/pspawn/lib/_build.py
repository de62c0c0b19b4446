"""Builds ``pspawn.lib._pspawn``: cffi in API mode against libpspawn.so.

setuptools runs this file (``cffi_modules=["launcher/pspawn/lib/_build.py:ffibuilder"]``); ``python _build.py``
builds the extension in place. libpspawn.so is the one that ``make -C launcher`` leaves in the package
(``pspawn/_native/lib``) and is found there at run time too, relative to the extension: so an editable install and a
wheel work alike, and libpspawn finds libpspawn_proxy.so beside itself.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

PACKAGE = Path(__file__).resolve().parents[1]
INCLUDE = PACKAGE.parent / "libpspawn" / "include"
LIBRARY = PACKAGE / "_native" / "lib"

# A struct with "...;" leaves the rest of its members and its layout to the C compiler.
CDEF = """
#define PSPAWN_AUTO ...
#define PSPAWN_EXEC ...
#define PSPAWN_PREINIT ...
#define PSPAWN_MAIN ...
#define PSPAWN_WARM ...
#define PSPAWN_APP ...
#define PSPAWN_STEP_NONE ...
#define PSPAWN_STEP_CONTEXT ...
#define PSPAWN_STEP_FDS ...
#define PSPAWN_GATED ...

typedef int... pid_t;
typedef struct pspawn_context *pspawn_context_t;

struct pspawn_context_attr {
    const char *path;
    char *const *argv;
    char *const *envp;
    int fork_point;
    int strict;
    int numa_node;
    const uint8_t *cpus;
    size_t cpus_bytes;
    int timeout_ms;
    const char *const *preloads;
    ...;
};
struct pspawn_context_info {
    pid_t pid;
    int fork_point;
    int refused_point;
    const char *reason;
    int requests;
    int64_t created_us;
    int preloaded;
    const char *dropped;
    ...;
};
struct pspawn_task {
    pspawn_context_t context;
    char *const *argv;
    char *const *envp;
    const int *fds;
    int nfds;
    const uint8_t *cpus;
    size_t cpus_bytes;
    const uint8_t *nodes;
    size_t nodes_bytes;
    const char *cgroup;
    const char *cwd;
    int has_pgid;
    pid_t pgid;
    int new_session;
    uint32_t rlimit_set;
    uint64_t rlimits[16][2];
    uint64_t signals_default;
    pid_t pid;
    int error;
    int step;
    ...;
};
struct pspawn_domain {
    int numa_node;
    const uint8_t *cpus;
    size_t cpus_bytes;
    const int *distances;
    ...;
};

int pspawn_context_open(pspawn_context_t *ctx, const struct pspawn_context_attr *attr, char *reason,
                        size_t reason_size);
int pspawn_context_info(pspawn_context_t ctx, struct pspawn_context_info *info);
void pspawn_context_destroy(pspawn_context_t *ctx);
int pspawn_vector(struct pspawn_task *tasks, size_t ntasks, unsigned flags);
const char *pspawn_fork_point_name(int fork_point);
const char *pspawn_step_name(int step);
int pspawn_place(const struct pspawn_domain *domains, size_t ndomains, const uint8_t *const *masks,
                 size_t mask_bytes, size_t nranks, int *domain_of);
"""


def ffibuilder() -> FFI:
    """The cffi builder. setup.py asks for it before it builds libpspawn.so, which only the linker then needs."""
    header = INCLUDE / "pspawn.h"
    builder = FFI()
    builder.cdef(CDEF)
    builder.set_source(
        "pspawn.lib._pspawn",
        "#include <pspawn.h>\n",
        include_dirs=[str(INCLUDE)],
        library_dirs=[str(LIBRARY)],
        libraries=["pspawn"],
        extra_link_args=["-Wl,-rpath,$ORIGIN/../_native/lib"],
        # The layout of structs is compiled in.
        depends=[str(header)],
    )
    return builder


if __name__ == "__main__":
    if not (LIBRARY / "libpspawn.so").exists():
        raise SystemExit(f"pspawn.lib: there is no libpspawn.so in {LIBRARY}; build it first (make -C launcher)")
    ffibuilder().compile(tmpdir=str(PACKAGE.parent), verbose=True)

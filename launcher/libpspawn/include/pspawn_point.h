/*
 * pspawn_point.h - the application's own fork point, in C and C++.
 *
 *     #include <pspawn_point.h>
 *
 *     table = read_and_sort(file);      heavy, and the same in every rank: done once for each NUMA domain of a node
 *     pspawn_point();                   from here on there are as many processes as ranks
 *     MPI_Init(&argc, &argv);
 *
 * with `pspawn-mpirun --pspawn-fork-point app …` or `srun --pspawn=app …`. In any other process pspawn_point() does
 * nothing. Nothing has to be linked, and a program built with this header runs where pspawn is not installed.
 *
 * Before the point a program may read files, allocate and compute. It must not do what differs between ranks, or what a
 * fork does not copy: MPI_Init, reading the launcher's variables, threads, files that stay open, output. If it does, the
 * ranks are started at a lower fork point, and the report says why (docs/user.md, "The application's own fork point").
 */
#ifndef PSPAWN_POINT_H
#define PSPAWN_POINT_H

#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Returns 1 in a rank that was forked here, and 0 in every other case: started without pspawn or at another fork point,
 * called once more, in a constructor, in a child process of the program's own. There is no error.
 *
 * It asks for a variable of the environment, because getenv(3) is answered by pspawn's object in a proxy. A weak symbol
 * would be simpler, but a linker resolves an undefined one of an executable that is not position-independent to 0, and
 * dlsym(3) is in a library of its own before glibc 2.34 (tests/test_app_point.py, tests/fallbacks/test_older_libc.py).
 */
static inline int pspawn_point(void)
{
	/* clang -O2 would call it once: nothing that getenv reads has changed in between */
	char *(*volatile again)(const char *) = getenv;
	const char *here = getenv("PSPAWN_POINT");

	return here && here != again("PSPAWN_POINT"); /* a variable of that name says the same twice */
}

#ifdef __cplusplus
}
#endif

#endif

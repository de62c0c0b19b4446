/*
 * stub_test.h - in builds with -DPSPAWN_TEST only: stop in a named state, so that tests can kill or stop there.
 *
 * PSPAWN_TEST_STOP=<state> in the environment makes the stub raise SIGSTOP when it gets there; the gatherer has the
 * same under gather.<state>.
 */
#ifndef PSPAWN_STUB_TEST_H
#define PSPAWN_STUB_TEST_H

#ifdef PSPAWN_TEST
#define STUB_TEST_STOP(state)                                                     \
	do {                                                                      \
		const char *stop_ = engine_getenv(stub.envp, "PSPAWN_TEST_STOP"); \
		if (stop_ && raw_streq(stop_, "stub." state))                     \
			sys_kill(sys_getpid(), 19 /* SIGSTOP */);                 \
	} while (0)
/* Until the parent has ended: the end of a process that leaves its group orphaned continues whoever is stopped in it. */
#define STUB_TEST_ALONE(parent)                        \
	do {                                           \
		while (sys0(__NR_getppid) == (parent)) \
			raw_sleep_ms(1);               \
	} while (0)
#else
#define STUB_TEST_STOP(state) ((void)0)
#define STUB_TEST_ALONE(parent) ((void)(parent))
#endif

#endif

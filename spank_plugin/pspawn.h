/*
 * pspawn.h - what the files of the plugin know of each other.
 *
 * Each process that loads the plugin is in one context only (srun, sbatch or salloc, slurmd, slurmstepd), so what it
 * knows is kept in one structure a context, static in that context's file.
 */
#ifndef PSPAWN_SPANK_PLUGIN_H
#define PSPAWN_SPANK_PLUGIN_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <slurm/spank.h>

#define REASON_LEN 512

/* What to do with a step. The names are those of `--pspawn=`, see choices[] in options.c. */
enum choice {
	CHOICE_NONE,
	CHOICE_OFF,
	CHOICE_AUTO,
	CHOICE_EXEC,
	CHOICE_PREINIT,
	CHOICE_MAIN,
	CHOICE_WARM,
	CHOICE_APP,
	CHOICE_REQUIRE,
	CHOICE_BAD
};

/* The site's line in plugstack.conf. */
struct site {
	bool on;		/* default=on */
	bool ignore_accounting; /* accounting=ignore */
	bool record;		/* record=on: programs without a profile get one */
	unsigned timeout;	/* timeout=SECONDS; 0: the stub's own */
	char stub[PATH_MAX];	/* stub=PATH */
};

/* options.c */
int pspawn_read_site(struct site *site, int argc, char **argv, char *why, size_t room); /* 0, or -1 and why */
void pspawn_register_option(spank_t sp);
bool pspawn_option_given(enum choice *choice); /* by the user, on the command line of srun, sbatch or salloc */
enum choice pspawn_read_choice(const char *text);
const char *pspawn_choice_name(enum choice choice);
/* Who decides: the user's option, else PSPAWN in the user's environment (NULL: unset), else the site. */
enum choice pspawn_decide(const struct site *site, const char *environment);

/* trust.c: the file is one that only root can have put there; `path` is replaced by its real path. The file, opened for
 * execveat() and fstat() alone (O_PATH), or -1 and why. */
int pspawn_open_trusted(char path[PATH_MAX], char *why, size_t room);
/* The same for a file that a user will run by its path: as root alone can change any part of it, it stays. 0, or -1 and why. */
int pspawn_trust(char path[PATH_MAX], char *why, size_t room);

/* start.c: starts the mover of the step of this task, which has `tasks` on this node, behind the abstract address `name`.
 * 0, or -1: told in the log. */
int pspawn_start_mover(const char *stub, const char *name, pid_t task, uid_t uid, uint32_t tasks);

/* start.c: tells it that the step's tasks have ended, and waits until it has ended too, for a second at most. */
void pspawn_end_mover(const char *name);

/* slurmstepd.c */
int pspawn_stepd_init(spank_t sp, int argc, char **argv);
int pspawn_stepd_user_init(spank_t sp);
int pspawn_stepd_task_init(spank_t sp);
int pspawn_stepd_task_post_fork(spank_t sp);
int pspawn_stepd_task_exit(spank_t sp);

/* srun.c */
int pspawn_srun_init(spank_t sp, int argc, char **argv);

/* slurmd.c */
int pspawn_slurmd_init(int argc, char **argv);

#endif

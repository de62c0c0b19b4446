/*
 * trampoline.c - stands first on PATH under the name mpirun or mpiexec, and does nothing until PSPAWN=1.
 *
 * It becomes the real one, which is the next of its name on PATH that is not pspawn's, with arguments, argv[0] and
 * environment as they are; with PSPAWN=1 it becomes pspawn-mpirun, which is told the real one. Not a shell script: dash
 * drops variables whose names it does not like (bash's exported functions, which modules are), each shell adds some, and
 * none can hand argv[0] on, by which Open MPI decides about --prefix. Without libc's start-up, like the stub.
 */
#include "engine.h"
#include "freestanding.h"

#define OURS_AT_MOST (64 << 10) /* bytes of a program of ours; a real mpirun may be as small, or larger */
#define HYDRA_AT_MOST (64 << 20)
#define SCRIPTS_HEAD 1024
#define VARIABLE "PSPAWN_TRAMPOLINE"

static struct statx self;
static int hidden; /* a bare name would find one of ours, not the real one */

static void complain(const char *a, const char *b, const char *c)
{
	char line[2 * PATH_MAX] = "";
	struct raw_text t = {line, sizeof line - 1, 0};

	raw_put(&t, "pspawn: ");
	raw_put(&t, a);
	raw_put(&t, b);
	raw_put(&t, c);
	print_line(2, line, t.at);
}

/* Whether one of two texts that begin alike is in a file (of a script: in its head). */
static int contains(const char *path, size_t size, const char *one, const char *other)
{
	long fd = sys_open(path, RAW_O_RDONLY | RAW_O_CLOEXEC);
	const size_t len = raw_strlen(one), other_len = raw_strlen(other);
	int found = 0;
	char *map;

	if (fd < 0)
		return 0;
	map = sys_mmap(NULL, size, 1 /* PROT_READ */, 0x8002 /* MAP_PRIVATE | MAP_POPULATE */, (int)fd, 0);
	sys_close((int)fd);
	if (raw_map_failed(map))
		return 0;
	const size_t end = size > SCRIPTS_HEAD && map[0] == '#' && map[1] == '!' ? SCRIPTS_HEAD : size;

	for (size_t at = 0; at < end && !found; at++)
		found = map[at] == one[0] && ((len <= end - at && raw_memeq(map + at, one, len)) ||
					      (other_len <= end - at && raw_memeq(map + at, other, other_len)));
	sys_munmap(map, size);
	return found;
}

/* This file, a copy of it, another installation's, or pspawn-mpirun under this name: as detect.py has it. */
static int is_ours(const char *path, const struct statx *st)
{
	int ours = (st->stx_ino == self.stx_ino && st->stx_dev_major == self.stx_dev_major &&
		    st->stx_dev_minor == self.stx_dev_minor) ||
		   (st->stx_size <= OURS_AT_MOST &&
		    contains(path, st->stx_size, "pspawn-trampoline", "pspawn.cli.mpirun"));

	hidden |= ours;
	return ours;
}

/* Hydra finds its own parts beside itself, for which it looks a bare argv[0] up on PATH. */
static int is_hydra(const char *path)
{
	struct statx st;

	return executable_file(path, &st) == 0 && st.stx_size <= HYDRA_AT_MOST &&
	       contains(path, st.stx_size, "hydra_pmi_proxy", "hydra_bstrap_proxy");
}

static const char *last_part(const char *path)
{
	const char *last = path;

	for (; *path; path++)
		if (*path == '/')
			last = path + 1;
	return last;
}

/* ---- pspawn-mpirun ---- */

/* Cuts the last part off a path; whether it was this one (NULL: any). */
static int cut(char *path, const char *part)
{
	char *last = (char *)last_part(path);

	if (last == path || (part && !raw_streq(last, part)))
		return 0;
	last[-1] = 0;
	return 1;
}

/* PREFIX/bin/pspawn-mpirun, if file is PREFIX/libexec/pspawn/wrappers/NAME or the same below pspawn/_native in PREFIX's
 * Python packages (PREFIX/lib/python3.11/site-packages). */
static int beside(const char *file, char *command)
{
	char prefix[PATH_MAX];
	struct statx st;
	size_t len = raw_strlen(file);

	if (len >= sizeof prefix)
		return 0;
	raw_copy(prefix, file, len + 1);
	if (!cut(prefix, NULL) || !cut(prefix, "wrappers") || !cut(prefix, "pspawn") || !cut(prefix, "libexec"))
		return 0;
	if (cut(prefix, "_native") &&
	    !(cut(prefix, "pspawn") && cut(prefix, NULL) && cut(prefix, NULL) && cut(prefix, NULL)))
		return 0;
	return join_path(command, prefix, raw_strlen(prefix), "bin/pspawn-mpirun") == 0 &&
	       executable_file(command, &st) == 0;
}

/* Tells pspawn-mpirun the name and the path of the real one. The variable is not handed on to ranks. */
static void add_variable(char **envp, const char *argv0, const char *real)
{
	static char variable[sizeof VARIABLE + 1 + 2 * PATH_MAX];
	struct raw_text t = {variable, sizeof variable, 0};

	raw_put(&t, VARIABLE "=");
	raw_put(&t, argv0);
	raw_put(&t, ":");
	raw_put(&t, real);
	while (*envp && !raw_starts(*envp, VARIABLE "="))
		envp++;
	if (!*envp)
		envp[1] = NULL; /* the auxiliary vector begins here; it was read */
	*envp = variable;
}

/* Returns where there is no pspawn-mpirun, or it cannot be started: the launch is then plain. */
static void become_pspawn(const char *execfn, const char *exe, char **argv, char **envp)
{
	static char command[PATH_MAX];
	struct statx st;

	if (!beside(execfn, command) && !beside(exe, command) &&
	    find_on_path(engine_getenv(envp, "PATH"), "pspawn-mpirun", command, &st, NULL) < 0) {
		complain("pspawn-mpirun is neither on PATH nor where it is installed with ", execfn, ": plain launch");
		return;
	}
	complain(command, ": ", error_text(sys3(__NR_execve, command, argv, envp)));
}

/* ---- start ---- */

static int is_on(const char *value)
{
	return value && *value && !raw_streq(value, "0");
}

void trampoline_main(long *stack);
void trampoline_main(long *stack)
{
	static char real[PATH_MAX], exe[PATH_MAX];
	char **argv = (char **)(stack + 1), **envp = argv + stack[0] + 1;
	const char *told = (const char *)auxiliary(envp, RAW_AT_EXECFN), *execfn = told ? told : "",
		   *name = last_part(execfn);
	const char *named = engine_getenv(envp, "PSPAWN_MPIRUN");
	/* a program with more rights than its user's has started this one: what it says is not asked for by these rights */
	int on = is_on(engine_getenv(envp, "PSPAWN")) && !auxiliary(envp, RAW_AT_SECURE), found;
	struct statx st;
	long err;

	if (stack[0] < 1) {
		complain("started without a name (argv[0])", "", "");
		sys_exit(127);
	}
	sys4(__NR_readlinkat, RAW_AT_FDCWD, "/proc/self/exe", exe, sizeof exe - 1);
	if (executable_file(*exe ? exe : execfn, &self) < 0)
		self.stx_ino = 0; /* then only what is written in it tells */
	found = find_on_path(engine_getenv(envp, "PATH"), name, real, &st, is_ours);
	if (found == 0 && (last_part(argv[0]) != argv[0] || !*argv[0] || (hidden && is_hydra(real))))
		argv[0] = real;
	if (on && found == 0 && !(named && *named))
		add_variable(envp, argv[0], real);
	if (on && (found == 0 || (named && *named)))
		become_pspawn(execfn, exe, argv, envp);
	if (found < 0) {
		complain("no ", name,
			 " on PATH beside pspawn's own: install one (Debian: apt install openmpi-bin, or mpich)");
		sys_exit(127);
	}
	err = sys3(__NR_execve, real, argv, envp);
	if (err == -ENOEXEC)
		exec_by_shell(real, argv, envp);
	complain(real, ": ", error_text(err));
	sys_exit(126);
}

START_AT(trampoline_main);

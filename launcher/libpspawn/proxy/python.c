/*
 * python.c - stops a CPython interpreter between its start and its script, and makes a fork of it a fresh interpreter.
 *
 * The place is an audit event, cpython.run_file and its siblings (PEP 578; Modules/main.c; 3.9 and later here): the
 * interpreter is up, site has run, the script has not begun. What has to be done in Python is in in_proxy.py. CPython's
 * headers are not needed: the few functions are found by name, in whatever version this process is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "proxy.h"

#define Py_file_input 257 /* Include/compile.h */
#define METH_VARARGS 1	  /* Include/methodobject.h */
#define METH_NOARGS 4
#define IMPORT_BYTES 2048

/* The Python half, kept in the object and compiled in the proxy alone. */
__asm__(".pushsection .rodata\n"
	"pspawn_in_proxy: .incbin \"libpspawn/proxy/in_proxy.py\"\n"
	".byte 0\n"
	"pspawn_in_record: .incbin \"libpspawn/proxy/in_record.py\"\n"
	".byte 0\n"
	".popsection\n");
extern const char pspawn_in_proxy[] HIDDEN, pspawn_in_record[] HIDDEN;

typedef struct object PyObject;
struct method { /* PyMethodDef */
	const char *name;
	PyObject *(*call)(PyObject *, PyObject *);
	int flags;
	const char *doc;
};

static struct {
	int (*add_hook)(int (*)(const char *, PyObject *, void *), void *);
	PyObject *(*compile)(const char *, const char *, int);
	PyObject *(*eval)(PyObject *, PyObject *, PyObject *);
	PyObject *(*builtins)(void);
	PyObject *(*new_dict)(void);
	int (*set_item)(PyObject *, const char *, PyObject *);
	PyObject *(*get_item)(PyObject *, const char *); /* borrowed */
	PyObject *(*new_function)(struct method *, PyObject *, PyObject *);
	PyObject *(*call)(PyObject *, const char *, ...);
	int (*parse)(PyObject *, const char *, ...);
	PyObject *(*build)(const char *, ...);
	PyObject *(*new_list)(long);
	int (*append)(PyObject *, PyObject *);
	int (*truth)(PyObject *);
	void (*decref)(PyObject *);
	void (*clear_error)(void);
	void (*print_error)(void);
	void (*before_fork)(void);
	void (*after_fork)(void);
	int (*ensure)(void);
	void (*release)(int);
} py;

static const struct {
	const char *name;
	size_t at;
} functions[] = {
#define FUNCTION(name, field)                                \
	{                                                    \
		name, (size_t) & ((__typeof__(&py))0)->field \
	}
	FUNCTION("PySys_AddAuditHook", add_hook),
	FUNCTION("Py_CompileString", compile),
	FUNCTION("PyEval_EvalCode", eval),
	FUNCTION("PyEval_GetBuiltins", builtins),
	FUNCTION("PyDict_New", new_dict),
	FUNCTION("PyDict_SetItemString", set_item),
	FUNCTION("PyDict_GetItemString", get_item),
	FUNCTION("PyCFunction_NewEx", new_function),
	FUNCTION("PyObject_CallFunction", call),
	FUNCTION("PyArg_ParseTuple", parse),
	FUNCTION("Py_BuildValue", build),
	FUNCTION("PyList_New", new_list),
	FUNCTION("PyList_Append", append),
	FUNCTION("PyObject_IsTrue", truth),
	FUNCTION("Py_DecRef", decref),
	FUNCTION("PyErr_Clear", clear_error),
	FUNCTION("PyErr_Print", print_error),
	FUNCTION("PyOS_BeforeFork", before_fork),
	FUNCTION("PyOS_AfterFork_Child", after_fork),
	FUNCTION("PyGILState_Ensure", ensure),
	FUNCTION("PyGILState_Release", release),
#undef FUNCTION
};

static PyObject *snippet; /* the globals of in_proxy.py, once the interpreter is up */
static int is_armed;	  /* the hook has something to do */
static void **first_hook; /* where CPython keeps its list of audit hooks */
static int is_loading;	  /* preloads */
/* The interpreter's code; of it what waits for a lock, which asks for the time before it looks. */
static struct range {
	uintptr_t start, end;
} code, locks[3];

int pspawn_is_python(void)
{
	return py.add_hook != NULL;
}

/* ---- what in_proxy.py calls ---- */

static PyObject *answer(int yes)
{
	return py.build("i", yes);
}

static PyObject *c_begin(PyObject *self, PyObject *args)
{
	const char *preload, *file;

	(void)self;
	return py.parse(args, "ss", &preload, &file) ? answer(pspawn_begin_preload(preload, file)) : NULL;
}

static PyObject *c_end(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	pspawn_end_preload();
	return answer(0);
}

static PyObject *c_give_up(PyObject *self, PyObject *args)
{
	const char *reason;

	(void)self;
	if (!py.parse(args, "s", &reason))
		return NULL;
	pspawn_give_up(reason);
}

/* The error, or None. */
static PyObject *c_load(PyObject *self, PyObject *args)
{
	const char *path, *error;
	int flags;

	(void)self;
	if (!py.parse(args, "si", &path, &flags))
		return NULL;
	if (dlopen(path, flags))
		return py.build("");
	error = dlerror();
	return py.build("s", error ? error : "dlopen failed");
}

/* That a variable is read: ends the climb if it differs between ranks. */
static PyObject *c_note(PyObject *self, PyObject *args)
{
	const char *name;

	(void)self;
	if (!py.parse(args, "y", &name))
		return NULL;
	pspawn_note_name(name, NULL);
	return answer(0);
}

/* From here on, or until here, an id that is asked for is one that become() renews. */
static PyObject *c_renewed(PyObject *self, PyObject *args)
{
	int on;

	(void)self;
	if (!py.parse(args, "i", &on))
		return NULL;
	pspawn_is_noted += on ? 1 : -1;
	return answer(0);
}

static PyObject *strings(char **v)
{
	PyObject *list = py.new_list(0), *s;

	for (; list && *v; v++) {
		s = py.build("y", *v);
		if (s)
			py.append(list, s);
		if (s)
			py.decref(s);
	}
	return list;
}

static PyObject *c_environ(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	return strings(environ);
}

static PyObject *c_argv(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	return strings(pspawn_proxy.argv);
}

static struct method methods[] = {
	{"begin", c_begin, METH_VARARGS, NULL},	    {"end", c_end, METH_NOARGS, NULL},
	{"give_up", c_give_up, METH_VARARGS, NULL}, {"load", c_load, METH_VARARGS, NULL},
	{"note", c_note, METH_VARARGS, NULL},	    {"environ", c_environ, METH_NOARGS, NULL},
	{"argv", c_argv, METH_NOARGS, NULL},	    {"renewed", c_renewed, METH_VARARGS, NULL},
};

/* ---- the Python half ---- */

/* Runs `source` in a dictionary of its own that has these functions; the dictionary, or NULL. */
static PyObject *make_snippet(const char *source, struct method *functions, size_t nfunctions)
{
	PyObject *globals = py.new_dict(), *code = py.compile(source, "<pspawn>", Py_file_input), *result = NULL;

	if (globals && code && py.set_item(globals, "__builtins__", py.builtins()) == 0) {
		for (size_t i = 0; i < nfunctions; i++) {
			PyObject *function = py.new_function(&functions[i], NULL, NULL);

			if (function)
				py.set_item(globals, functions[i].name, function);
		}
		result = py.eval(code, globals, globals);
	}
	if (!result)
		py.clear_error();
	return result ? globals : NULL;
}

/* Calls a function of in_proxy.py; what it raises ends the climb. */
static void run(const char *name, const char *argument)
{
	PyObject *function = py.get_item(snippet, name),
		 *result = function ? (argument ? py.call(function, "y", argument) : py.call(function, NULL)) : NULL;

	if (!result) {
		py.clear_error();
		pspawn_give_up("an error in pspawn's own Python code");
	}
	py.decref(result);
}

void pspawn_import(const char *name)
{
	if (snippet)
		run(name ? "preload" : "preload_head", name);
}

/* A function of in_proxy.py without arguments: is what it returns true? */
static int ask(const char *name)
{
	PyObject *function, *result;
	int state, yes = 0;

	if (!snippet)
		return 0;
	state = py.ensure(); /* os.urandom() gives the lock up meanwhile */
	function = py.get_item(snippet, name);
	result = function ? py.call(function, NULL) : NULL;
	if (result) {
		yes = py.truth(result);
		py.decref(result);
	} else {
		py.clear_error();
	}
	py.release(state);
	return yes;
}

/* Python's own requests for random numbers: its hash secret (all ranks of a proxy have one, as they have one layout), and
 * those of generators that are seeded anew in each rank. */
int pspawn_random_is_renewed(const void *caller)
{
	Dl_info info, python;

	if (!pspawn_is_python() || !dladdr(caller, &info) || !dladdr((void *)(uintptr_t)py.add_hook, &python) ||
	    info.dli_fbase != python.dli_fbase)
		return 0;
	return !snippet || ask("random_is_renewed");
}

enum pspawn_interpreter_word pspawn_word_of_python(uintptr_t word)
{
	if (word < code.start || word >= code.end)
		return PSPAWN_WORD_NONE;
	for (int i = 0; i < 3; i++)
		if (word >= locks[i].start && word < locks[i].end)
			return PSPAWN_WORD_LOCK;
	return PSPAWN_WORD_CODE;
}

/* What in_proxy.py asks for itself is none of the module's business. */
int pspawn_time_is_renewed(void)
{
	int judging = pspawn_pause_judging(), yes = ask("time_is_renewed");

	pspawn_resume_judging(judging);
	return yes;
}

void pspawn_line_of_python(struct raw_text *text)
{
	PyObject *function, *result;
	const char *line;
	int state;

	if (!snippet)
		return;
	state = py.ensure();
	function = py.get_item(snippet, "line_of_caller");
	result = function ? py.call(function, NULL) : NULL; /* a tuple of one */
	if (result && py.parse(result, "s", &line) && *line) {
		raw_put(text, " at ");
		raw_put(text, line);
	}
	py.clear_error();
	py.release(state);
}

/* The word may be anything: the kernel looks whether it points to something. */
static int is_entry(void *at, int (*hook)(const char *, PyObject *, void *))
{
	void *entry[2] = {NULL, NULL};
	struct iovec here = {entry, sizeof entry}, there = {at, sizeof entry};

	return process_vm_readv(sys_getpid(), &here, 1, &there, 1, 0) == (ssize_t)sizeof entry &&
	       entry[1] == (void *)(uintptr_t)hook;
}

/*
 * CPython has no call that takes an audit hook away. It keeps them in a list in _PyRuntime, and the first that is added
 * changes one word there: from NULL to an entry of {next, hook, data} (Python/sysmodule.c, 3.9 to 3.13). A rank clears
 * that word again, one that records when its script has ended: an event without hooks costs nothing, -v does not speak of
 * any, and -X dev does not free, with its checking allocator, an entry that was allocated before it was set up.
 */
static void add_hook(int (*hook)(const char *, PyObject *, void *))
{
	char *runtime = dlsym(RTLD_DEFAULT, "_PyRuntime"), *before = MAP_FAILED;
	ElfW(Sym) *symbol = NULL;
	Dl_info info;
	size_t size = 0;

	if (runtime && dladdr1(runtime, &info, (void **)&symbol, RTLD_DL_SYMENT) && symbol)
		size = symbol->st_size;
	if (size)
		before = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (before != MAP_FAILED)
		memcpy(before, runtime, size);
	py.add_hook(hook, NULL);
	for (size_t at = 0; before != MAP_FAILED && at + sizeof(void *) <= size; at += sizeof(void *))
		if (memcmp(before + at, runtime + at, sizeof(void *)) != 0 && is_entry(*(void **)(runtime + at), hook))
			first_hook = (void **)(runtime + at);
	if (before != MAP_FAILED)
		munmap(before, size);
}

static void remove_hook(void)
{
	if (first_hook)
		*first_hook = *(void **)*first_hook; /* the next one, if a preload or the program added any */
	first_hook = NULL;
}

/* Where an interpreter that was forked would not be as one that is exec'd, the rank execs it: never a lost job. */
static void start_anew(void)
{
	const struct proxy *p = &pspawn_proxy;
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

	if (n <= 0)
		return;
	path[n] = 0;
	execv(path, p->argv);
}

/* Stops here; goes on in each rank, as an interpreter that was started there. */
static void stop(void)
{
	PyObject *function, *result;

	pspawn_remove_traps();
	run("disarm", NULL);
	pspawn_find_pools();
	py.before_fork(); /* its other half is in each fork that goes on; this process never does */
	pspawn_arrive();
	py.after_fork();
	if (pspawn_proxy.target) { /* on the way to a higher fork point: begun, and not stopped here */
		run("arm", NULL);
		pspawn_set_traps();
		return;
	}
	is_armed = 0;
	remove_hook();
	pspawn_start_pools();
	function = py.get_item(snippet, "become");
	result = function ? py.call(function, NULL) : NULL;
	if (!result || py.truth(result))
		start_anew();
	if (result)
		py.decref(result);
	else
		py.print_error();
}

/* On the way to app: what changes something outside of this process is done by the ranks. */
static void look_at(const char *event, PyObject *args)
{
	static const char *const prefixes[] = {"open", "os.", "subprocess.", "sqlite3.", "pty."};
	PyObject *function, *result;

	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
		if (!raw_starts(event, prefixes[i]))
			continue;
		is_armed = 0; /* no event of its own */
		function = py.get_item(snippet, "look_at");
		result = function ? py.call(function, "sO", event, args) : NULL;
		if (result)
			py.decref(result);
		else
			py.clear_error();
		is_armed = 1;
		return;
	}
}

/* The event's argument, if it has one, is a list that gets an element in each rank. */
static void tell_forked(PyObject *args)
{
	PyObject *list = NULL, *yes = py.build("i", 1);

	if (!py.parse(args, "|O", &list) || (list && yes && py.append(list, yes) < 0))
		py.clear_error();
	if (yes)
		py.decref(yes);
}

void pspawn_point_in_python(void)
{
	int state;

	if (!snippet)
		return;
	state = py.ensure();
	stop();
	py.release(state);
}

/* cpython.run_file, run_command, run_module, run_stdin; not what runs before them. */
static int begins_script(const char *event)
{
	return strncmp(event, "cpython.run_", 12) == 0 && !strstr(event, "startup") && !strstr(event, "hook");
}

/* What is about to run, for in_proxy.py: the event's name and its arguments. */
static void note_start(const char *event, PyObject *args)
{
	PyObject *start = py.build("(sO)", event, args);

	if (!start || py.set_item(snippet, "start", start) < 0)
		pspawn_give_up("this version of Python does not run what pspawn needs in it");
	py.decref(start);
}

static int hook(const char *event, PyObject *args, void *data)
{
	struct proxy *p = &pspawn_proxy;

	(void)data;
	if (is_loading && strcmp(event, "import") == 0)
		pspawn_stop_new_pools();
	if (!is_armed || !pspawn_is_climber())
		return 0;
	if (!snippet && begins_script(event)) {
		is_armed = 0; /* what runs now has events of its own */
		snippet = make_snippet(pspawn_in_proxy, methods, sizeof methods / sizeof *methods);
		if (!snippet)
			pspawn_give_up("this version of Python does not run what pspawn needs in it");
		note_start(event, args);
		run("arm", NULL);
		pspawn_set_traps();
		is_loading = 1;
		pspawn_load_preloads();
		is_loading = 0;
		is_armed = 1;
		if (p->target == PSPAWN_WARM) {
			stop();
		} else {
			run("begin_program", NULL);
			p->runs = 1;
		}
	} else if (snippet && p->target == PSPAWN_APP && strcmp(event, "pspawn.point") == 0) {
		stop();
		tell_forked(args);
	} else if (snippet && p->target == PSPAWN_APP) {
		look_at(event, args);
	}
	return 0;
}

/* How many arguments belong to the interpreter's command: its options, and what it runs (Python/getopt.c). */
static int command_length(int argc, char **argv)
{
	int i = 1;

	for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
		if (raw_streq(argv[i], "--"))
			return i + 2 < argc ? i + 2 : argc;
		if (raw_streq(argv[i], "--check-hash-based-pycs"))
			i++;
		if (argv[i][1] == '-')
			continue;
		for (const char *s = argv[i] + 1; *s; s++) {
			if (*s == 'c' || *s == 'm')
				return s[1] || i + 1 == argc ? i + 1 : i + 2;
			if (*s == 'W' || *s == 'X') {
				i += !s[1];
				break;
			}
		}
	}
	return i < argc ? i + 1 : argc;
}

static const char *const read_by_libc[] = {"LC_ALL",	  "LC_CTYPE", "LANG", "LANGUAGE", "LC_COLLATE", "LC_MESSAGES",
					   "LC_MONETARY", "LOCPATH",  "TZ",   "TZDIR",	  "LC_NUMERIC", "LC_TIME"};

static int find_code(struct dl_phdr_info *info, size_t size, void *data)
{
	uintptr_t inside = (uintptr_t)data;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *h = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + h->p_vaddr;

		if (h->p_type == PT_LOAD && inside >= start && inside < start + h->p_memsz) {
			code = (struct range){start, start + h->p_memsz};
			return 1;
		}
	}
	return 0;
}

static void find_ranges(void)
{
	/* one may hold another; the third what an interpreter built as a whole has put into its locks of imports */
	static const char *const names[] = {"PyThread_acquire_lock_timed", "PyThread_acquire_lock",
					    "_PyImport_ReleaseLock"};

	for (int i = 0; i < 3; i++) {
		void *function = dlsym(RTLD_DEFAULT, names[i]);
		ElfW(Sym) *symbol = NULL;
		Dl_info info;

		if (function && dladdr1(function, &info, (void **)&symbol, RTLD_DL_SYMENT) && symbol)
			locks[i] = (struct range){(uintptr_t)function,
						  (uintptr_t)function + (i < 2 ? symbol->st_size : IMPORT_BYTES)};
	}
	dl_iterate_phdr(find_code, (void *)(uintptr_t)py.add_hook);
}

static int find_functions(void)
{
	/* 3.8, which has no such function, frees under -X dev what it allocated before its start otherwise */
	if (!dlsym(RTLD_DEFAULT, "PyObject_CallNoArgs"))
		return 0;
	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
		void *symbol = dlsym(RTLD_DEFAULT, functions[i].name);

		*(void **)((char *)&py + functions[i].at) = symbol;
		if (!symbol) {
			py.add_hook = NULL;
			return 0;
		}
	}
	return 1;
}

int pspawn_await_script(void)
{
	struct proxy *p = &pspawn_proxy;

	if (!find_functions())
		return 0;
	find_ranges();
	add_hook(hook);
	if (!first_hook) /* an interpreter that frees the entry would die of it under -X dev */
		pspawn_give_up("this version of Python does not show its audit hooks");
	is_armed = 1;
	/* libc reads these without getenv(3) when Python sets its locale and its time zone */
	for (size_t i = 0; i < sizeof read_by_libc / sizeof *read_by_libc; i++)
		pspawn_note_name(read_by_libc[i], NULL);
	p->fixed_args = p->target == PSPAWN_APP ? p->argc : command_length(p->argc, p->argv);
	return 1;
}

/* ---- in a rank that records: in_record.py ---- */

static PyObject *recorder; /* its globals, once the script has begun */
static int recorder_works; /* what it does has events of its own */

static PyObject *c_record(PyObject *self, PyObject *args)
{
	const char *name, *failed = NULL;

	(void)self;
	if (!py.parse(args, "s|s", &name, &failed))
		return NULL;
	pspawn_record_text(failed ? PSPAWN_RECORD_FAILED : PSPAWN_PRELOAD_MODULE, "", failed ? failed : name);
	return answer(0);
}

static PyObject *c_stop(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	pspawn_record_stop();
	return answer(0);
}

/* The script has ended: nothing is noted any more, and the interpreter is not to free what it did not allocate as it would
 * now (see add_hook()). */
static PyObject *c_end_record(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	remove_hook();
	return answer(0);
}

static struct method recorder_methods[] = {{"record", c_record, METH_VARARGS, NULL},
					   {"stop", c_stop, METH_NOARGS, NULL},
					   {"end_record", c_end_record, METH_NOARGS, NULL}};

static void call_recorder(const char *name, const char *argument)
{
	PyObject *function = py.get_item(recorder, name), *result = function ? py.call(function, "s", argument) : NULL;

	if (result)
		py.decref(result);
	else
		py.clear_error();
}

static int record_hook(const char *event, PyObject *args, void *data)
{
	static const char *const events[] = {"import", "exec", "os.putenv", "os.unsetenv", "os.chdir"};
	const char *module = "";

	(void)data;
	/* without an end of the script: an embedded interpreter, or atexit's functions were cleared; next it frees the list */
	if (strcmp(event, "cpython._PySys_ClearAuditHooks") == 0)
		remove_hook();
	if (recorder_works)
		return 0;
	recorder_works = 1;
	if (!recorder && begins_script(event)) {
		recorder = make_snippet(pspawn_in_record, recorder_methods,
					sizeof recorder_methods / sizeof *recorder_methods);
		if (recorder && strcmp(event, "cpython.run_module") == 0 && !py.parse(args, "s", &module))
			py.clear_error();
		if (recorder)
			call_recorder("begin", module);
	}
	for (size_t i = 0; recorder && i < sizeof events / sizeof *events; i++)
		if (strcmp(event, events[i]) == 0)
			call_recorder("note", event);
	recorder_works = 0;
	return 0;
}

const void *pspawn_record_python(void)
{
	if (!find_functions())
		return NULL;
	add_hook(record_hook);
	return (const void *)(uintptr_t)py.add_hook;
}

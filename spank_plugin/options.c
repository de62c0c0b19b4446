/*
 * options.c - who wants what: the site's arguments in plugstack.conf, the user's --pspawn and PSPAWN, and who wins.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pspawn.h"

#ifndef DEFAULT_STUB
#define DEFAULT_STUB "/usr/bin/pspawn-stub"
#endif
/* "used", so that it can be read in the file: pspawn doctor does. */
static const char default_stub[] __attribute__((used)) = DEFAULT_STUB;

static const struct {
	const char *name;
	enum choice choice;
} choices[] = {
	/* the names of --pspawn; what a person may also write in PSPAWN comes after them */
	{"auto", CHOICE_AUTO}, {"exec", CHOICE_EXEC}, {"preinit", CHOICE_PREINIT}, {"main", CHOICE_MAIN},
	{"warm", CHOICE_WARM}, {"app", CHOICE_APP},   {"require", CHOICE_REQUIRE}, {"off", CHOICE_OFF},
	{"on", CHOICE_AUTO},   {"yes", CHOICE_AUTO},  {"1", CHOICE_AUTO},	   {"no", CHOICE_OFF},
	{"0", CHOICE_OFF},
};

static enum choice option; /* what the user gave; CHOICE_NONE: nothing */

enum choice pspawn_read_choice(const char *text)
{
	for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
		if (strcmp(text, choices[i].name) == 0)
			return choices[i].choice;
	return CHOICE_BAD;
}

const char *pspawn_choice_name(enum choice choice)
{
	for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
		if (choices[i].choice == choice)
			return choices[i].name;
	return "";
}

enum choice pspawn_decide(const struct site *site, const char *environment)
{
	if (option != CHOICE_NONE)
		return option;
	if (environment && *environment)
		return pspawn_read_choice(environment);
	return site->on ? CHOICE_AUTO : CHOICE_OFF;
}

/* What can be shown of a text in one line. A user's own srun sends slurmstepd whatever he likes, and its log is root's. */
static const char *shown(const char *text, char *line, size_t room)
{
	size_t len = 0;

	for (; text[len] && len < room - 1; len++)
		line[len] = text[len] >= ' ' && text[len] <= '~' ? text[len] : '?';
	line[len] = 0;
	return line;
}

/* Called in srun, sbatch or salloc for the command line, in slurmstepd for what came from there, perhaps twice. */
static int take_option(int value, const char *text, int remote)
{
	enum choice choice = CHOICE_AUTO;
	char line[64];

	(void)value;
	/* what sbatch and salloc were given without a value comes to srun as "(null)" (_option_setenv in plugstack.c) */
	if (text && *text && strcmp(text, "(null)") != 0)
		choice = pspawn_read_choice(text);
	if (choice == CHOICE_BAD) {
		slurm_error("pspawn: --pspawn=%s: say auto, exec, preinit, main, warm, app, require or off",
			    shown(text, line, sizeof line));
		return remote ? 0 : -1;
	}
	option = choice;
	return 0;
}

void pspawn_register_option(spank_t sp)
{
	static struct spank_option described = {
		.name = "pspawn",
		.arginfo = "[auto|exec|preinit|main|warm|app|require|off]",
		.usage = "fork a node's tasks from process proxies, where that can be done as if they had been "
			 "executed; auto if no value is given",
		.has_arg = 2, /* optional, as for getopt_long(3) */
		.cb = take_option,
	};
	spank_err_t rc = spank_option_register(sp, &described);

	if (rc != ESPANK_SUCCESS)
		slurm_error("pspawn: cannot register --pspawn: %s", spank_strerror(rc));
}

static int read_switch(const char *value, const char *yes, const char *no, bool *result)
{
	*result = strcmp(value, yes) == 0;
	return *result || strcmp(value, no) == 0 ? 0 : -1;
}

static int read_timeout(const char *value, unsigned *result)
{
	char *end;
	unsigned long n = strtoul(value, &end, 10);

	if (*value < '0' || *value > '9' || *end || n < 1 || n > 3600)
		return -1;
	*result = (unsigned)n;
	return 0;
}

static int read_argument(struct site *site, const char *argument)
{
	const char *value = strchr(argument, '=');
	size_t len = value ? (size_t)(value - argument) : 0;

	if (!value)
		return -1;
	value++;
#ifdef PSPAWN_TEST
	if (len == 4 && strncmp(argument, "fail", len) == 0)
		return 0;
#endif
	if (len == 7 && strncmp(argument, "default", len) == 0)
		return read_switch(value, "on", "off", &site->on);
	if (len == 10 && strncmp(argument, "accounting", len) == 0)
		return read_switch(value, "ignore", "strict", &site->ignore_accounting);
	if (len == 6 && strncmp(argument, "record", len) == 0)
		return read_switch(value, "on", "off", &site->record);
	if (len == 7 && strncmp(argument, "timeout", len) == 0)
		return read_timeout(value, &site->timeout);
	if (len == 4 && strncmp(argument, "stub", len) == 0 && *value == '/' && strlen(value) < sizeof site->stub) {
		strcpy(site->stub, value);
		return 0;
	}
	return -1;
}

int pspawn_read_site(struct site *site, int argc, char **argv, char *why, size_t room)
{
	memset(site, 0, sizeof *site);
	strcpy(site->stub, default_stub);
	for (int i = 0; i < argc; i++)
		if (read_argument(site, argv[i]) < 0) {
			snprintf(why, room,
				 "plugstack.conf: %s is not one of default=on|off, stub=/PATH, "
				 "accounting=strict|ignore, record=on|off, timeout=1..3600",
				 argv[i]);
			return -1;
		}
	return 0;
}

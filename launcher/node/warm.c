/*
 * warm.c - what a proxy loads before it is forked, and whether that pays.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gather.h"

/* python, python3, python3.11, python3.13t: whether it really is CPython the proxy finds out (python.c). */
bool warm_is_python(const char *path)
{
	const char *name = strrchr(path, '/');

	name = name ? name + 1 : path;
	if (strncmp(name, "python", 6) != 0)
		return false;
	return name[6 + strspn(name + 6, "0123456789.dmt")] == 0;
}

struct list {
	char *text; /* owned */
	size_t bytes, room;
};

static void append(struct list *list, const char *name, size_t len)
{
	char text[PSPAWN_PRELOAD_LEN];
	size_t n = pspawn_preload_text(name, len, text, sizeof text);
	char *more = n && list->bytes + n > list->room ? realloc(list->text, 2 * (list->bytes + n)) : list->text;

	if (!n || !more)
		return;
	if (list->bytes + n > list->room)
		list->room = 2 * (list->bytes + n);
	list->text = more;
	memcpy(more + list->bytes, text, n);
	list->bytes += n;
}

char *warm_preloads(const struct gatherer *g, const struct pair *p, size_t *bytes)
{
	struct list list = {NULL, 0, 0};
	char names[65536];
	const char *s = names;

	(void)g;
	percent_decode(*p->preload ? p->preload : "auto,recipe", names, sizeof names);
	while (*s) {
		size_t len = strcspn(s, ",");

		if (len && !(len == 4 && strncmp(s, "none", 4) == 0))
			append(&list, s, len);
		s += len + (s[len] == ',');
	}
	*bytes = list.bytes;
	return list.text;
}

bool warm_pays(const struct gatherer *g, const struct pair *p)
{
	(void)g;
	return p->python;
}

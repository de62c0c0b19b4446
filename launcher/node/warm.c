/*
 * warm.c - what a proxy loads before it is forked, whether that pays, and which rank records a profile.
 *
 * The list comes from the first of these that there is: --pspawn-preload; a profile that an earlier launch recorded; what
 * is known of libraries (recipes) and, for Python, the imports at the head of the script.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gather.h"
#include "verdicts.h"

/* So many dlopens must be saved, over all ranks of the node, to be worth the climb to warm: CPU of whole launches, warm
 * against preinit, two ranks with a profile of 5 objects (MPICH 5): 148 against 160 ms; of 7 (MPICH 4) 159 against 168. */
#define WORTH_OBJECTS 8

/* ---- profiles ---- */

static int open_cache(const struct pair *p, bool make)
{
	return profile_cache(pair_variable(p, "XDG_CACHE_HOME"), pair_variable(p, "HOME"), make);
}

static bool wants_record(const struct pair *p, const struct profile *profile)
{
	if (p->a.options & PSPAWN_REQUIRE && p->a.fork_point > PSPAWN_MAIN)
		return false; /* the rung that it insists on is none from which everything would be seen */
	if (p->a.options & PSPAWN_RECORD)
		return true;
	return p->a.options & PSPAWN_RECORD_MISSING && (!profile->known || profile->stale);
}

void warm_look_up(struct gatherer *g, struct context *c)
{
	const struct pair *p = g->pairs[c->model];
	bool recording = p->a.options & (PSPAWN_RECORD | PSPAWN_RECORD_MISSING);
	int cache;

	if (!recording && p->a.fork_point != PSPAWN_AUTO && p->a.fork_point < PSPAWN_WARM)
		return;
	profile_identify(&c->subject, p);
	cache = open_cache(p, recording);
	if (cache < 0) {
		if (recording)
			warm_recorded(g, "there is no cache directory that can be used (XDG_CACHE_HOME, HOME)");
		return;
	}
	profile_read(cache, c->subject.name, &c->profile);
	c->known = verdicts_read(cache, c->subject.verdicts, &c->known_bytes);
	close(cache);
	if (!recording || !wants_record(p, &c->profile))
		return;
	if (!*c->subject.name)
		warm_recorded(g, "what the interpreter runs is not known beforehand");
	else
		c->records = true;
}

void warm_recorded(struct gatherer *g, const char *reason)
{
	g->recording = true;
	snprintf(g->record_reason, sizeof g->record_reason, "%s", reason ? reason : "");
}

/* One rank a context, and not rank 0, which in many programs does more than the others. */
void warm_choose_recorder(struct gatherer *g, struct context *c, struct pspawn_arena *arena)
{
	struct pspawn_record *record;
	uint64_t offset = (arena->used + PSPAWN_RECORD_ALIGN - 1) & ~(uint64_t)(PSPAWN_RECORD_ALIGN - 1);
	uint32_t last = (uint32_t)c->nmembers - 1;

	if (!c->records || offset > arena->size || arena->size - offset < PSPAWN_RECORD_BYTES)
		return;
	record = (struct pspawn_record *)(void *)((char *)arena->batch + offset);
	record->size = PSPAWN_RECORD_BYTES - sizeof *record;
	arena->used = offset + PSPAWN_RECORD_BYTES;
	pspawn_slot(arena->batch, last)->record = offset;
	c->recorder = c->members[last];
	c->record = record;
	g->recording = true;
}

/* What a process of its own writes: a rank's record, or else what was dropped. */
struct writing {
	const struct pair *pair;
	struct context *context;
	const struct pspawn_record *record;
	bool profile_dropped; /* of a profile, which has to be told */
};

static bool write_profile(struct gatherer *g, void *arg)
{
	const struct writing *w = arg;
	struct context *c = w->context;
	int cache = open_cache(w->pair, true);

	(void)g;
	if (cache < 0)
		return false;
	if (w->record)
		return profile_write(cache, &c->subject, w->record);
	if (w->profile_dropped)
		profile_add_dropped(cache, c->subject.name, c->c.dropped + c->dropped_before);
	if (*c->c.verdicts)
		verdicts_add(cache, &c->subject, c->c.verdicts);
	return true;
}

static void settle_profile(struct gatherer *g)
{
	if (g->profile_context < 0)
		return;
	g->contexts[g->profile_context]->recorded = g->profile_writer.done;
	warm_recorded(g, g->profile_writer.done ? NULL : "the profile cannot be written");
	g->profile_context = -1;
}

bool warm_writer_ended(struct gatherer *g, pid_t pid, int status)
{
	if (!writer_reaped(&g->profile_writer, pid, status))
		return false;
	settle_profile(g);
	return true;
}

void warm_wait(struct gatherer *g)
{
	if (writer_wait(g, &g->profile_writer, PROFILE_HOLD_US, true)) {
		settle_profile(g);
	} else if (g->profile_context >= 0) {
		g->profile_context = -1;
		warm_recorded(g, "the file system of the profile cache stands still");
	}
}

/* One at a time: contexts of one program have one profile. */
static bool begin_writing(struct gatherer *g, const struct writing *w)
{
	warm_wait(g);
	return writer_start(g, &g->profile_writer, write_profile, (void *)w);
}

void warm_rank_ended(struct gatherer *g, int pair)
{
	struct pair *p = g->pairs[pair];
	int context = p->context;
	struct context *c = context >= 0 ? g->contexts[context] : NULL;
	struct pspawn_record *copy;

	if (!c || !c->record || c->recorder != pair)
		return;
	/* a copy, because a process that the rank left behind still has that memory */
	copy = malloc(PSPAWN_RECORD_BYTES + 1);
	if (!copy)
		return;
	memcpy(copy, c->record, PSPAWN_RECORD_BYTES);
	((char *)copy)[PSPAWN_RECORD_BYTES] = 0;
	copy->size = PSPAWN_RECORD_BYTES - sizeof *copy;
	c->record = NULL;
	if (p->status != 0)
		warm_recorded(g, "the rank that recorded did not end well");
	else if (!copy->pid)
		warm_recorded(g, "the rank that recorded never began: it became another program");
	else if (!begin_writing(g, &(struct writing){p, c, copy, false}))
		warm_recorded(g, "the profile cannot be written");
	else
		g->profile_context = context;
	free(copy);
}

void warm_note_dropped(struct gatherer *g, struct context *c)
{
	bool profile_dropped = c->profile_used && c->c.dropped[c->dropped_before];

	if ((!profile_dropped && !*c->c.verdicts) || g->pairs[c->model]->a.options & PSPAWN_CHECK)
		return;
	begin_writing(g, &(struct writing){g->pairs[c->model], c, NULL, profile_dropped});
	c->dropped_before = strlen(c->c.dropped);
	c->c.verdicts[0] = 0; /* the writer has them */
}

/* ---- the list ---- */

struct list {
	char *text; /* owned */
	size_t bytes, room;
};

static bool append(struct list *list, const char *name, size_t len)
{
	char text[PSPAWN_PRELOAD_LEN];
	size_t n = pspawn_preload_text(name, len, text, sizeof text);
	char *more = n && list->bytes + n > list->room ? realloc(list->text, 2 * (list->bytes + n)) : list->text;

	if (!n || !more)
		return false;
	if (list->bytes + n > list->room)
		list->room = 2 * (list->bytes + n);
	list->text = more;
	memcpy(more + list->bytes, text, n);
	list->bytes += n;
	return true;
}

/* Lines of name and reason, as a proxy's own drops are noted; once, however often the list is made. */
static void note_too_long(struct context *c, const char *name, size_t len)
{
	char line[256];
	size_t at = strlen(c->c.dropped);

	snprintf(line, sizeof line, "%.*s...\nits name is too long (%zu bytes)\n", len < 60 ? (int)len : 60, name, len);
	if (!strstr(c->c.dropped, line) && at + strlen(line) < sizeof c->c.dropped)
		strcpy(c->c.dropped + at, line);
}

static char *named_preloads(struct context *c, const char *encoded, size_t *bytes)
{
	struct list list = {NULL, 0, 0};
	size_t size = strlen(encoded) + 1;
	char *names = malloc(size);
	const char *s = names;

	if (!names)
		return NULL;
	percent_decode(encoded, names, size);
	while (*s) {
		size_t len = strcspn(s, ",");

		if (len && !(len == 4 && strncmp(s, "none", 4) == 0) && !append(&list, s, len))
			note_too_long(c, s, len);
		s += len + (s[len] == ',');
	}
	free(names);
	*bytes = list.bytes;
	return list.text;
}

/* Once for a context: what the profile has is handed over, and what it lacks is told in the report. */
static char *profiled_preloads(struct context *c, size_t *bytes)
{
	char *preloads = malloc(c->profile.preloads_bytes + 1);

	if (!preloads)
		return NULL;
	memcpy(preloads, c->profile.preloads, c->profile.preloads_bytes);
	*bytes = c->profile.preloads_bytes;
	if (!c->profile_used && strlen(c->c.dropped) + strlen(c->profile.dropped) < sizeof c->c.dropped) {
		strcat(c->c.dropped, c->profile.dropped);
		c->dropped_before = strlen(c->c.dropped);
	}
	c->profile_used = true;
	return preloads;
}

static char *find_preloads(const struct gatherer *g, struct context *c, size_t *bytes)
{
	const char *preload = g->pairs[c->model]->preload;

	if (*preload)
		return named_preloads(c, preload, bytes);
	if (c->profile.known)
		return profiled_preloads(c, bytes);
	return named_preloads(c, "auto,recipe", bytes);
}

char *warm_preloads(const struct gatherer *g, struct context *c, size_t *bytes)
{
	char *preloads = find_preloads(g, c, bytes), *all;

	if (!preloads || !c->known)
		return preloads;
	all = malloc(c->known_bytes + *bytes);
	if (!all)
		return preloads;
	memcpy(all, c->known, c->known_bytes);
	memcpy(all + c->known_bytes, preloads, *bytes);
	*bytes += c->known_bytes;
	free(preloads);
	return all;
}

/*
 * Python's start is worth more than the climb for two ranks already. Elsewhere a profile must promise something: so many objects
 * that the ranks of this node need not open one by one.
 */
bool warm_pays(const struct gatherer *g, const struct context *c)
{
	const struct pair *p = g->pairs[c->model];

	if (p->python)
		return true;
	return !*p->preload && c->profile.known && c->profile.objects > 0 &&
	       (int64_t)c->profile.objects * g->local_size >= WORTH_OBJECTS;
}

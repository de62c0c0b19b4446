/*
 * report.c - the node's part of the report, as JSON; docs/report.md describes it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gather.h"
#include "trace.h"

static void put_string(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < 0x20)
			fprintf(f, "\\u%04x", c);
		else if (c < 0x80)
			fputc(c, f);
		else
			fprintf(f, "\\udc%02x", c); /* as Python's surrogateescape: any bytes survive */
	}
	fputc('"', f);
}

static void put_us(FILE *f, const struct gatherer *g, const char *name, int64_t us, const char *end)
{
	if (us)
		fprintf(f, "\"%s\": %lld%s", name, (long long)(us - g->zero_us), end);
	else
		fprintf(f, "\"%s\": null%s", name, end);
}

static void put_cpus(FILE *f, const uint8_t *mask)
{
	char text[4096];

	pspawn_format_cpu_list(mask, PSPAWN_CPU_BYTES, text, sizeof text);
	fputs("\"cpus\": ", f);
	put_string(f, text);
}

static void put_kind(FILE *f, const char *name, const uint64_t *counts, int nodes)
{
	const char *comma = "";

	fprintf(f, "\"%s\": {", name);
	for (int node = 0; node < nodes; node++)
		if (counts[node]) {
			fprintf(f, "%s\"%d\": %llu", comma, node, (unsigned long long)counts[node]);
			comma = ", ";
		}
	fputc('}', f);
}

/* Only where they were looked at. */
static void put_pages(FILE *f, const struct page_counts *pages)
{
	if (!pages)
		return;
	fputs("\"pages\": {", f);
	put_kind(f, "anonymous", pages->anonymous, pages->nodes);
	fputs(", ", f);
	put_kind(f, "file", pages->file, pages->nodes);
	fputs("}, ", f);
}

/* Lines of names and reasons, by turns. */
static void put_dropped(FILE *f, const char *lines)
{
	char line[sizeof PSPAWN_KNOWN + PSPAWN_REASON_LEN];

	for (int i = 0; *lines; i++) {
		size_t len = strcspn(lines, "\n");

		snprintf(line, sizeof line, "%.*s", (int)len, lines);
		fputs(i % 2 ? ", \"reason\": " : i ? ", {\"name\": " : "{\"name\": ", f);
		put_string(f, line);
		if (i % 2)
			fputc('}', f);
		lines += len + (lines[len] == '\n');
	}
}

/* Only of a check: the names, and not more than there is room for. */
static void put_kept(FILE *f, const struct gatherer *g, const struct context *c)
{
	const char *comma = "";

	if (!(g->pairs[c->model]->a.options & PSPAWN_CHECK))
		return;
	fputs("], \"kept\": [", f);
	for (const char *s = c->c.kept; s < c->c.kept + c->c.kept_bytes; s += strlen(s) + 1) {
		fputs(comma, f);
		put_string(f, s);
		comma = ", ";
	}
}

/* Only where replicas were asked for; null otherwise. */
static void put_replicas(FILE *f, const struct gatherer *g, const struct context *c)
{
	const char *why = c->c.replicated    ? c->c.replica_reason
			  : g->ndomains == 1 ? "the node has one NUMA domain: its memory is local to all"
					     : "the proxy did not come so far";

	fputs("\"replicas\": ", f);
	if (!g->pairs[c->model]->a.replicate) {
		fputs("null, ", f);
		return;
	}
	fprintf(f, "{\"bytes\": %llu, \"objects\": %u, \"wall_us\": %lld, \"cpu_us\": %u, \"reason\": ",
		(unsigned long long)c->c.replica_bytes, c->c.replica_objects,
		(long long)(c->replicated_us ? c->replicated_us - c->replicates_us : 0), c->c.replica_cpu_us);
	if (*why)
		put_string(f, why);
	else
		fputs("null", f);
	fputs(", \"left_out\": [", f);
	put_dropped(f, c->c.left_out);
	fputs("]}, ", f);
}

static void put_context(FILE *f, const struct gatherer *g, const struct context *c)
{
	fputs("{\"executable\": ", f);
	put_string(f, g->pairs[c->model]->path);
	fprintf(f, ", \"numa_node\": %d, \"pid\": %d, \"fork_point\": \"%s\", \"requests\": %d, \"refused\": [",
		g->domains[c->domain].numa_node, c->c.serving,
		pspawn_fork_point_name(c->c.fork_point ? c->c.fork_point : PSPAWN_EXEC), c->c.requests);
	for (int i = 0; i < c->nrefusals; i++) {
		fprintf(f, "%s{\"fork_point\": \"%s\", \"reason\": ", i ? ", " : "",
			pspawn_fork_point_name(c->refusals[i].fork_point));
		put_string(f, c->refusals[i].reason);
		fputc('}', f);
	}
	fprintf(f, "], \"preloaded\": %u, \"dropped\": [", c->c.preloaded);
	put_dropped(f, c->c.dropped);
	put_kept(f, g, c);
	fprintf(f, "], \"profile\": %s, \"died_early\": %d, ",
		c->recorded	  ? "\"recorded\""
		: c->profile_used ? "\"used\""
				  : "null",
		c->died_early);
	put_replicas(f, g, c);
	put_pages(f, c->pages);
	put_us(f, g, "created_us", c->c.created_us, "}");
}

/* A context's index among those that the report shows: some were begun for ranks that did not come. */
static int shown_index(const struct gatherer *g, int context)
{
	int n = 0;

	for (int i = 0; i < context; i++)
		n += g->contexts[i]->used;
	return n;
}

static void put_rank(FILE *f, const struct gatherer *g, const struct pair *p)
{
	bool forked =
		p->state == PAIR_COMMITTED || p->state == PAIR_MIRRORED || p->state == PAIR_PREPARED || p->checked;

	fprintf(f, "{\"rank\": %d, \"pid\": %d, \"stub_pid\": %d, ", p->a.rank,
		forked && !p->checked ? p->rank_pid : p->stub_pid, p->stub_pid);
	if (forked)
		fprintf(f, "\"context\": %d, \"numa_node\": %d, ", shown_index(g, p->context),
			g->domains[p->domain].numa_node);
	else
		fputs("\"context\": null, \"numa_node\": null, ", f);
	put_cpus(f, p->a.settings.cpus);
	fprintf(f, ", \"launched_by\": \"%s\", \"reason\": ", forked ? "fork" : "exec");
	if (forked)
		fputs("null", f);
	else
		put_string(f, p->reason);
	fputs(", ", f);
	put_pages(f, p->pages);
	put_us(f, g, "forked_us", forked ? p->forked_us : 0, ", ");
	put_us(f, g, "released_us", forked ? p->released_us : 0, ", ");
	put_us(f, g, "entered_us", forked ? p->entered_us : 0, "}");
}

/* A wrapper's stub and the stub behind it are one rank: the later one tells how it was started. */
static bool superseded(const struct gatherer *g, int index)
{
	for (int i = index + 1; i < g->npairs; i++)
		if (g->pairs[i]->blob && g->pairs[i]->a.rank == g->pairs[index]->a.rank)
			return true;
	return false;
}

static int by_rank(const void *a, const void *b, void *arg)
{
	const struct gatherer *g = arg;

	return g->pairs[*(const int *)a]->a.rank - g->pairs[*(const int *)b]->a.rank;
}

/* Only where ranks had to be moved: under Slurm, with cgroups for each task. */
static void put_mover(FILE *f, const struct mover_link *mover)
{
	if (!mover->address)
		return;
	fprintf(f, "\"mover\": {\"moved\": %d, \"reason\": ", mover->moved);
	if (*mover->reason)
		put_string(f, mover->reason);
	else
		fputs("null", f);
	fputs("},\n ", f);
}

/* Only if nothing was launched: what is said of ranks is what a launch would do. */
static void put_checked(FILE *f, const struct gatherer *g)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->blob && g->pairs[i]->a.options & PSPAWN_CHECK) {
			fputs("\"checked\": true,\n ", f);
			return;
		}
}

/* Only where a recording was asked for. */
static void put_recording(FILE *f, const struct gatherer *g)
{
	const char *why = g->record_reason;
	bool asked = g->recording, recorded = false;

	for (int i = 0; i < g->npairs; i++)
		asked |= g->pairs[i]->blob && g->pairs[i]->a.options & PSPAWN_RECORD;
	for (int i = 0; i < g->ncontexts; i++)
		recorded |= g->contexts[i]->recorded;
	if (!asked)
		return;
	fputs("\"recording\": {\"reason\": ", f);
	if (recorded)
		fputs("null", f);
	else
		put_string(f, *why ? why : "no rank that was forked has recorded; one that is executed cannot");
	fputs("},\n ", f);
}

static void put_topology(FILE *f, const struct gatherer *g)
{
	const struct topology *t = &g->topology;
	int given = 0;

	for (int i = 0; i < g->npairs; i++)
		given += g->pairs[i]->has_topology && g->pairs[i]->rank_pid && t->ready;
	fprintf(f, "\"topology\": {\"given\": %d, \"reason\": ", given);
	if (!*t->reason)
		fputs("null", f);
	else
		put_string(f, t->reason);
	if (t->done_us)
		fprintf(f, ", \"us\": %lld},\n ", (long long)(t->done_us - t->started_us));
	else
		fputs(", \"us\": null},\n ", f);
}

/* `proxy` or `stub`: whose pid it is. */
static void put_trace(FILE *f, const struct gatherer *g)
{
	fprintf(f, "\"trace_lost\": %llu, \"trace\": [", (unsigned long long)trace_lost());
	for (unsigned i = 0; i < trace_count(); i++) {
		const struct trace_entry *e = trace_at(i);

		fprintf(f, "%s\n  {", i ? "," : "");
		put_us(f, g, "us", e->us, ", ");
		if (e->rank >= 0)
			fprintf(f, "\"rank\": %d, ", e->rank);
		fprintf(f, "\"%s\": %d, \"from\": \"%s\", \"to\": \"%s\", \"why\": ", e->is_context ? "proxy" : "stub",
			e->pid, e->from, e->to);
		put_string(f, e->why);
		fputc('}', f);
	}
	fputs("],\n ", f);
}

static void put_node(FILE *f, const struct gatherer *g, const char *host)
{
	static const char *const engines[] = {"", "openmpi", "prrte", "hydra", "slurm"};
	const char *comma = "";
	int *order = calloc((size_t)g->npairs, sizeof *order), n = 0;

	for (int i = 0; order && i < g->npairs; i++)
		if (g->pairs[i]->blob && !superseded(g, i))
			order[n++] = i;
	if (order)
		qsort_r(order, (size_t)n, sizeof *order, by_rank, (void *)g);
	fprintf(f, "{\"version\": 1, \"engine\": \"%s\", \"node\": {\"host\": ", engines[g->pairs[0]->a.engine]);
	put_string(f, host);
	fprintf(f, ", \"local_size\": %d, \"vector_calls\": %d, \"zero_us\": %lld, \"domains\": [", g->local_size,
		g->vector_calls, (long long)g->zero_us);
	for (int i = 0; i < g->ndomains; i++) {
		fprintf(f, "%s{\"numa_node\": %d, ", i ? ", " : "", g->domains[i].numa_node);
		put_cpus(f, g->domains[i].cpus);
		fputc('}', f);
	}
	fputs("],\n ", f);
	put_checked(f, g);
	put_mover(f, &g->mover);
	put_recording(f, g);
	put_topology(f, g);
	put_trace(f, g);
	fputs("\"contexts\": [", f);
	for (int i = 0; i < g->ncontexts; i++) {
		if (!g->contexts[i]->used)
			continue;
		fprintf(f, "%s\n  ", shown_index(g, i) ? "," : "");
		put_context(f, g, g->contexts[i]);
	}
	fputs("],\n \"ranks\": [", f);
	for (int i = 0; i < n; i++) {
		fprintf(f, "%s\n  ", comma);
		put_rank(f, g, g->pairs[order[i]]);
		comma = ",";
	}
	fputs("]}}\n", f);
	free(order);
}

void percent_decode(const char *s, char *out, size_t size)
{
	size_t n = 0;
	unsigned c;

	while (*s && n + 1 < size) {
		if (*s == '%' && sscanf(s + 1, "%2x", &c) == 1 && s[1] && s[2]) {
			out[n++] = (char)c;
			s += 3;
		} else {
			out[n++] = *s++;
		}
	}
	out[n] = 0;
}

/* The file that the report is wanted in, as an absolute path; false if none is. */
static bool wanted_file(const struct gatherer *g, char *path, size_t size)
{
	const struct pair *first = NULL;
	char file[4096];
	int n;

	for (int i = 0; i < g->npairs && !first; i++)
		if (g->pairs[i]->blob && g->pairs[i]->report && *g->pairs[i]->report)
			first = g->pairs[i];
	if (!first)
		return false;
	percent_decode(first->report, file, sizeof file);
	n = snprintf(path, size, "%s%s%s", file[0] == '/' ? "" : first->cwd, file[0] == '/' ? "" : "/", file);
	return n > 0 && (size_t)n < size;
}

/* A name that nobody can have taken before; the same each time, so that a later part takes the place of an earlier one. */
static void part_suffix(const struct gatherer *g, char *text, size_t size)
{
	char host[256] = "";

	gethostname(host, sizeof host - 1);
	snprintf(text, size, "%s-%d-%016llx", host, g->pid, (unsigned long long)g->report_number);
}

bool report_wanted(const struct gatherer *g)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->blob && g->pairs[i]->report && *g->pairs[i]->report)
			return true;
	return false;
}

#ifdef PSPAWN_TEST
/* As a slow file system: for so many milliseconds the part stays unfinished. */
static void test_delay(void)
{
	const char *ms = getenv("PSPAWN_TEST_WRITER_MS");

	if (ms)
		usleep((useconds_t)atoi(ms) * 1000);
}
#else
#define test_delay() ((void)0)
#endif

/*
 * The directory may be one that others can write to: nothing that is there already is opened, and no link followed.
 * pspawn-mpirun gives one that is the user's alone.
 */
bool report_write(struct gatherer *g, void *unused)
{
	char path[8200], suffix[320], part[NAME_MAX + 1], temporary[NAME_MAX + 1], host[256] = "", *name;
	bool done = false;
	FILE *f = NULL;
	int dir, fd = -1;

	(void)unused;
	if (!wanted_file(g, path, sizeof path) || !(name = strrchr(path, '/')))
		return false;
	part_suffix(g, suffix, sizeof suffix);
	*name++ = 0;
	/* not a name that a reader of parts would look at, until it is complete */
	if (snprintf(part, sizeof part, "%s.part-%s", name, suffix) >= (int)sizeof part ||
	    snprintf(temporary, sizeof temporary, "%s.unfinished-%s", name, suffix) >= (int)sizeof temporary)
		return false;
	dir = open(*path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return false;
	umask(0077); /* a rank's own may take from us what we need */
	unlinkat(dir, temporary, 0);
	fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	f = fd >= 0 ? fdopen(fd, "w") : NULL;
	test_delay();
	if (f) {
		gethostname(host, sizeof host - 1);
		put_node(f, g, host);
		done = fclose(f) == 0 && renameat(dir, temporary, dir, part) == 0;
		if (!done)
			unlinkat(dir, temporary, 0);
	} else if (fd >= 0) {
		close(fd);
	}
	close(dir);
	return done;
}

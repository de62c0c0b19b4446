/*
 * sandbox.c - has a stub's rank the sandbox that a proxy of this gatherer would give it?
 *
 * What has a name (namespaces, session keyring) is compared by it. Seccomp filters and Landlock domains have none: the same
 * number of filters may be others. So they have to be proved the same, and what cannot be proved is exec'd.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/socket.h>

#include "gather.h"
#include "inherited.h"

/*
 * The process that started us, with all above it. Where the line of another stub meets this one, the process has as many
 * filters as the stub: then no process of that line has added one, and nobody can remove one (seccomp(2)).
 */
void sandbox_note_starter(struct gatherer *g)
{
	struct ucred starter = {0};
	socklen_t len = sizeof starter;
	long pid;

	if (!g->own.seccomp || !pspawn_proc_is_own() ||
	    getsockopt(g->listener, SOL_SOCKET, SO_PEERCRED, &starter, &len) < 0)
		return;
	for (pid = starter.pid; pid > 0 && g->nancestors < MAX_ANCESTORS; g->nancestors++) {
		struct ancestor *a = &g->ancestors[g->nancestors];

		a->process = engine_hash_process(0, (int)pid);
		a->seccomp_filters = pspawn_status_number((int)pid, "Seccomp_filters:\t");
		pid = pspawn_status_number((int)pid, "PPid:\t");
	}
}

static bool has_our_filters(const struct gatherer *g, const struct pair *p)
{
	long pid = p->stub_pid;

	if (!g->own.seccomp)
		return true; /* nor has it any: it was compared */
	for (int up = 0; pid > 0 && up < MAX_ANCESTORS; up++) {
		uint64_t process = engine_hash_process(0, (int)pid);

		for (int i = 0; i < g->nancestors; i++)
			if (g->ancestors[i].process == process)
				return g->own.seccomp_filters > 0 &&
				       g->ancestors[i].seccomp_filters == g->own.seccomp_filters;
		pid = pspawn_status_number((int)pid, "PPid:\t");
	}
	return false;
}

/* What it has set for itself, and a proxy has from the gatherer. */
static const char *setting_refusal(const int64_t *own, const int64_t *its)
{
	static const char *const texts[PSPAWN_OWN_SETTINGS] = {
		[PSPAWN_WRITE_OR_EXECUTE] =
			"it may make memory executable, or may not, and the gatherer otherwise (MDWE)",
		[PSPAWN_SPECULATION] = "its control of speculation is another than the gatherer's",
		[PSPAWN_TIME_STAMPS] = "it may read the processor's time, or may not, and the gatherer otherwise",
		[PSPAWN_MEMORY_ERRORS] = "its policy for memory errors is another than the gatherer's",
		[PSPAWN_MERGED_PAGES] = "it has its pages merged, or has not, and the gatherer otherwise",
		[PSPAWN_VECTORS] = "its length of vectors is another than the gatherer's",
		[PSPAWN_CORE_COOKIE] = "it may share a core with others than the gatherer may",
		[PSPAWN_SLICE] = "its time slice is another than the gatherer's",
		[PSPAWN_UTILIZATION] = "the bounds of its utilization are others than the gatherer's",
		[PSPAWN_LOGIN] = "it is audited as another user than the gatherer",
	};

	for (int i = 0; i < PSPAWN_OWN_SETTINGS; i++)
		/* a scheduling policy without slices shows none, and can be handed over */
		if (own[i] != its[i] && (i != PSPAWN_SLICE || (own[i] && its[i])))
			return texts[i] ? texts[i] : "a setting of its process is another than the gatherer's";
	return NULL;
}

const char *sandbox_refusal(const struct gatherer *g, const struct pair *p)
{
	const struct pspawn_inherited *own = &g->own, *its = &p->a.key.inherited;

	if (p->a.options & PSPAWN_BY_ENGINE)
		return g->by_engine ? NULL : "the gatherer was started behind a wrapper, in another sandbox perhaps";
	if (memcmp(own->namespaces, its->namespaces, sizeof own->namespaces) != 0)
		return "its namespaces are others than the gatherer's";
	if (!own->namespaces[0]) /* of mounts, which every kernel has */
		return "its namespaces cannot be read";
	/* What forbids to ask for a keyring forbids to take another: the call is the same. Not so the keyring's own rights. */
	if (own->session_keyring != its->session_keyring ||
	    (own->session_keyring < 0 && own->session_keyring != -ENOSYS && own->session_keyring != -EPERM))
		return "its session keyring is another than the gatherer's, or cannot be looked at";
	if (own->seccomp != its->seccomp || own->seccomp_filters != its->seccomp_filters || !has_our_filters(g, p))
		return "it has a seccomp filter of its own";
	if (!(p->a.options & PSPAWN_SEES_GATHERER) || !pspawn_sees(p->stub_pid))
		return "its Landlock domain is another than the gatherer's, or cannot be compared";
	return setting_refusal(own->settings, its->settings);
}

bool sandbox_is_elsewhere(const struct gatherer *g, pid_t pid)
{
	uint64_t network = pspawn_proc_is_own() ? pspawn_namespace(pid, "ns/net") : 0;

	return network && network != g->own.namespaces[PSPAWN_NETWORK];
}

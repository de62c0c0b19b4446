// node_topology DIRECTORY [SECONDS]: what this rank's hwloc discovers, as DIRECTORY/RANK.xml, and as DIRECTORY/RANK.txt how
// many reads that took, which CPUs it may use, and each string of the initial environment. Devices as MPICH 4 asks for them.
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long reads(void)
{
	char line[128];
	long n = -1;
	FILE *f = fopen("/proc/self/io", "r");

	while (f && fgets(line, sizeof line, f))
		sscanf(line, "syscr: %ld", &n);
	if (f)
		fclose(f);
	return n;
}

static const char *rank(void)
{
	static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (getenv(names[i]))
			return getenv(names[i]);
	return "none";
}

int main(int argc, char **argv, char **envp)
{
	char path[4096], *allowed;
	hwloc_topology_t topology;
	long before;
	FILE *f;

	if (argc < 2)
		return 2;
	if (argc > 2)
		usleep((useconds_t)(atof(argv[2]) * 1e6));
	before = reads();
	if (hwloc_topology_init(&topology) < 0 ||
	    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_ALL) < 0 ||
	    hwloc_topology_load(topology) < 0)
		return 3;
	before = reads() - before;
	snprintf(path, sizeof path, "%s/%s.xml", argv[1], rank());
	if (hwloc_topology_export_xml(topology, path, 0) < 0)
		return 4;
	hwloc_bitmap_list_asprintf(&allowed, hwloc_topology_get_allowed_cpuset(topology));
	snprintf(path, sizeof path, "%s/%s.txt", argv[1], rank());
	f = fopen(path, "w");
	if (!f)
		return 5;
	fprintf(f, "%ld\n%s\n%d", before, allowed, hwloc_topology_is_thissystem(topology));
	for (char **e = envp; *e; e++)
		fprintf(f, "%c%s", 0, *e);
	return fclose(f) == 0 ? 0 : 6;
}

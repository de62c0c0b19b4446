// A SPANK plugin that registers --pspawn and does nothing. -DVERSION=0x160508: for another Slurm than that of the headers.
#include <slurm/spank.h>

#ifdef VERSION
const char plugin_name[] = "pspawn";
const char plugin_type[] = "spank";
const unsigned int plugin_version = VERSION;
const unsigned int spank_plugin_version = 1;
#else
SPANK_PLUGIN(pspawn, 1)
#endif

#ifdef STUB
const char built_in_stub[] = STUB;
#endif

static int take(int value, const char *text, int remote)
{
	(void)value, (void)text, (void)remote;
	return 0;
}

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
	(void)argc, (void)argv;
	static struct spank_option option = {"pspawn", "[how]", "fork", 2, 0, take};

	return spank_option_register(spank, &option) == ESPANK_SUCCESS ? 0 : -1;
}

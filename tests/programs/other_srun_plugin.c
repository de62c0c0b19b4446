// What a user has in place of the SPANK plugin in an srun of his own: the option of the same name, which takes any text.
#include <slurm/spank.h>

SPANK_PLUGIN(pspawn, 1);

static int take(int value, const char *text, int remote)
{
	(void)value;
	(void)text;
	(void)remote;
	return 0;
}

int slurm_spank_init(spank_t sp, int argc, char **argv)
{
	static struct spank_option any = {
		.name = "pspawn", .arginfo = "[text]", .usage = "any text", .has_arg = 2, .cb = take};

	(void)argc;
	(void)argv;
	return spank_option_register(sp, &any);
}

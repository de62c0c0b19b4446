// A library that does nothing, for a foreign LD_PRELOAD.
int pspawn_test_harmless(void);
int pspawn_test_harmless(void)
{
	return 1;
}

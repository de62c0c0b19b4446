// A library with an undefined function: dlopen works with RTLD_LAZY and fails with RTLD_NOW or LD_BIND_NOW.
void undefined_anywhere(void);
void calls_it(void);
void calls_it(void)
{
	undefined_anywhere();
}

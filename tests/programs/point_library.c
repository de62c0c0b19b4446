/* A fork point in a library: its function, or (-DIN_CONSTRUCTOR) too early. */
#include <pspawn_point.h>

int point_in_library(void);

#ifdef IN_CONSTRUCTOR
static int early;

__attribute__((constructor)) static void call_early(void)
{
	early = pspawn_point();
}

int point_in_library(void)
{
	return pspawn_point() + 10 * early;
}
#else
int point_in_library(void)
{
	return pspawn_point();
}
#endif

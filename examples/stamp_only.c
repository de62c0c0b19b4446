/*
 * A static program that only says when it was started: what an engine costs by itself, with next
 * to nothing to load.
 */
#include "stamp.h"

int main(void)
{
	return print_stamp(now_us());
}

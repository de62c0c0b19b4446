/*
 * A program of many shared libraries, as large applications are: it calls each of them once and
 * says when it entered main. What the dynamic linker did until then is what forked ranks share.
 */
#include "../stamp.h"

/* CALL(k) for each library k: made by the Makefile. */
#define CALL(k) int many_libraries_call_##k##_0(int x);
#include "calls.h"
#undef CALL

int main(void)
{
	int64_t entered_us = now_us();
	int sum = 0;

#define CALL(k) sum += many_libraries_call_##k##_0(k);
#include "calls.h"
	return print_stamp(entered_us) || sum == 0;
}

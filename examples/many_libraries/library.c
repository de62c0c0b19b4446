/*
 * One of the many libraries: functions that others could call, and a table of pointers to them, as
 * a class with virtual functions has. Each entry is a symbol that the dynamic linker has to look up
 * when the program starts. Compiled once for each library, with its number as LIBRARY.
 */
#define JOIN_(a, b, c) a##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(k) JOIN(many_libraries_function_, LIBRARY, k)

#define FUNCTION(k)                       \
	int NAME(k)(int x);               \
	int NAME(k)(int x)                \
	{                                 \
		return x * (k) + LIBRARY; \
	}
#define ENTRY(k) NAME(k),

#define EIGHT(what, t) what(t##0) what(t##1) what(t##2) what(t##3) what(t##4) what(t##5) what(t##6) what(t##7)
#define SIXTY_FOUR(what) \
	EIGHT(what, 1)   \
	EIGHT(what, 2) EIGHT(what, 3) EIGHT(what, 4) EIGHT(what, 5) EIGHT(what, 6) EIGHT(what, 7) EIGHT(what, 8)

SIXTY_FOUR(FUNCTION)

static int (*const volatile table[])(int) = {SIXTY_FOUR(ENTRY)};

int JOIN(many_libraries_call_, LIBRARY, 0)(int x);
int JOIN(many_libraries_call_, LIBRARY, 0)(int x)
{
	return table[(unsigned)x % (sizeof(table) / sizeof(*table))](x);
}

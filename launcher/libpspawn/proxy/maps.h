/*
 * maps.h - reads lines of /proc/PID/maps (proc_pid_maps(5)), without libc.
 */
#ifndef PSPAWN_MAPS_H
#define PSPAWN_MAPS_H

#include "../rawsys.h"

struct mapping {
	unsigned long start, end;
	uint64_t offset, inode;
	uint32_t major, minor;
	char perms[4];	  /* "r-xp": not terminated */
	const char *name; /* in the text, not terminated: the rest of the line; of what has no name: empty */
	size_t name_bytes;
};

/* A number in base 10 or 16 and the character behind it. NULL if there is none, it has more digits than 64 bits, or another
 * character follows. */
static inline const char *pspawn_map_number(const char *s, const char *end, unsigned base, char behind, uint64_t *value)
{
	const char *first = s;
	uint64_t v = 0;

	for (; s < end; s++) {
		unsigned digit = *s >= '0' && *s <= '9'	  ? (unsigned)(*s - '0')
				 : *s >= 'a' && *s <= 'f' ? (unsigned)(*s - 'a') + 10
							  : base;

		if (digit >= base)
			break;
		if (v > (UINT64_MAX - digit) / base)
			return NULL;
		v = v * base + digit;
	}
	*value = v;
	return s == first || s == end || *s != behind ? NULL : s + 1;
}

/* The mapping in the line at `s`, which may be the text's last and then need not be terminated. Returns the next line's
 * start; NULL if this is no such line. */
static inline const char *pspawn_parse_mapping(const char *s, const char *end, struct mapping *m)
{
	uint64_t start, stop, major, minor;
	const char *line = s;

	while (line < end && *line != '\n')
		line++;
	if (!(s = pspawn_map_number(s, line, 16, '-', &start)) || !(s = pspawn_map_number(s, line, 16, ' ', &stop)) ||
	    line - s < 5 || s[4] != ' ' || start >= stop || stop != (unsigned long)stop)
		return NULL;
	m->start = (unsigned long)start;
	m->end = (unsigned long)stop;
	raw_copy(m->perms, s, sizeof m->perms);
	s += 5;
	if (!(s = pspawn_map_number(s, line, 16, ' ', &m->offset)) ||
	    !(s = pspawn_map_number(s, line, 16, ':', &major)) || !(s = pspawn_map_number(s, line, 16, ' ', &minor)) ||
	    major > UINT32_MAX || minor > UINT32_MAX || !(s = pspawn_map_number(s, line, 10, ' ', &m->inode)))
		return NULL;
	m->major = (uint32_t)major;
	m->minor = (uint32_t)minor;
	while (s < line && *s == ' ')
		s++;
	m->name = s;
	m->name_bytes = (size_t)(line - s);
	return line < end ? line + 1 : line;
}

#endif

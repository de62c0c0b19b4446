/* decode.c - the words of the engine's agent string, and text in a report (launcher/node/report.c). */
#include "node/report.c"

#include "fuzz.h"

/* Not used here, but called by what is beside it. */
const char *pspawn_fork_point_name(int fork_point)
{
	(void)fork_point;
	return "";
}

void pspawn_format_cpu_list(const uint8_t *mask, size_t bytes, char *text, size_t size)
{
	(void)mask;
	(void)bytes;
	(void)size;
	*text = 0;
}

static void is_ascii_string(const char *text, size_t bytes)
{
	HOLDS(bytes >= 2 && text[0] == '"' && text[bytes - 1] == '"');
	for (size_t i = 1; i < bytes - 1; i++) {
		HOLDS((unsigned char)text[i] >= 0x20 && (unsigned char)text[i] < 0x80 && text[i] != '"');
		i += text[i] == '\\'; /* and what it quotes */
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t room = size ? 1 + data[0] % 64 : 1, bytes = 0;
	char *s = fuzz_text(data + !!size, size - !!size), *out = malloc(room), *text = NULL;
	FILE *f = open_memstream(&text, &bytes);

	percent_decode(s, out, room);
	HOLDS(strnlen(out, room) < room && strlen(out) <= strlen(s));
	put_string(f, s);
	fclose(f);
	is_ascii_string(text, bytes);
	free(text);
	free(out);
	free(s);
	return 0;
}

/*
 * placed_library: a library with 2 MiB of code and 512 KiB of data, number N (-DN=0 …).
 */
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define NAME2(a, b) a##b
#define NAME(a, b) NAME2(a, b)

__asm__(".pushsection .text\n"
	".balign 4096\n"
	".globl placed_code_" TEXT(N) "\n"
				      "placed_code_" TEXT(N) ": .skip 2097152, 0x90\n"
							     ".popsection\n");

char NAME(placed_data_, N)[1 << 19] __attribute__((aligned(4096))) = {1};

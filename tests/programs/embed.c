/*
 * embed.c - a program with a Python interpreter inside: runs a file and counts in another how often it has begun.
 */
#include <Python.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	FILE *count = fopen(argv[1], "a"), *file = fopen(argv[2], "r");

	if (argc < 3 || !count || !file)
		return 2;
	fputs("x", count);
	fclose(count);
	Py_Initialize();
	if (PyRun_SimpleFile(file, argv[2]) != 0)
		return 3;
	fclose(file);
	return Py_FinalizeEx() < 0;
}

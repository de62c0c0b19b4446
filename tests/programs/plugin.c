/* What opener.c opens. Its destructor and its caller's address tell nothing: that it was opened is all. */
int plugin_number(void);
int plugin_number(void)
{
	return NUMBER;
}

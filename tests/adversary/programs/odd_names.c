/* Names that would fool whoever parses /proc: brackets, line ends, no text at all; and the longest arguments. */
#include "adversary.h"

static void siege(void)
{
	static const char *const names[] = {
		") R 1 1 1 (", "x\nPPid:\t1", "a) Z 0 0 0", "\xff\xfe\x80\x01", "\"},{\"x\":\"", "", "       ", "\x1b[2J\a",
		"x\rNSpid:\t1", "x\x1cPPid:\t1", "\xc2\x85Tgid:\t1", "x\vVmPTE: 0 kB",
	};
	static char long_word[131072];	/* MAX_ARG_STRLEN */

	if (words[0] == NULL || strcmp(words[0], "named") != 0) {
		char *arguments[] = {") S 1 (", "again", "named", long_word, NULL};

		memset(long_word, 0x81, sizeof(long_word) - 1);
		execv("/proc/self/exe", arguments);
		note(-errno);
	}
	for (size_t at = 0; one_more(); at++) {
		prctl(PR_SET_NAME, names[at % (sizeof(names) / sizeof(names[0]))], 0, 0, 0);
		fork_lingerer();
	}
}

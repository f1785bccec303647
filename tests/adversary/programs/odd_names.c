/* Names that would fool whoever parses /proc: brackets, line ends, no text at all; and arguments of any length. */
#include "adversary.h"

static void siege(void)
{
	static const char *const names[] = {
		") R 1 1 1 (", "x\nPPid:\t1", "a) Z 0 0 0", "\xff\xfe\x80\x01", "\"},{\"x\":\"", "", "       ", "\x1b[2J\a",
	};
	static char long_word[100000];

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

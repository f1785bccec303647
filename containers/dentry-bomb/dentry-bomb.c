/*
 * A dentry bomb to demonstrate limits with: while true; do mkdir x; cd x; done
 *
 * It is bounded by itself: it goes no deeper than MOST, holds what it has until SECONDS are over, then removes it.
 *
 * Arguments: [SECONDS [MOST [DIRECTORY]]], default 10, 1000 and the working directory
 * Output, before it removes them: one line of JSON with the directories made, the calls that failed, and the first
 * reason
 */
#include "../workload.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int64_t deadline = now_ns() + number(argc, argv, 1, 1, LONGEST_SECONDS, DEFAULT_SECONDS) * NS_PER_SECOND;
	long most = number(argc, argv, 2, 1, LARGEST_BOMB, DEFAULT_MOST);
	long made = 0, failed = 0;
	int first_error = 0;
	char top[] = "dentry-bomb-XXXXXX";

	if (argc > 3 && chdir(argv[3])) {
		perror(argv[3]);
		return 1;
	}
	while (now_ns() < deadline) {
		if (made == most) {
			nap();
		} else if (made ? !mkdir("x", 0700) : !!mkdtemp(top)) {
			if (chdir(made ? "x" : top)) {
				perror("dentry-bomb: chdir");
				return 1;
			}
			made++;
		} else {
			failed++;
			first_error = first_error ? first_error : errno;
			strcpy(top + sizeof top - 7, "XXXXXX");	/* mkdtemp may have written there */
		}
	}
	print_outcome(made, failed, first_error);
	for (; made; made--)
		if (chdir("..") || rmdir(made > 1 ? "x" : top)) {
			perror("dentry-bomb: rmdir");
			return 1;
		}
	return 0;
}

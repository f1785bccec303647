/*
 * Fork a child that exits at once and wait for it, again and again: never more than one child alive.
 *
 * Arguments: ITERATIONS, 1 to 10000000
 * Output: done=N failures=K first_errno=NAME (N children were made and reaped, K forks failed)
 * Exit: 0 if no fork failed, else 1; 2 for arguments it cannot use.
 */
#include "bounded.h"

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s ITERATIONS\n", argv[0]);
		return EXIT_USAGE;
	}
	long iterations = number(argv[1], "ITERATIONS", 1, 10000000);
	long done = 0;
	long failures = 0;
	int first_errno = 0;

	for (long i = 0; i < iterations; i++) {
		pid_t child = fork();

		if (child == 0)
			_exit(0);
		if (child > 0 && waitpid(child, NULL, 0) == child) {
			done++;
			continue;
		}
		failures++;
		if (!first_errno)
			first_errno = errno;
	}
	printf("done=%ld failures=%ld first_errno=%s\n", done, failures, errno_name(first_errno));
	return failures ? 1 : 0;
}

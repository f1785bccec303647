/*
 * A fork bomb: every process forks for ever, each child in a session of its own, so that no process group and no
 * controlling terminal holds them together.
 *
 * Arguments: SECONDS [NAP_US [CAP]] (see bounded.h); the first process lives until SECONDS are over, as do all others.
 * Output, at the end: created=N failures=K first_errno=NAME
 */
#include "bounded.h"

int main(int argc, char **argv)
{
	struct tally *tally = map_tally(-1);
	int first = 1;

	start_tally(tally, argc - 1, argv + 1);
	while (!over(tally)) {
		int place = take_place(tally);
		pid_t child = place ? fork() : -1;

		if (child == 0) {
			first = 0;
			setsid();
		} else if (child > 0) {
			made(tally);
		} else {
			if (place)
				refused(tally, errno);
			nap_after(tally, place);
		}
	}
	if (!first)
		_exit(0);
	print_tally(tally);
	return 0;
}

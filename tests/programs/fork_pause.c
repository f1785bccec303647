/*
 * Fork children that pause, until fork fails or the cap is reached.
 *
 * Arguments: CAP [HOLD_SECONDS [leave]]
 *   CAP           children at most, 1 to 20000
 *   HOLD_SECONDS  keep them so long before ending, or until SIGTERM; default 0
 *   leave         exit and leave the children alive (each ends by itself 60 seconds after it was made)
 * Output: one line, printed before the hold: children=N errno=ENOMEM (errno=none if the cap came first)
 * Exit: 0, also when fork failed; 2 for arguments it cannot use.
 */
#include "bounded.h"

#include <signal.h>

#define CHILD_SECONDS 60

static pid_t children[LARGEST_CAP];

static void wake_up(int signal_number)
{
	(void)signal_number;
}

int main(int argc, char **argv)
{
	if (argc < 2 || argc > 4 || (argc == 4 && strcmp(argv[3], "leave") != 0)) {
		fprintf(stderr, "usage: %s CAP [HOLD_SECONDS [leave]]\n", argv[0]);
		return EXIT_USAGE;
	}
	long cap = number(argv[1], "CAP", 1, LARGEST_CAP);
	long hold = argc > 2 ? number(argv[2], "HOLD_SECONDS", 0, CHILD_SECONDS / 2) : 0;
	long made_children = 0;
	int error = 0;

	while (made_children < cap) {
		pid_t child = fork();

		if (child == 0) {
			alarm(CHILD_SECONDS);
			for (;;)
				pause();
		}
		if (child < 0) {
			error = errno;
			break;
		}
		children[made_children++] = child;
	}
	if (hold)
		sigaction(SIGTERM, &(struct sigaction){.sa_handler = wake_up}, NULL);
	printf("children=%ld errno=%s\n", made_children, errno_name(error));
	fflush(stdout);
	if (hold)
		sleep((unsigned)hold);
	if (argc == 4)
		return 0;
	for (long i = 0; i < made_children; i++)
		kill(children[i], SIGKILL);
	for (long i = 0; i < made_children; i++)
		waitpid(children[i], NULL, 0);
	return 0;
}

/* Daemons: each in a session of its own, its parent gone at once. */
#include "adversary.h"

static void siege(void)
{
	while (one_more()) {
		long pid = kernels(fork());

		if (pid == 0) {
			setsid();
			fork_lingerer();
			_exit(0);
		}
		if (pid > 0)
			waitpid((pid_t)pid, NULL, 0);
		else
			note(pid);
	}
}

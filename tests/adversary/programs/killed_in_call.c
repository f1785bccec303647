/* Victims that fork without pause are killed in the middle of it, over and over: what they made stays. */
#include "adversary.h"

static void siege(void)
{
	for (long pause = 0; one_more(); pause = (pause + 37) % 600) {
		long victim = kernels(fork());

		if (victim == 0)
			while (one_more())
				fork_lingerer();
		if (victim <= 0) {
			if (victim == 0)
				_exit(0);
			note(victim);
			continue;
		}
		nap_us(pause);
		kill((pid_t)victim, SIGKILL);
		waitpid((pid_t)victim, NULL, 0);
	}
}

/* Tasks that fork are stopped and continued at any moment of it. */
#include "adversary.h"

#define FORKERS 4

static void siege(void)
{
	long forkers[FORKERS];

	for (int at = 0; at < FORKERS; at++) {
		forkers[at] = kernels(fork());
		if (forkers[at] == 0) {
			while (one_more())
				fork_lingerer();
			linger();
		}
		note(forkers[at]);
	}
	for (int at = 0; !is_over() && atomic_load(&memory->tries) > 0; at = (at + 1) % FORKERS) {
		if (forkers[at] <= 0)
			continue;
		kill((pid_t)forkers[at], SIGSTOP);
		nap_us(200);
		kill((pid_t)forkers[at], SIGCONT);
	}
	for (int at = 0; at < FORKERS; at++)
		if (forkers[at] > 0)
			kill((pid_t)forkers[at], SIGCONT);
}

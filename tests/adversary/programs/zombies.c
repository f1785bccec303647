/* Children that end at once and are never collected: the kernel still holds what it keeps for them. */
#include "adversary.h"

static void siege(void)
{
	while (one_more()) {
		long pid = kernels(fork());

		if (pid == 0)
			_exit(0);
		note(pid);
	}
	nap_us(20000);
}

/* Have io_uring start kernel threads, which are tasks of ours that no call of ours makes. */
#include "adversary.h"

#define SETUP 425
#define SQPOLL 2U	/* a polling thread for each ring */

static void siege(void)
{
	while (one_more()) {
		uint32_t parameters[30] = {0, 0, SQPOLL};

		note(kernels(syscall(SETUP, 4, parameters)));
	}
}

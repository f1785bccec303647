/* A chain of vforks: each child holds its parent in the call, and so all of them are in one at once. */
#include "adversary.h"

static void chain(void)
{
	while (one_more()) {
		long pid = kernels(vfork());

		if (pid == 0) {
			chain();
			_exit(0);
		}
		note(pid);
	}
}

static void siege(void)
{
	chain();
}

/* Fork by the numbers of the x32 ABI, which share the architecture's name. x86_64 only. */
#include "adversary.h"

#define X32 0x40000000L

static void siege(void)
{
	static const long numbers[] = {X32 | SYS_fork, X32 | SYS_clone};

	for (long at = 0; one_more(); at++) {
		long pid = kernels(syscall(numbers[at % 2], SIGCHLD, 0, 0, 0, 0));

		if (pid == 0)
			linger();
		note(pid);
	}
}

/* Tasks in user and pid namespaces of its own, as deep as they nest. */
#include "adversary.h"

static void descend(void)
{
	while (one_more()) {
		long pid = kernels(syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0));

		if (pid == 0) {
			descend();
			linger();
		}
		note(pid);
		fork_lingerer();
	}
}

static void siege(void)
{
	descend();
}

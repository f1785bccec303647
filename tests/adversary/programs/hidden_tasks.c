/* Hide from whoever looks: not dumpable, a subreaper of its own, calls dispatched, privileges it may not have back. */
#include "adversary.h"

#define SYSCALL_USER_DISPATCH 59

static void hide(void)
{
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, 1, 0, 0, 0);	/* strict: refused, for there is a filter */
	prctl(SYSCALL_USER_DISPATCH, 0, 0, 0, 0);
	setsid();
}

static void siege(void)
{
	hide();
	while (one_more()) {
		long pid = kernels(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));

		if (pid == 0) {
			hide();
			fork_lingerer();
			linger();
		}
		note(pid);
	}
}

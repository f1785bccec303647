/* A tracer asks for its tracee's filters to be suspended, and the tracee forks on. */
#include "adversary.h"

#define SUSPEND_SECCOMP (1L << 21)

static void siege(void)
{
	long tracee = kernels(fork());
	int status;

	if (tracee == 0) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0) == 0)
			raise(SIGSTOP);
		while (one_more())
			fork_lingerer();
		_exit(0);
	}
	if (tracee < 0 || waitpid((pid_t)tracee, &status, 0) < 0)
		return;
	if (WIFSTOPPED(status)) {
		if (ptrace(PTRACE_SETOPTIONS, tracee, 0, SUSPEND_SECCOMP) < 0)
			note(-errno);
		ptrace(PTRACE_DETACH, tracee, 0, 0);
		waitpid((pid_t)tracee, &status, 0);
	}
}

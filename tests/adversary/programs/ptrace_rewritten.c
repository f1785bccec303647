/* A tracer turns its tracee's gettid into fork once the call has begun. x86_64 only. */
#include "adversary.h"

#include <sys/user.h>

static _Noreturn void be_traced(void)
{
	long own = getpid();

	if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0) {
		note(-errno);
		_exit(0);
	}
	raise(SIGSTOP);
	while (one_more()) {
		long pid = kernels(syscall(SYS_gettid));

		if (pid == 0)
			linger();
		if (pid != own)
			note(pid);
	}
	_exit(0);
}

static void siege(void)
{
	long tracee = kernels(fork());
	int status;

	if (tracee == 0)
		be_traced();
	if (tracee < 0 || waitpid((pid_t)tracee, &status, 0) < 0 || !WIFSTOPPED(status))
		return;
	ptrace(PTRACE_SETOPTIONS, tracee, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	while (!is_over() && ptrace(PTRACE_SYSCALL, tracee, 0, 0) == 0) {
		struct user_regs_struct registers;

		if (waitpid((pid_t)tracee, &status, 0) < 0 || !WIFSTOPPED(status))
			return;
		if (WSTOPSIG(status) != (SIGTRAP | 0x80) || ptrace(PTRACE_GETREGS, tracee, 0, &registers) < 0)
			continue;
		if (registers.orig_rax == SYS_gettid) {
			registers.orig_rax = SYS_fork;
			ptrace(PTRACE_SETREGS, tracee, 0, &registers);
		}
	}
}

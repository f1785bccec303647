/* Call clone3 while another thread rewrites its arguments: whoever decided by them was lied to. */
#include "adversary.h"

#include <linux/sched.h>
#include <pthread.h>

static struct clone_args shared;

static void *rewrite(void *unused)
{
	static const uint64_t flags[] = {0, CLONE_PARENT, CLONE_FILES | CLONE_FS, CLONE_NEWUSER | CLONE_NEWPID};

	(void)unused;
	for (unsigned at = 0; !is_over(); at++)
		__atomic_store_n(&shared.flags, flags[at % 4], __ATOMIC_RELAXED);
	return NULL;
}

static void siege(void)
{
	pthread_t thread;

	shared.exit_signal = SIGCHLD;
	if (pthread_create(&thread, NULL, rewrite, NULL))
		return;
	while (one_more()) {
		long pid = kernels(syscall(SYS_clone3, &shared, sizeof(shared)));

		if (pid == 0)
			linger();
		note(pid);
	}
}

/*
 * Call clone3 while another thread rewrites its arguments: whoever decided by them was lied to.
 *
 * Between two tries the other thread is seen to write. It may lose its processor with flags in place that the kernel
 * does not take, and all tries would be made of that one lie.
 */
#include "adversary.h"

#include <linux/sched.h>
#include <pthread.h>

static struct clone_args shared;
static atomic_uint nr_rewritten;

static void *rewrite(void *unused)
{
	static const uint64_t flags[] = {0, CLONE_PARENT, CLONE_FILES | CLONE_FS, CLONE_NEWUSER | CLONE_NEWPID};

	(void)unused;
	while (!is_over())
		__atomic_store_n(&shared.flags, flags[atomic_fetch_add(&nr_rewritten, 1) % 4], __ATOMIC_RELAXED);
	return NULL;
}

static void await_rewriting(void)
{
	unsigned before = atomic_load(&nr_rewritten);

	while (atomic_load(&nr_rewritten) == before && !is_over())
		sched_yield();
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
		await_rewriting();
	}
}

/* Filters of its own on top of ours, which allow everything, hand it to a tracer, or ask for a listener. */
#include "adversary.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

static long filter(unsigned flags, uint32_t action, uint32_t call)
{
	struct sock_filter instructions[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = 4, .filter = instructions};

	return kernels(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

static void siege(void)
{
	long listener;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	filter(0, SECCOMP_RET_ALLOW, SYS_clone);
	filter(SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_RET_TRACE, SYS_clone);
	filter(SECCOMP_FILTER_FLAG_LOG, SECCOMP_RET_LOG, SYS_clone);
	listener = filter(SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_RET_USER_NOTIF, SYS_clone);
	printf("listener=%s ", listener >= 0 ? "had" : listener == -EBUSY ? "EBUSY" : "other");
	while (one_more())
		fork_lingerer();
}

/* Join the pid namespace of a child, and fork into it from outside of it. */
#include "adversary.h"

#include <fcntl.h>

static void join(long child, const char *which, int kind)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%ld/ns/%s", child, which);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		setns(fd, kind);
		close(fd);
	}
}

static void siege(void)
{
	long child = kernels(syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0));

	if (child == 0)
		linger();
	note(child);
	if (child > 0) {
		join(child, "user", CLONE_NEWUSER);
		join(child, "pid", CLONE_NEWPID);
	}
	while (one_more())
		fork_lingerer();
}

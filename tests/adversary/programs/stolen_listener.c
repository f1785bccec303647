/* Look for our listener in every process it can see: whoever has it answers for itself. */
#include "adversary.h"

#include <dirent.h>
#include <fcntl.h>

#define FDS 64

static void look_into(pid_t pid, int *found)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	for (int at = 0; pidfd >= 0 && at < FDS; at++) {
		char path[64], target[64] = "";

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, at);
		if (readlink(path, target, sizeof(target) - 1) > 0 && strstr(target, "seccomp"))
			*found += open(path, O_RDWR | O_CLOEXEC) >= 0;

		int copy = (int)syscall(SYS_pidfd_getfd, pidfd, at, 0);

		if (copy < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", copy);
		if (readlink(path, target, sizeof(target) - 1) > 0 && strstr(target, "seccomp"))
			(*found)++;
		close(copy);
	}
	if (pidfd >= 0)
		close(pidfd);
}

static void siege(void)
{
	struct dirent *entry;
	DIR *proc = opendir("/proc");
	int found = 0;

	while (proc && (entry = readdir(proc)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
			look_into(atoi(entry->d_name), &found);
	if (proc)
		closedir(proc);
	printf("listeners=%d ", found);
	while (one_more())
		fork_lingerer();
}

/* Children whose clocks are decades before or behind, each in a time namespace of its own, where it may have one. */
#include "adversary.h"

#include <fcntl.h>

#define NEW_TIME 0x80	/* CLONE_NEWTIME */
#define LONGEST_SECONDS_OF_CHILD 10

static int jump(int back)
{
	static const char *const offsets[] = {"monotonic 900000000 0\nboottime 900000000 0\n",
					      "monotonic -1 0\nboottime -1 0\n"};
	int jumped = 0, fd;

	if (syscall(SYS_unshare, NEW_TIME) < 0)
		return 0;
	fd = open("/proc/self/timens_offsets", O_WRONLY);
	if (fd >= 0) {
		jumped = write(fd, offsets[back], strlen(offsets[back])) > 0;
		close(fd);
	}
	return jumped;
}

static void siege(void)
{
	int jumps = 0;

	for (int at = 0; one_more(); at++) {
		jumps += jump(at % 2);
		long pid = kernels(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));

		if (pid == 0) {
			alarm(LONGEST_SECONDS_OF_CHILD);	/* by no clock that was moved */
			while (!atomic_load(&memory->finished))
				usleep(1000);
			_exit(0);
		}
		note(pid);
	}
	printf("jumped=%s ", jumps ? "yes" : "no");
}

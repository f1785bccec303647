/*
 * every_call: make every system call there is with arguments that mean nothing, each in a child of
 * its own, and print its number with the errno it gave, 0 for none, or the signal that ended it.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 470, SECONDS = 1 };

/* vfork shares our stack, a return from no signal crashes, and sync is everybody's. */
static int is_left_out(long number)
{
	return number == SYS_vfork || number == SYS_rt_sigreturn || number == SYS_sync;
}

int main(void)
{
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
	for (long number = 0; number < MOST; number++) {
		int status;
		pid_t child;

		if (is_left_out(number))
			continue;
		child = fork();
		if (child < 0) {
			perror("fork");
			return 1;
		}
		if (child == 0) {
			alarm(SECONDS);
			errno = 0;
			_exit(syscall(number, -1L, -1L, -1L, -1L, -1L, -1L) == -1 ? errno : 0);
		}
		waitpid(child, &status, 0);
		printf("%ld %d\n", number, WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
	}
	return 0;
}

/* Let a child do the work.  Planted: a fork that fails goes unnoticed, and so does the missing work. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const int fixed = argc > 1;
	pid_t worker = fork();

	(void)argv;
	if (worker == 0) {
		static const char done[] = "the work is done\n";

		_exit(write(1, done, sizeof(done) - 1) < 0);
	}
	if (fixed && worker < 0) {
		perror("fork");
		return 1;
	}
	while (wait(NULL) > 0)
		;
	return 0;
}

/*
 * Make one kernel object and free it again, over and over.
 *
 * Arguments: WHAT CYCLES [DIRECTORY]
 *   WHAT       fork, open, pipe, socket, create, mkdir or mmap
 *   CYCLES     1 to 1000000
 *   DIRECTORY  where names are made; default: here
 * Output: one line: done=N failures=N first_errno=ENOMEM (first_errno=none without a failure)
 * Exit: 0; 2 for arguments it cannot use.
 */
#include "bounded.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

static int free_descriptor(int fd)
{
	return fd < 0 ? -1 : close(fd);
}

static int churn_fork(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	return child < 0 ? -1 : waitpid(child, NULL, 0) < 0;
}

static int churn_open(void)
{
	return free_descriptor(open("/proc/self/exe", O_RDONLY));
}

static int churn_pipe(void)
{
	int ends[2];

	return pipe(ends) < 0 ? -1 : close(ends[0]) | close(ends[1]);
}

static int churn_socket(void)
{
	return free_descriptor(socket(AF_UNIX, SOCK_STREAM, 0));
}

static int churn_create(void)
{
	return free_descriptor(open("churned", O_CREAT | O_WRONLY, 0600)) < 0 ? -1 : unlink("churned");
}

static int churn_mkdir(void)
{
	return mkdir("churned", 0700) < 0 ? -1 : rmdir("churned");
}

static int churn_mmap(void)
{
	void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return page == MAP_FAILED ? -1 : munmap(page, 4096);
}

static const struct {
	const char *name;
	int (*churn)(void);
} churns[] = {
	{ "fork", churn_fork },	    { "open", churn_open },   { "pipe", churn_pipe },
	{ "socket", churn_socket }, { "create", churn_create }, { "mkdir", churn_mkdir },
	{ "mmap", churn_mmap },
};

int main(int argc, char **argv)
{
	long failures = 0;
	int first = 0;

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: %s WHAT CYCLES [DIRECTORY]\n", argv[0]);
		return EXIT_USAGE;
	}
	long cycles = number(argv[2], "CYCLES", 1, 1000000);

	if (argc > 3 && chdir(argv[3]) < 0) {
		perror(argv[3]);
		return EXIT_USAGE;
	}
	for (size_t i = 0; i < sizeof(churns) / sizeof(*churns); i++) {
		if (strcmp(argv[1], churns[i].name) != 0)
			continue;
		for (long done = 0; done < cycles; done++)
			if (churns[i].churn() < 0 && !failures++)
				first = errno;
		printf("done=%ld failures=%ld first_errno=%s\n", cycles, failures, errno_name(first));
		return 0;
	}
	fprintf(stderr, "%s: cannot churn %s\n", argv[0], argv[1]);
	return EXIT_USAGE;
}

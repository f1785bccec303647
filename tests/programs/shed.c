/*
 * Try to keep kernel objects while they look freed, until none can be made or the cap is reached.
 *
 * Arguments: TRICK CAP [DIRECTORY]
 *   TRICK      one of those in the table at the end
 *   CAP        tries at most, 1 to 200000
 *   DIRECTORY  where names are made; default: here
 * Output: one line: alive=N errno=ENOMEM (errno=none if the cap came first); alive counts what is really kept
 * Exit: 0; 2 for arguments it cannot use.
 */
#include "bounded.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

static long alive;

static const char *numbered(const char *prefix)
{
	static char name[64];

	snprintf(name, sizeof(name), "%s%ld", prefix, alive);
	return name;
}

static int make_file(const char *name)
{
	return open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
}

/* Both ends of a pipe, in a message that nobody reads. */
static int in_message(void)
{
	static int socket_ends[2];
	char control[CMSG_SPACE(2 * sizeof(int))] = {0};
	char byte = 0;
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	int ends[2];

	if (alive % 50 == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, socket_ends) < 0)
		return -1;
	if (pipe(ends) < 0)
		return -1;
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(ends));
	memcpy(CMSG_DATA(rights), ends, sizeof(ends));
	if (sendmsg(socket_ends[0], &message, 0) < 0)
		return -1;
	return close(ends[0]) | close(ends[1]);
}

static int mapped_memfd(void)
{
	int fd = memfd_create("shed", 0);

	if (fd < 0 || ftruncate(fd, 4096) < 0)
		return -1;
	if (mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
		return -1;
	return close(fd);
}

/* A further open file of one that has no path, by the name that /proc gives it. */
static int opened_again(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY) < 0 ? -1 : 0;
}

static int memfd_opened_again(void)
{
	static int fd;

	if (alive == 0)
		fd = memfd_create("shed", 0);
	return opened_again(fd);
}

static int pipe_opened_again(void)
{
	static int ends[2];

	if (alive == 0 && pipe(ends) < 0)
		return -1;
	return opened_again(ends[0]);
}

static int unlinked_and_open(void)
{
	return make_file("shed") < 0 ? -1 : unlink("shed");
}

static int unlinked_and_mapped(void)
{
	int fd = make_file("shed");

	if (fd < 0 || ftruncate(fd, 4096) < 0)
		return -1;
	if (mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
		return -1;
	return close(fd) < 0 ? -1 : unlink("shed");
}

static int renamed(void)
{
	int fd = make_file("shed");

	return fd < 0 || close(fd) < 0 ? -1 : rename("shed", numbered("kept"));
}

/* Removals that fail look like removals. */
static int removed_in_vain(void)
{
	int fd = make_file(numbered("kept"));

	if (fd < 0 || close(fd) < 0)
		return -1;
	unlink("never-there");
	rmdir("never-there");
	rename("never-there", "nor-there");
	return 0;
}

static int removed_directory_held(void)
{
	if (mkdir("shed", 0700) < 0 || open("shed", O_RDONLY | O_DIRECTORY) < 0)
		return -1;
	return rmdir("shed");
}

static int duplicated(void)
{
	int fd = open("/proc/self/exe", O_RDONLY);

	if (fd < 0)
		return -1;
	for (int i = 0; i < 20; i++)
		close(dup(fd));
	return 0;
}

static int sleep_on(void *unused)
{
	(void)unused;
	return pause();
}

/* A child that shares the table of descriptors. */
static int in_shared_table(void)
{
	static char stack[16384];

	if (alive == 0) {
		long child = clone(sleep_on, stack + sizeof(stack) - 64,
				   CLONE_FILES | CLONE_VM | SIGCHLD, NULL);

		if (child < 0)
			return -1;
	}
	return open("/proc/self/exe", O_RDONLY) < 0 ? -1 : 0;
}

/* The parent closes what only the child still has. */
static int left_to_child(void)
{
	int ends[2];
	pid_t child;

	if (pipe(ends) < 0)
		return -1;
	child = fork();
	if (child == 0) {
		alarm(60);
		for (;;)
			pause();
	}
	close(ends[0]);
	close(ends[1]);
	return child < 0 ? -1 : 0;
}

static const struct {
	const char *name;
	int (*keep)(void);
} tricks[] = {
	{ "in-message", in_message },
	{ "mapped-memfd", mapped_memfd },
	{ "memfd-opened-again", memfd_opened_again },
	{ "pipe-opened-again", pipe_opened_again },
	{ "unlinked-and-open", unlinked_and_open },
	{ "unlinked-and-mapped", unlinked_and_mapped },
	{ "renamed", renamed },
	{ "removed-in-vain", removed_in_vain },
	{ "removed-directory-held", removed_directory_held },
	{ "duplicated", duplicated },
	{ "in-shared-table", in_shared_table },
	{ "left-to-child", left_to_child },
};

int main(int argc, char **argv)
{
	struct rlimit descriptors;
	int error = 0;

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: %s TRICK CAP [DIRECTORY]\n", argv[0]);
		return EXIT_USAGE;
	}
	long cap = number(argv[2], "CAP", 1, 200000);

	if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
		descriptors.rlim_cur = descriptors.rlim_max;
		setrlimit(RLIMIT_NOFILE, &descriptors);
	}
	if (argc > 3 && chdir(argv[3]) < 0) {
		perror(argv[3]);
		return EXIT_USAGE;
	}
	for (size_t i = 0; i < sizeof(tricks) / sizeof(*tricks); i++) {
		if (strcmp(argv[1], tricks[i].name) != 0)
			continue;
		while (alive < cap && tricks[i].keep() == 0)
			alive++;
		if (alive < cap)
			error = errno;
		printf("alive=%ld errno=%s\n", alive, errno_name(error));
		return 0;
	}
	fprintf(stderr, "%s: no such trick: %s\n", argv[0], argv[1]);
	return EXIT_USAGE;
}

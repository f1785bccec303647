/*
 * Make kernel objects of one kind until one cannot be made, and say how many there were.
 *
 *   objects WORKLOAD CAP [DIRECTORY]
 *
 * prints "objects=MADE errno=NAME" ("ok" where the cap was reached), and exits with 0. The workloads
 * are those of the recordings. Where a process may have no more descriptors, a child keeps those
 * there are. Children are bounded by CAP and end with their parent.
 */
#include "bounded.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

static long nr_made;

static int descriptor(int fd)
{
	return fd < 0 ? -1 : 0;
}

static int make_fork_pause(void)
{
	int alive[2];
	char byte;
	pid_t child;

	if (pipe(alive) < 0)
		return -1;
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (write(alive[1], "", 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
	close(alive[1]);
	if (child > 0 && read(alive[0], &byte, 1) != 1)
		child = -1;
	close(alive[0]);
	return child < 0 ? -1 : 0;
}

static int make_fork_exec(void)
{
	int gone[2];
	char byte;
	pid_t child;

	if (pipe2(gone, O_CLOEXEC) < 0)
		return -1;
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/proc/self/exe", "objects", "pause", "1", (char *)NULL);
		_exit(errno);
	}
	close(gone[1]);
	if (child > 0 && read(gone[0], &byte, 1) != 0)
		child = -1;
	close(gone[0]);
	return child < 0 ? -1 : 0;
}

static void *pause_thread(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return NULL;
}

static int make_pthread(void)
{
	static pthread_attr_t attributes;
	pthread_t thread;

	if (nr_made == 0) {
		pthread_attr_init(&attributes);
		pthread_attr_setstacksize(&attributes, 16384);
	}
	errno = pthread_create(&thread, &attributes, pause_thread, NULL);
	return errno ? -1 : 0;
}

static int make_mkdir_chain(void)
{
	return mkdir("x", 0700) < 0 || chdir("x") < 0 ? -1 : 0;
}

static const char *numbered(const char *prefix)
{
	static char name[64];

	snprintf(name, sizeof(name), "%s%ld", prefix, nr_made);
	return name;
}

static int make_mkdir_flat(void)
{
	return mkdir(numbered("d"), 0700);
}

static int make_negative_lookup(void)
{
	struct stat unused;

	return stat(numbered("n"), &unused) < 0 && errno == ENOENT ? 0 : -1;
}

static int make_create(void)
{
	int fd = open(numbered("f"), O_CREAT | O_EXCL | O_WRONLY, 0600);

	return fd < 0 ? -1 : close(fd);
}

static int make_open_file(void)
{
	return descriptor(open("/proc/self/exe", O_RDONLY));
}

static int make_pipe(void)
{
	int ends[2];

	return pipe(ends);
}

static int make_unix_socket(void)
{
	return descriptor(socket(AF_UNIX, SOCK_STREAM, 0));
}

static int make_tcp_socket(void)
{
	return descriptor(socket(AF_INET, SOCK_STREAM, 0));
}

static int make_udp_socket(void)
{
	return descriptor(socket(AF_INET, SOCK_DGRAM, 0));
}

static int make_eventfd(void)
{
	return descriptor(eventfd(0, 0));
}

static int make_epoll(void)
{
	return descriptor(epoll_create1(0));
}

static int make_timerfd(void)
{
	return descriptor(timerfd_create(CLOCK_MONOTONIC, 0));
}

static int make_memfd(void)
{
	return descriptor(memfd_create("x", 0));
}

static int make_inotify(void)
{
	return descriptor(inotify_init1(0));
}

static int make_sysv_sem(void)
{
	return descriptor(semget(IPC_PRIVATE, 1, 0600));
}

/* Have a fresh process go on from here, and print; what this one made stays until then. */
static int leave_to_another(void)
{
	char made[24], *const arguments[] = { "objects", "mmap-vma", "200000", NULL };
	pid_t child;

	snprintf(made, sizeof(made), "%ld", nr_made);
	setenv("OBJECTS_MADE", made, 1);
	errno = posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ);
	if (errno || waitpid(child, NULL, 0) < 0)
		return -1;
	exit(0);
}

static int make_mmap_vma(void)
{
	/* Protections in turn, so that no two neighbours become one. */
	int protection = nr_made % 2 ? PROT_READ : PROT_NONE;

	/* By default a process may have 65530 (vm.max_map_count). */
	if (nr_made == 65000 && !getenv("OBJECTS_MADE"))
		return leave_to_another();
	return mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1
											    : 0;
}

static int make_fdtable_dup2(void)
{
	long fd = (256L << nr_made) - 1;

	return descriptor(dup2(0, (int)fd));
}

/* Leave all descriptors to a child; an object is the same in both tables. */
static int hand_over(void)
{
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	/* As a number: not every C library has a name for it. */
	return child < 0 ? -1 : (int)syscall(SYS_close_range, 3U, ~0U, 0U);
}

static const struct {
	const char *name;
	int (*make)(void);
} workloads[] = {
	{ "fork-pause", make_fork_pause },
	{ "fork-exec", make_fork_exec },
	{ "pthread", make_pthread },
	{ "mkdir-chain", make_mkdir_chain },
	{ "mkdir-flat", make_mkdir_flat },
	{ "create", make_create },
	{ "negative-lookup", make_negative_lookup },
	{ "open-file", make_open_file },
	{ "pipe", make_pipe },
	{ "unix-socket", make_unix_socket },
	{ "tcp-socket", make_tcp_socket },
	{ "udp-socket", make_udp_socket },
	{ "eventfd", make_eventfd },
	{ "epoll", make_epoll },
	{ "timerfd", make_timerfd },
	{ "memfd", make_memfd },
	{ "inotify", make_inotify },
	{ "sysv-sem", make_sysv_sem },
	{ "mmap-vma", make_mmap_vma },
	{ "fdtable-dup2", make_fdtable_dup2 },
};

int main(int argc, char **argv)
{
	struct rlimit descriptors;
	long cap;
	int error = 0;

	if (argc == 3 && strcmp(argv[1], "pause") == 0)
		for (;;)
			pause();
	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: %s WORKLOAD CAP [DIRECTORY]\n", argv[0]);
		return EXIT_USAGE;
	}
	cap = number(argv[2], "CAP", 1, 200000);
	if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
		descriptors.rlim_cur = descriptors.rlim_max;
		setrlimit(RLIMIT_NOFILE, &descriptors);
	}
	if (getenv("OBJECTS_MADE"))
		nr_made = number(getenv("OBJECTS_MADE"), "OBJECTS_MADE", 0, cap);
	if (argc > 3 && chdir(argv[3]) < 0) {
		perror(argv[3]);
		return EXIT_USAGE;
	}
	for (size_t i = 0; i < sizeof(workloads) / sizeof(*workloads); i++) {
		if (strcmp(argv[1], workloads[i].name) != 0)
			continue;
		while (nr_made < cap) {
			if (workloads[i].make() == 0)
				nr_made++;
			else if (errno != EMFILE || hand_over() < 0)
				break;
		}
		if (nr_made < cap)
			error = errno;
		printf("objects=%ld errno=%s\n", nr_made, errno_name(error));
		return 0;
	}
	fprintf(stderr, "%s: no such workload: %s\n", argv[0], argv[1]);
	return EXIT_USAGE;
}

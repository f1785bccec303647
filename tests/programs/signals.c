/*
 * signals MODE: what a program sees that takes signals by handlers without SA_RESTART.
 *
 * Exits with 0 if that is what a kernel without any filter shows, and says on stderr what was not.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 150, TICK_US = 500 };

static volatile sig_atomic_t ticks;

static void on_tick(int sig)
{
	(void)sig;
	ticks++;
}

static void expect(int holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "signals: %s (errno %d, %s)\n", what, errno, strerror(errno));
	_exit(1);
}

static void handle(int sig)
{
	struct sigaction action = { .sa_handler = on_tick };

	expect(!sigaction(sig, &action, NULL), "sigaction");
}

static void tick_every(long us)
{
	struct itimerval interval = { { us / 1000000, us % 1000000 }, { us / 1000000, us % 1000000 } };

	expect(!setitimer(ITIMER_REAL, &interval, NULL), "setitimer");
}

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void close_both(int pair[2])
{
	close(pair[0]);
	close(pair[1]);
}

static void reap(pid_t child, int expected, const char *what)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		expect(errno == EINTR, what);
	expect(status == expected, what);
}

/* Calls that no signal interrupts. */
static void make_and_remove(int number)
{
	char name[64], other[80];
	int fd, set, pair[2];
	void *page;

	snprintf(name, sizeof(name), "/tmp/signals-%d-%d", (int)getpid(), number);
	snprintf(other, sizeof(other), "%s-other", name);
	for (int i = 0; i < ROUNDS; i++) {
		struct epoll_event event = { .events = EPOLLIN };

		expect(!pipe(pair), "pipe");
		set = epoll_create1(0);
		expect(set >= 0, "epoll_create1");
		expect(!epoll_ctl(set, EPOLL_CTL_ADD, pair[0], &event), "epoll_ctl");
		close(set);
		close_both(pair);
		fd = eventfd(0, 0);
		expect(fd >= 0, "eventfd");
		close(fd);
		fd = timerfd_create(CLOCK_MONOTONIC, 0);
		expect(fd >= 0, "timerfd_create");
		close(fd);
		expect(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
		close_both(pair);
		expect(!mkdir(name, 0700), "mkdir");
		expect(!rmdir(name), "rmdir");
		fd = open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
		expect(fd >= 0, "open of a new file");
		expect(!rename(name, other), "rename");
		expect(!unlink(other), "unlink");
		page = mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		expect(page != MAP_FAILED, "mmap");
		munmap(page, 4096);
		expect(dup2(fd, 200 + number % 8) >= 0, "dup2");
		close(fd);
		if (i % 10 == 0) {
			pid_t child = fork();

			expect(child >= 0, "fork");
			if (child == 0)
				_exit(0);
			reap(child, 0, "a child's end");
		}
	}
}

static void *make_in_thread(void *number)
{
	make_and_remove((int)(intptr_t)number);
	return NULL;
}

static void calls(void)
{
	handle(SIGALRM);
	tick_every(TICK_US);
	make_and_remove(0);
	expect(ticks > 0, "no tick came");
}

static void threads(void)
{
	pthread_t made[3];

	handle(SIGALRM);
	for (intptr_t i = 0; i < 3; i++)
		expect(!pthread_create(&made[i], NULL, make_in_thread, (void *)(i + 1)), "pthread_create");
	tick_every(TICK_US);
	make_and_remove(0);
	for (int i = 0; i < 3; i++)
		pthread_join(made[i], NULL);
}

/* The handler comes with the fork, and has no call of its own to be seen by. */
static void children(void)
{
	pid_t made[3];

	handle(SIGALRM);
	for (int i = 0; i < 3; i++) {
		made[i] = fork();
		expect(made[i] >= 0, "fork");
		if (made[i] == 0) {
			tick_every(TICK_US);
			make_and_remove(i);
			_exit(ticks > 0 ? 0 : 2);
		}
	}
	for (int i = 0; i < 3; i++)
		reap(made[i], 0, "a child that inherited the handler");
}

static void bystanders(void)
{
	handle(SIGCHLD);
	for (int i = 0; i < 200; i++) {
		pid_t child = fork();

		expect(child >= 0, "fork beside children that end");
		if (child == 0) {
			usleep(1000);
			_exit(0);
		}
	}
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
}

static void spawned(void)
{
	handle(SIGALRM);
	tick_every(TICK_US);
	for (int i = 0; i < 50; i++) {
		pid_t child = vfork();

		expect(child >= 0, "vfork");
		if (child == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		reap(child, 0, "a program started by vfork");
	}
}

/* What natively waits and is interrupted, still is. */
static void waiting(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char name[64], byte;
	int fd, pair[2];

	handle(SIGALRM);
	snprintf(name, sizeof(name), "/tmp/signals-pipe-%d", (int)getpid());
	expect(!mkfifo(name, 0600), "mkfifo");
	tick_every(100000);	/* again and again: one may come too early */
	fd = open(name, O_RDONLY);
	expect(fd < 0 && errno == EINTR, "an open of a named pipe was not interrupted");
	expect(!chdir("/tmp"), "chdir");
	fd = open(name + 5, O_WRONLY);
	expect(fd < 0 && errno == EINTR, "an open of a named pipe by a relative path was not interrupted");
	unlink(name);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "signals-%d", (int)getpid());
	expect(!bind(fd, (struct sockaddr *)&address, sizeof(address)) && !listen(fd, 1), "listen");
	expect(accept(fd, NULL, NULL) < 0 && errno == EINTR, "accept was not interrupted");
	close(fd);
	expect(!pipe(pair), "pipe");
	expect(read(pair[0], &byte, 1) < 0 && errno == EINTR, "read was not interrupted");
	expect(poll(NULL, 0, 5000) < 0 && errno == EINTR, "poll was not interrupted");
}

/* A signal that is ignored interrupts nothing, also where somebody traces us to see the others. */
static void ignored(void)
{
	struct epoll_event event;
	int set;
	long began;
	pid_t child;

	handle(SIGALRM);
	set = epoll_create1(0);
	child = fork();
	if (child == 0) {
		usleep(50000);
		_exit(0);
	}
	began = now_ms();
	expect(!epoll_wait(set, &event, 1, 300), "epoll_wait was interrupted by an ignored signal");
	expect(now_ms() - began >= 290, "epoll_wait ended too early");
	reap(child, 0, "a child's end");
	tick_every(50000);
	expect(epoll_wait(set, &event, 1, 5000) < 0 && errno == EINTR, "epoll_wait was not interrupted");
}

static void stops(void)
{
	int status, go[2];
	pid_t child;
	char byte;

	handle(SIGALRM);
	expect(!pipe(go), "pipe");
	child = fork();
	if (child == 0) {
		/* On only when that it goes on has been seen: a stop would hide that. */
		for (int i = 0; i < 2; i++) {
			raise(SIGSTOP);
			if (read(go[0], &byte, 1) != 1)
				_exit(2);
		}
		_exit(7);
	}
	for (int i = 0; i < 2; i++) {
		expect(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status), "no stop was seen");
		expect(!kill(child, SIGCONT), "kill");
		expect(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status),
		       "no continuation was seen");
		expect(write(go[1], "g", 1) == 1, "write");
	}
	reap(child, 7 << 8, "the end of a task that was stopped");
}

static void *become_true(void *unused)
{
	(void)unused;
	execl("/bin/true", "true", (char *)NULL);
	return NULL;
}

static void *spin(void *unused)
{
	for (;;)
		usleep(100);
	return unused;
}

static void execs(void)
{
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();

		expect(child >= 0, "fork");
		if (child == 0) {
			pthread_t one;

			handle(SIGALRM);
			tick_every(TICK_US);
			pthread_create(&one, NULL, spin, NULL);
			pthread_create(&one, NULL, become_true, NULL);
			for (;;)
				pause();
		}
		/* The timer outlives exec, and its signal then ends the program. */
		int status;

		expect(waitpid(child, &status, 0) == child, "waitpid");
		expect(!status || WTERMSIG(status) == SIGALRM, "exec by a thread");
	}
}

static void exits(void)
{
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();

		expect(child >= 0, "fork");
		if (child == 0) {
			pthread_t one;

			handle(SIGALRM);
			for (int j = 0; j < 4; j++)
				pthread_create(&one, NULL, spin, NULL);
			tick_every(TICK_US);
			usleep(3000);
			usleep(3000);
			exit(3);
		}
		reap(child, 3 << 8, "exit among threads and signals");
	}
}

/* A debugger's child asks to be traced while we trace it. */
static void traceme(void)
{
	int status;
	pid_t child;

	handle(SIGALRM);
	child = fork();
	if (child == 0) {
		expect(!ptrace(PTRACE_TRACEME, 0, NULL, NULL), "PTRACE_TRACEME");
		raise(SIGSTOP);
		_exit(5);
	}
	expect(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP,
	       "a tracer did not see the stop");
	expect(!ptrace(PTRACE_CONT, child, NULL, NULL), "PTRACE_CONT");
	reap(child, 5 << 8, "the end of a traced task");
}

static void attach_by(int how)
{
	int status, ready[2];
	char byte;
	pid_t child;

	expect(!pipe(ready), "pipe");
	child = fork();
	if (child == 0) {
		handle(SIGUSR1);
		expect(write(ready[1], "r", 1) == 1, "write");
		for (;;)
			pause();
	}
	expect(read(ready[0], &byte, 1) == 1, "read");
	close_both(ready);
	expect(!ptrace(how, child, NULL, NULL), "attaching to a task");
	if (how == PTRACE_SEIZE)
		expect(!ptrace(PTRACE_INTERRUPT, child, NULL, NULL), "PTRACE_INTERRUPT");
	expect(waitpid(child, &status, __WALL) == child && WIFSTOPPED(status), "no stop was seen");
	expect(!ptrace(PTRACE_DETACH, child, NULL, NULL), "PTRACE_DETACH");
	kill(child, SIGKILL);
	reap(child, SIGKILL, "the end of a task that was attached to");
}

static void attach(void)
{
	attach_by(PTRACE_ATTACH);
	attach_by(PTRACE_SEIZE);
}

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{ "calls", calls },	  { "threads", threads }, { "children", children },
	{ "bystanders", bystanders }, { "spawned", spawned }, { "waiting", waiting },
	{ "ignored", ignored },	  { "stops", stops },	  { "execs", execs },
	{ "exits", exits },	  { "traceme", traceme }, { "attach", attach },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 2 && i < sizeof(modes) / sizeof(modes[0]); i++)
		if (!strcmp(argv[1], modes[i].name)) {
			modes[i].run();
			return 0;
		}
	return 2;
}

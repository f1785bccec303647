/*
 * Do one thing again and again, and say how long one took: what the benchmarks run in every way.
 *
 *   load WHAT ITERATIONS [latency [together]]
 *
 * WHAT: fork, exec, thread, mkdir, open, create, socket, pipe, call, plain. Names are made in the
 * working directory and removed again; never more than one child, thread or object is alive.
 * Output: ns=N, wall-clock nanoseconds of one, start-up left out; with "latency", which times each,
 * also p50=N p99=N p999=N. "together" begins when its input ends, as others do, and says between which
 * times it ran: from=N to=N, nanoseconds of the monotonic clock.
 * Exit: 0; 1 with a message if one of them failed; 2 for arguments it cannot use.
 */
#include "bounded.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define NO_SUCH_FAMILY 4000

static const char *self;
static int zero, null;

static int wait_for(pid_t child)
{
	return child < 0 || waitpid(child, NULL, 0) != child ? -1 : 0;
}

static int do_fork(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	return wait_for(child);
}

static int do_exec(void)
{
	pid_t child = fork();

	if (child == 0) {
		execl(self, self, "nothing", "1", (char *)NULL);
		_exit(127);
	}
	return wait_for(child);
}

static void *end_at_once(void *nothing)
{
	return nothing;
}

static int do_thread(void)
{
	pthread_t thread;

	return pthread_create(&thread, NULL, end_at_once, NULL) || pthread_join(thread, NULL) ? -1 : 0;
}

static int do_mkdir(void)
{
	return mkdir("load.dir", 0700) < 0 || rmdir("load.dir") < 0 ? -1 : 0;
}

static int closed(int fd)
{
	return fd < 0 ? -1 : close(fd);
}

static int do_open(void)
{
	return closed(open("/dev/null", O_RDONLY));
}

static int do_create(void)
{
	return closed(open("load.file", O_CREAT | O_WRONLY, 0600)) < 0 ? -1 : unlink("load.file");
}

static int do_socket(void)
{
	return closed(socket(AF_UNIX, SOCK_STREAM, 0));
}

static int do_pipe(void)
{
	int ends[2];

	return pipe(ends) < 0 || close(ends[0]) < 0 ? -1 : close(ends[1]);
}

/* The cheapest call that is supervised: it fails harmlessly. */
static int do_call(void)
{
	return socket(NO_SUCH_FAMILY, SOCK_STREAM, 0) < 0 ? 0 : -1;
}

static int do_plain(void)
{
	static unsigned int word;
	char byte;

	if (read(zero, &byte, 1) != 1 || write(null, &byte, 1) != 1)
		return -1;
	return syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) < 0 ? -1 : 0;
}

static const struct {
	const char *name;
	int (*once)(void);
} loads[] = {
	{"fork", do_fork},     {"exec", do_exec},     {"thread", do_thread}, {"mkdir", do_mkdir},
	{"open", do_open},     {"create", do_create}, {"socket", do_socket}, {"pipe", do_pipe},
	{"call", do_call},     {"plain", do_plain},
};

static int failed(const char *name, long done)
{
	fprintf(stderr, "%s: %s after %ld\n", name, strerror(errno), done);
	return 1;
}

static int measure(const char *name, int (*once)(void), long iterations)
{
	int64_t started = now_ns();

	for (long i = 0; i < iterations; i++)
		if (once() < 0)
			return failed(name, i);
	printf("ns=%.1f\n", (double)(now_ns() - started) / (double)iterations);
	return 0;
}

static int by_size(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

static void await_others(void)
{
	char byte;

	while (read(STDIN_FILENO, &byte, 1) > 0)
		continue;
}

static int measure_each(const char *name, int (*once)(void), long iterations, int together)
{
	int64_t *took = calloc((size_t)iterations, sizeof(*took)), sum = 0, from, to;

	if (!took)
		return failed(name, 0);
	if (together)
		await_others();
	from = now_ns();
	for (long i = 0; i < iterations; i++) {
		int64_t started = now_ns();

		if (once() < 0)
			return failed(name, i);
		took[i] = now_ns() - started;
		sum += took[i];
	}
	to = now_ns();
	qsort(took, (size_t)iterations, sizeof(*took), by_size);
	if (together)
		printf("from=%lld to=%lld ", (long long)from, (long long)to);
	printf("ns=%.1f p50=%lld p99=%lld p999=%lld\n", (double)sum / (double)iterations,
	       (long long)took[iterations / 2], (long long)took[iterations * 99 / 100],
	       (long long)took[iterations * 999 / 1000]);
	free(took);
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const words[] = {"", "", "", "latency", "together"};
	long iterations;
	int known = argc >= 3 && argc <= 5;

	for (int i = 3; known && i < argc; i++)
		known = !strcmp(argv[i], words[i]);
	if (!known) {
		fprintf(stderr, "usage: %s WHAT ITERATIONS [latency [together]]\n", argv[0]);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "nothing"))
		return 0;
	self = "/proc/self/exe";
	zero = open("/dev/zero", O_RDONLY);
	null = open("/dev/null", O_WRONLY);
	iterations = number(argv[2], "ITERATIONS", 1, 10000000);
	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
		if (!strcmp(argv[1], loads[i].name))
			return argc == 3 ? measure(argv[1], loads[i].once, iterations)
					 : measure_each(argv[1], loads[i].once, iterations, argc == 5);
	fprintf(stderr, "%s: not a load\n", argv[1]);
	return EXIT_USAGE;
}

/*
 * Make supervised calls of every kind, and say in each window how long the cheapest of them took.
 *
 *   soak NAME WINDOW_MS CAP_SECONDS RATE
 *
 * It ends when its input ends, or after CAP_SECONDS. What it makes in the working directory has NAME in its name, and is
 * removed again. It makes about RATE calls a second, and catches up if it was kept from it. Now and then it makes pipes until one is refused, or a hundred are there, and closes them all.
 * Output, for each window: calls=N refused=N histogram=BUCKET:COUNT,...
 * CALLS counts calls that are supervised, refused ones too. A bucket of latency in nanoseconds is the number's highest
 * bit times 16 and the four bits below it: within 6 %.
 * Exit: 0; 1 with a message if a call failed in another way; 2 for arguments it cannot use.
 */
#include "bounded.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define NO_SUCH_FAMILY 4000
#define SUB_BITS 4
#define NR_BUCKETS (64 << SUB_BITS)
#define NR_PIPES 100
#define FILL_EVERY 50

static char directory[64], file[64];
static long calls, refusals;
static long histogram[NR_BUCKETS];

static void keep(int64_t took)
{
	int high = took < 16 ? SUB_BITS : 63 - __builtin_clzll((unsigned long long)took);

	histogram[(high << SUB_BITS) + ((took >> (high - SUB_BITS)) & ((1 << SUB_BITS) - 1))]++;
}

static _Noreturn void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* A limit may refuse it, and nothing else may. */
static int admitted(int outcome, const char *what)
{
	calls++;
	if (outcome >= 0)
		return 1;
	if (errno != ENOMEM && errno != EAGAIN && errno != ENFILE && errno != ENOBUFS)
		fail(what);
	refusals++;
	return 0;
}

static void make_call(void)
{
	int64_t started = now_ns();

	socket(NO_SUCH_FAMILY, SOCK_STREAM, 0);
	keep(now_ns() - started);
	calls++;
}

static void make_open(void)
{
	int fd = open("/dev/null", O_RDONLY);

	if (admitted(fd, "open"))
		close(fd);
}

static void make_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (admitted(fd, "socket"))
		close(fd);
}

static void make_pipe(void)
{
	int ends[2];

	if (admitted(pipe(ends), "pipe")) {
		close(ends[0]);
		close(ends[1]);
	}
}

static void make_directory(void)
{
	if (admitted(mkdir(directory, 0700), "mkdir"))
		rmdir(directory);
}

static void make_file(void)
{
	int fd = open(file, O_CREAT | O_WRONLY, 0600);

	if (admitted(fd, "create")) {
		close(fd);
		unlink(file);
	}
}

static void make_task(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	if (admitted(child, "fork") && waitpid(child, NULL, 0) != child)
		fail("waitpid");
}

static void *end_at_once(void *nothing)
{
	return nothing;
}

static void make_thread(void)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, end_at_once, NULL);

	errno = error;
	if (admitted(error ? -1 : 0, "pthread_create"))
		pthread_join(thread, NULL);
}

static void fill(void)
{
	int ends[NR_PIPES][2];
	int made = 0;

	while (made < NR_PIPES && admitted(pipe(ends[made]), "pipe"))
		made++;
	while (made--) {
		close(ends[made][0]);
		close(ends[made][1]);
	}
}

static const struct {
	void (*make)(void);
	int times;	/* in one cycle */
} steps[] = {
	{make_call, 32}, {make_open, 8}, {make_socket, 6}, {make_pipe, 6},
	{make_directory, 1}, {make_file, 1}, {make_task, 1}, {make_thread, 1},
};

/* So many calls should take so long: sleep for what is left of it. */
static void keep_pace(int64_t started, int64_t due)
{
	int64_t early = started + due - now_ns();

	if (early > NS_PER_SECOND / 1000)
		nap_us((long)(early / 1000));
}

static void tell(void)
{
	const char *comma = "";

	printf("calls=%ld refused=%ld histogram=", calls, refusals);
	for (int i = 0; i < NR_BUCKETS; i++)
		if (histogram[i]) {
			printf("%s%d:%ld", comma, i, histogram[i]);
			comma = ",";
		}
	printf("\n");
	fflush(stdout);
	memset(histogram, 0, sizeof(histogram));
	calls = refusals = 0;
}

int main(int argc, char **argv)
{
	struct pollfd input = {0, POLLIN, 0};
	int64_t window, cap, told, started, each;
	long made = 0;

	if (argc != 5) {
		fprintf(stderr, "usage: %s NAME WINDOW_MS CAP_SECONDS RATE\n", argv[0]);
		return EXIT_USAGE;
	}
	snprintf(directory, sizeof(directory), "%s.directory", argv[1]);
	snprintf(file, sizeof(file), "%s.file", argv[1]);
	window = number(argv[2], "WINDOW_MS", 10, 60000) * (NS_PER_SECOND / 1000);
	each = NS_PER_SECOND / number(argv[4], "RATE", 1, 1000000);
	started = told = now_ns();
	cap = told + number(argv[3], "CAP_SECONDS", 1, 86400) * NS_PER_SECOND;
	for (long cycle = 1;; cycle++) {
		for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
			for (int n = 0; n < steps[i].times; n++)
				steps[i].make();
		if (cycle % FILL_EVERY == 1)
			fill();
		keep_pace(started, each * (made + calls));
		if (now_ns() - told < window)
			continue;
		made += calls;
		tell();
		told = now_ns();
		if (told >= cap || poll(&input, 1, 0) != 0)
			return 0;
	}
}

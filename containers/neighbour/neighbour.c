/*
 * A well-behaved service that measures its own latency.
 *
 * Requests come at fixed times, whether or not the last one is answered; a latency is counted from the time a request
 * was due, not from when the service got round to it. So time spent waiting for a processor, in a queue of late
 * requests, or in the kernel all count, as they do for a real client, and a stall of a second is a thousand slow
 * answers rather than one.
 *
 * Arguments: [SECONDS [PERIOD_US [fork|pipe|both [REPORT_SECONDS [SOCKET]]]]], or: ask SOCKET
 *   SECONDS         how long to serve, default 10, at most 3600
 *   PERIOD_US       a request is due every so many microseconds, default 2000
 *   fork|pipe|both  the work of a request: make and collect a child, a byte through a new pipe, or both (default)
 *   REPORT_SECONDS  also print a line for each such span; default 0, only the last line
 *   SOCKET          also the latency endpoint: a unix socket of this name, which answers each connection with the line
 *                   for the requests since the connection before
 *   ask SOCKET      connect there, print the answer, and exit with 0 if there was one
 * Output: {"samples": N, "failures": N, "p50_us": N, "p99_us": N, "max_us": N}; at the end, or at SIGTERM, for all.
 */
#include "../workload.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_SAMPLES 4000000
#define LINE_BYTES 160

static uint32_t samples[MOST_SAMPLES];	/* microseconds */
static uint32_t sorted[MOST_SAMPLES];
static volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
	(void)signal_number;
	stopped = 1;
}

/* Requests since some moment. */
struct span {
	long first;
	long failures;
};

static int use_pipe(void)
{
	int ends[2];
	char byte = 'x';
	int answer = -1;

	if (pipe(ends))
		return -1;
	if (write(ends[1], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1)
		answer = 0;
	close(ends[0]);
	close(ends[1]);
	return answer;
}

static int use_fork(void)
{
	pid_t child = fork();
	pid_t waited = -1;

	if (child == 0)
		_exit(0);
	/* To be told to stop while a request is served is no failure of it. */
	while (child > 0 && (waited = waitpid(child, NULL, 0)) < 0 && errno == EINTR)
		;
	return child > 0 && waited == child ? 0 : -1;
}

static int by_size(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left;
	uint32_t b = *(const uint32_t *)right;

	return (a > b) - (a < b);
}

/* Write the line of a span that ends before sample number `end`. */
static int describe(struct span span, long end, char line[LINE_BYTES])
{
	long count = end - span.first;

	memcpy(sorted, samples + span.first, (size_t)count * sizeof *sorted);
	qsort(sorted, (size_t)count, sizeof *sorted, by_size);
	return snprintf(line, LINE_BYTES,
			"{\"samples\": %ld, \"failures\": %ld, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u}\n",
			count, span.failures, count ? sorted[count / 2] : 0, count ? sorted[count * 99 / 100] : 0,
			count ? sorted[count - 1] : 0);
}

static void report(struct span span, long end)
{
	char line[LINE_BYTES];

	describe(span, end, line);
	fputs(line, stdout);
	fflush(stdout);
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof address.sun_path) {
		fprintf(stderr, "neighbour: %s is too long for a socket's name\n", path);
		exit(EXIT_USAGE);
	}
	strcpy(address.sun_path, path);
	return address;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	unlink(path);	/* of a run before */
	umask(0);	/* whoever reaches the directory may ask */
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) {
		fprintf(stderr, "neighbour: cannot listen at %s: %s\n", path, strerror(errno));
		exit(1);
	}
	return listener;
}

static int ask(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char line[LINE_BYTES];
	ssize_t length = -1;

	if (connection >= 0 && !connect(connection, (struct sockaddr *)&address, sizeof address))
		length = read(connection, line, sizeof line);
	if (length <= 0) {
		fprintf(stderr, "neighbour: no answer at %s: %s\n", path, length ? strerror(errno) : "closed");
		return 1;
	}
	return write(STDOUT_FILENO, line, (size_t)length) != length;
}

/* Sleep, and answer at the endpoint meanwhile. */
static void sleep_until(int64_t due_ns, int listener, struct span *asked, long count)
{
	struct pollfd endpoint = {.fd = listener, .events = POLLIN};	/* poll ignores -1 */
	int64_t left;

	while (!stopped && (left = due_ns - now_ns()) > 0) {
		struct timespec timeout = {left / NS_PER_SECOND, left % NS_PER_SECOND};

		if (ppoll(&endpoint, 1, &timeout, NULL) < 1)
			continue;
		int connection = accept(listener, NULL, NULL);
		char line[LINE_BYTES];

		if (connection < 0)
			continue;
		send(connection, line, (size_t)describe(*asked, count, line), MSG_NOSIGNAL | MSG_DONTWAIT);
		close(connection);
		*asked = (struct span){.first = count};
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "ask"))
		return ask(argv[2]);

	long seconds = number(argc, argv, 1, 1, 3600, DEFAULT_SECONDS);
	int64_t period_ns = 1000 * number(argc, argv, 2, 100, 1000000, 2000);
	const char *work = argc > 3 ? argv[3] : "both";
	int64_t report_ns = number(argc, argv, 4, 0, 3600, 0) * NS_PER_SECOND;
	int both = !strcmp(work, "both");
	int with_fork = both || !strcmp(work, "fork");
	int with_pipe = both || !strcmp(work, "pipe");

	if (!with_fork && !with_pipe) {
		fprintf(stderr, "neighbour: %s is not fork, pipe or both\n", work);
		return EXIT_USAGE;
	}
	int listener = argc > 5 ? listen_at(argv[5]) : -1;

	/* No SA_RESTART: the sleep ends, and the loop sees it. */
	sigaction(SIGTERM, &(struct sigaction){.sa_handler = stop}, NULL);
	sigaction(SIGINT, &(struct sigaction){.sa_handler = stop}, NULL);

	int64_t due = now_ns();
	int64_t end = due + seconds * NS_PER_SECOND;
	int64_t report_due = due + report_ns;
	struct span all = {0}, reported = {0}, asked = {0};
	long count = 0;

	while (due < end && now_ns() < end && count < MOST_SAMPLES) {
		sleep_until(due, listener, &asked, count);
		if (stopped)
			break;
		if ((with_pipe && use_pipe()) || (with_fork && use_fork())) {
			all.failures++;
			reported.failures++;
			asked.failures++;
		}
		int64_t latency_us = (now_ns() - due) / 1000;

		samples[count++] = (uint32_t)(latency_us < UINT32_MAX ? latency_us : UINT32_MAX);
		due += period_ns;
		if (report_ns && due >= report_due) {
			report(reported, count);
			reported = (struct span){.first = count};
			report_due += report_ns;
		}
	}
	/* Requests that were due and never served waited at least until now. */
	for (int64_t now = now_ns(); due < now && due < end && count < MOST_SAMPLES; due += period_ns)
		samples[count++] = (uint32_t)((now - due) / 1000);
	report(all, count);
	if (listener >= 0)
		unlink(argv[5]);
	return 0;
}

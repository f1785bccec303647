/*
 * What the workloads share: numbers from the command line, a clock, and the line of JSON each bomb ends with.
 *
 * Every bomb takes [SECONDS [MOST]] and is bounded by both itself, whatever surrounds it: it ends at that time, and
 * never has more than MOST of what it makes. A bomb that is refused tries again until its time is over.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXIT_USAGE 2
#define LONGEST_SECONDS 600
#define LARGEST_BOMB 20000
#define DEFAULT_SECONDS 10
#define DEFAULT_MOST 1000
#define NS_PER_SECOND 1000000000LL

/* The number in argv[at] within bounds, or the default; the end of the program with a message that names it if it is none. */
static inline long number(int argc, char **argv, int at, long least, long most, long otherwise)
{
	char *end = NULL;
	long value = argc > at ? strtol(argv[at], &end, 10) : otherwise;

	if (argc > at && (end == argv[at] || *end || value < least || value > most)) {
		fprintf(stderr, "%s: %s is not a number from %ld to %ld\n", argv[0], argv[at], least, most);
		exit(EXIT_USAGE);
	}
	return value;
}

static inline int64_t now_ns(void)
{
	struct timespec now = {0, 0};

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * NS_PER_SECOND + now.tv_nsec;
}

static inline void nap(void)
{
	nanosleep(&(struct timespec){0, 1000000}, NULL);
}

static inline void print_outcome(long made, long failed, int first_error)
{
	printf("{\"made\": %ld, \"failed\": %ld, \"first_error\": \"%s\"}\n", made, failed,
	       first_error ? strerror(first_error) : "");
	fflush(stdout);
}

#endif

/*
 * What the small test programs share: numbers from the command line, names of errnos, a clock, and the tally of a bomb.
 *
 * Every bomb is bounded twice by itself, whatever surrounds it: each of its tasks ends at one absolute time, and they
 * never are more than a cap together. The tally lives in memory shared by all tasks of one bomb; a task that cannot be
 * made is tried again for ever, busily or after a nap, because a bomb that gives up proves nothing about a limit.
 */
#ifndef BOUNDED_H
#define BOUNDED_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_USAGE 2
#define LONGEST_SECONDS 600
#define DEFAULT_CAP 2000
#define LARGEST_CAP 20000
#define NS_PER_SECOND 1000000000LL

struct tally {
	int64_t deadline_ns;	/* CLOCK_MONOTONIC; the same clock in every task and after every exec */
	long nap_us;		/* after a failure; 0 = try again at once */
	long cap;		/* tasks alive at once, the first one not counted */
	atomic_long alive;	/* made or being made, and not yet seen dead */
	atomic_long created;
	atomic_long failures;
	atomic_int first_errno;
};

/* A whole number within bounds, or the end of the program with a message that names it. */
static inline long number(const char *text, const char *what, long least, long most)
{
	char *end = NULL;
	errno = 0;
	long value = strtol(text, &end, 10);

	if (errno || end == text || *end || value < least || value > most) {
		fprintf(stderr, "%s: %s is not a number from %ld to %ld\n", what, text, least, most);
		exit(EXIT_USAGE);
	}
	return value;
}

static inline const char *errno_name(int error)
{
	switch (error) {
	case 0: return "none";
	case EPERM: return "EPERM";
	case EINTR: return "EINTR";
	case EAGAIN: return "EAGAIN";
	case ENOMEM: return "ENOMEM";
	case EINVAL: return "EINVAL";
	case ENFILE: return "ENFILE";
	case EMFILE: return "EMFILE";
	case ENOSPC: return "ENOSPC";
	case ENOBUFS: return "ENOBUFS";
	case ENOSYS: return "ENOSYS";
	default: return "other";
	}
}

static inline int64_t now_ns(void)
{
	struct timespec now = {0, 0};

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * NS_PER_SECOND + now.tv_nsec;
}

static inline void nap_us(long microseconds)
{
	struct timespec left = {microseconds / 1000000, microseconds % 1000000 * 1000};

	nanosleep(&left, NULL);
}

static inline int over(const struct tally *tally)
{
	return now_ns() >= tally->deadline_ns;
}

/* Map the tally; with fd -1 in memory that forks share, else in a file that survives exec. */
static inline struct tally *map_tally(int fd)
{
	int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
	struct tally *tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (tally == MAP_FAILED) {
		perror("map the tally");
		exit(1);
	}
	return tally;
}

/* Read SECONDS [NAP_US [CAP]] from these arguments into the tally and start the clock. */
static inline void start_tally(struct tally *tally, int argc, char **argv)
{
	if (argc < 1 || argc > 3) {
		fprintf(stderr, "arguments: SECONDS [NAP_US [CAP]]\n");
		exit(EXIT_USAGE);
	}
	tally->nap_us = argc > 1 ? number(argv[1], "NAP_US", 0, 1000000) : 0;
	tally->cap = argc > 2 ? number(argv[2], "CAP", 1, LARGEST_CAP) : DEFAULT_CAP;
	tally->deadline_ns = now_ns() + number(argv[0], "SECONDS", 1, LONGEST_SECONDS) * NS_PER_SECOND;
}

/* Take a place under the cap; every place taken ends in made() or in refused(). */
static inline int take_place(struct tally *tally)
{
	if (atomic_fetch_add(&tally->alive, 1) < tally->cap)
		return 1;
	atomic_fetch_sub(&tally->alive, 1);
	return 0;
}

static inline void made(struct tally *tally)
{
	atomic_fetch_add(&tally->created, 1);
}

static inline void refused(struct tally *tally, int error)
{
	int none = 0;

	atomic_fetch_sub(&tally->alive, 1);
	atomic_fetch_add(&tally->failures, 1);
	atomic_compare_exchange_strong(&tally->first_errno, &none, error);
}

/* After a failure: as long as the caller of the bomb wished. At the cap there is nothing to try: always a millisecond. */
static inline void nap_after(const struct tally *tally, int had_place)
{
	if (!had_place)
		nap_us(1000);
	else if (tally->nap_us)
		nap_us(tally->nap_us);
}

/* Collect the children that died early (their exec failed), so that the bomb is made of living tasks only. */
static inline void reap(struct tally *tally)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		atomic_fetch_sub(&tally->alive, 1);
}

static inline void print_tally(struct tally *tally)
{
	printf("created=%ld failures=%ld first_errno=%s\n", atomic_load(&tally->created),
	       atomic_load(&tally->failures), errno_name(atomic_load(&tally->first_errno)));
	fflush(stdout);
}

#endif

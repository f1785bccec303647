/*
 * The loop of the two bombs that use raw system calls. The including program defines make_process and make_thread.
 */
#ifndef RAWBOMB_H
#define RAWBOMB_H

#include "bounded.h"
#include "rawcall.h"

#include <linux/sched.h>
#include <signal.h>

#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

static struct tally *tally;
static int want_processes, want_threads;
static atomic_long next_stack;	/* of this process: a forked child goes on counting in its own copy */
static _Alignas(16) char stacks[LARGEST_CAP + 1][STACK_BYTES];

/* Both return as the kernel does: 0 in a new process, a thread id in the maker, or a negative errno. */
static long make_process(void);
static long make_thread(char *stack, void (*run)(void));

static void multiply_and_exit(void);

static void multiply(void)
{
	long stack = -1;	/* kept over failures, used up by a success */
	long turn = 0;

	while (!over(tally)) {
		int as_thread = want_threads && (!want_processes || turn++ % 2);

		if (as_thread && stack < 0)
			stack = atomic_fetch_add(&next_stack, 1);
		int place = stack <= LARGEST_CAP && take_place(tally);
		long task = !place ? -1 : as_thread ? make_thread(stacks[stack], multiply_and_exit) : make_process();

		if (task > 0) {
			made(tally);
			if (as_thread)
				stack = -1;
		} else if (task < 0) {
			if (place)
				refused(tally, (int)-task);
			if (!place || tally->nap_us)
				raw_nap_us(place ? tally->nap_us : 1000);
		}
	}
}

static void multiply_and_exit(void)
{
	multiply();
	raw_exit();
}

static int raw_bomb(int argc, char **argv)
{
	int mixed = argc > 1 && !strcmp(argv[1], "mixed");

	want_processes = mixed || (argc > 1 && !strcmp(argv[1], "process"));
	want_threads = mixed || (argc > 1 && !strcmp(argv[1], "thread"));
	if (!want_processes && !want_threads) {
		fprintf(stderr, "usage: %s process|thread|mixed SECONDS [NAP_US [CAP]]\n", argv[0]);
		return EXIT_USAGE;
	}
	tally = map_tally(-1);
	start_tally(tally, argc - 2, argv + 2);
	/* The kernel's answer, not libc's: a child made without libc has a stale copy of what libc knows. */
	long first = raw_call(SYS_getpid, 0, 0, 0, 0, 0);

	multiply();
	if (raw_call(SYS_getpid, 0, 0, 0, 0, 0) != first)
		raw_exit();
	print_tally(tally);
	_exit(0);
}

#endif

/*
 * A timer interrupts every call, at times with restarts; a large process makes each fork take long. Once each: a timer
 * that goes on would interrupt a slow fork for ever, on any kernel.
 */
#include "adversary.h"

#include <sys/time.h>

#define LARGE (16L << 20)

static void wake_up(int signal_number)
{
	(void)signal_number;
}

static void siege(void)
{
	struct sigaction action = {.sa_handler = wake_up};
	struct itimerval timer = {{0, 0}, {0, 300}};
	struct itimerval none = {{0, 0}, {0, 0}};
	char *large = malloc(LARGE);

	if (large)
		memset(large, 1, LARGE);
	sigaction(SIGALRM, &action, NULL);
	for (int at = 0; one_more(); at++) {
		action.sa_flags = at % 2 ? SA_RESTART : 0;
		sigaction(SIGALRM, &action, NULL);
		setitimer(ITIMER_REAL, &timer, NULL);
		fork_lingerer();
		setitimer(ITIMER_REAL, &none, NULL);
	}
	free(large);
}

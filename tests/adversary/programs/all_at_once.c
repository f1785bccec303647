/* Threads that all fork at the same moment. Arguments: TRIES THREADS */
#include "adversary.h"

#include <pthread.h>

static pthread_barrier_t together;

static void *fork_together(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&together);
	while (one_more())
		fork_lingerer();
	return NULL;
}

static void siege(void)
{
	long threads = words[0] ? number(words[0], "THREADS", 1, 100) : 10;
	pthread_t thread;

	pthread_barrier_init(&together, NULL, (unsigned)threads);
	for (long at = 0; at < threads; at++)
		if (pthread_create(&thread, NULL, fork_together, NULL))
			return;
	while (!is_over() && atomic_load(&memory->tries) > 0)
		nap_us(500);
	nap_us(30000);
}

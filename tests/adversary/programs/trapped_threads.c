/* Threads that all ask for a pipe at once, so that all of them wait for an answer. Arguments: TRIES THREADS */
#include "adversary.h"

#include <pthread.h>

#define STACK_BYTES 16384

static pthread_rwlock_t together = PTHREAD_RWLOCK_INITIALIZER;
static pthread_rwlock_t to_the_end = PTHREAD_RWLOCK_INITIALIZER;
static atomic_int answered;

static void *ask(void *unused)
{
	int ends[2];

	(void)unused;
	pthread_rwlock_rdlock(&together);
	note(kernels(syscall(SYS_pipe2, ends, 0)));
	atomic_fetch_add(&answered, 1);
	pthread_rwlock_unlock(&together);
	pthread_rwlock_rdlock(&to_the_end);	/* and not by the clock: they are too many to wake up */
	return NULL;
}

static void siege(void)
{
	long threads = words[0] ? number(words[0], "THREADS", 1, 10000) : 1000;
	pthread_attr_t small;
	pthread_t thread;
	int made = 0;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, STACK_BYTES);
	pthread_attr_setguardsize(&small, 0);
	pthread_rwlock_wrlock(&together);
	pthread_rwlock_wrlock(&to_the_end);
	while (made < threads && !is_over() && !pthread_create(&thread, &small, ask, NULL))
		made++;
	pthread_rwlock_unlock(&together);
	while (atomic_load(&answered) < made && !is_over())
		nap_us(1000);
	nap_us(300000);	/* to be counted, by whoever is slow */
	printf("threads=%d answered=%d ", made, atomic_load(&answered));
}

/* One thread executes a program while another forks: it takes over the first thread's id in mid-call. */
#include "adversary.h"

#include <pthread.h>

static void *become_again(void *pause)
{
	char *arguments[] = {"exec_in_thread", "again", NULL};

	nap_us((long)(intptr_t)pause);
	if (!is_over() && atomic_load(&memory->tries) > 0)
		execv("/proc/self/exe", arguments);
	return NULL;
}

static void siege(void)
{
	pthread_t thread;
	long pause = (atomic_load(&memory->tries) & 0xff) * 37 % 900;

	if (pthread_create(&thread, NULL, become_again, (void *)(intptr_t)pause)) {
		note(-EAGAIN);
		if (one_more())
			execv("/proc/self/exe", (char *[]){"exec_in_thread", "again", NULL});
		return;
	}
	while (one_more())
		fork_lingerer();
}

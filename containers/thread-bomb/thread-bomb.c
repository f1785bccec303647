/*
 * A thread bomb to demonstrate limits with: every thread makes threads for ever, in one process.
 *
 * It is bounded by itself: the process ends after SECONDS, and its threads never are more than MOST.
 *
 * Arguments: [SECONDS [MOST]], default 10 and 1000
 * Output, at the end: one line of JSON with the threads made, the calls that failed, and the first reason. A C library
 * says EAGAIN here where the kernel said ENOMEM, as POSIX wants of pthread_create.
 */
#include "../workload.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define STACK_BYTES 65536

static int64_t deadline;
static long most;
static pthread_attr_t small_and_detached;
static atomic_long threads = 1, made, failed;
static atomic_int first_error;

static void *multiply(void *unused)
{
	while (now_ns() < deadline) {
		pthread_t thread;
		int error, none = 0;

		if (atomic_fetch_add(&threads, 1) >= most) {
			atomic_fetch_sub(&threads, 1);
			nap();
			continue;
		}
		error = pthread_create(&thread, &small_and_detached, multiply, NULL);
		if (!error) {
			atomic_fetch_add(&made, 1);
			continue;
		}
		atomic_compare_exchange_strong(&first_error, &none, error);
		atomic_fetch_sub(&threads, 1);
		atomic_fetch_add(&failed, 1);
	}
	return unused;
}

int main(int argc, char **argv)
{
	deadline = now_ns() + number(argc, argv, 1, 1, LONGEST_SECONDS, DEFAULT_SECONDS) * NS_PER_SECOND;
	most = number(argc, argv, 2, 1, LARGEST_BOMB, DEFAULT_MOST);
	if (pthread_attr_init(&small_and_detached) ||
	    pthread_attr_setstacksize(&small_and_detached, STACK_BYTES) ||
	    pthread_attr_setdetachstate(&small_and_detached, PTHREAD_CREATE_DETACHED)) {
		fprintf(stderr, "thread-bomb: cannot prepare the attributes of a thread\n");
		return 1;
	}
	multiply(NULL);
	print_outcome(atomic_load(&made), atomic_load(&failed), atomic_load(&first_error));
	_exit(0);	/* not exit: the others may still be at work */
}

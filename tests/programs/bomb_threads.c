/*
 * A thread bomb: every thread makes threads for ever, through pthread_create. One process, so one kill ends it.
 *
 * Arguments: SECONDS [NAP_US [CAP]] (see bounded.h)
 * Output, at the end: created=N failures=K first_errno=NAME
 * Note: glibc turns the kernel's ENOMEM into EAGAIN, as POSIX wants of pthread_create.
 */
#include "bounded.h"

#include <pthread.h>

#define STACK_BYTES 65536

static struct tally tally;
static pthread_attr_t attributes;

static void *multiply(void *first)
{
	while (!over(&tally)) {
		pthread_t thread;
		int place = take_place(&tally);
		int error = place ? pthread_create(&thread, &attributes, multiply, NULL) : 0;

		if (place && !error) {
			made(&tally);
			continue;
		}
		if (place)
			refused(&tally, error);
		nap_after(&tally, place);
	}
	return first;
}

int main(int argc, char **argv)
{
	start_tally(&tally, argc - 1, argv + 1);
	if (pthread_attr_init(&attributes) || pthread_attr_setstacksize(&attributes, STACK_BYTES) ||
	    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED)) {
		fprintf(stderr, "cannot prepare the thread attributes\n");
		return 1;
	}
	multiply(&tally);
	print_tally(&tally);
	_exit(0);
}

/*
 * A fork bomb to demonstrate limits with: every process forks for ever, each child in a session of its own.
 *
 * It is bounded by itself: all its processes end together after SECONDS, and never are more than MOST.
 *
 * Arguments: [SECONDS [MOST]], default 10 and 1000
 * Output, at the end: one line of JSON with the processes made, the forks that failed, and the first reason
 */
#include "../workload.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

struct shared {
	atomic_long processes;
	atomic_long made;
	atomic_long failed;
	atomic_int first_error;
};

int main(int argc, char **argv)
{
	long seconds = number(argc, argv, 1, 1, LONGEST_SECONDS, DEFAULT_SECONDS);
	long most = number(argc, argv, 2, 1, LARGEST_BOMB, DEFAULT_MOST);
	int64_t deadline = now_ns() + seconds * NS_PER_SECOND;
	int first = 1;
	struct shared *shared =
		mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED) {
		perror("fork-bomb: mmap");
		return 1;
	}
	atomic_store(&shared->processes, 1);
	while (now_ns() < deadline) {
		if (atomic_fetch_add(&shared->processes, 1) >= most) {
			atomic_fetch_sub(&shared->processes, 1);
			nap();
			continue;
		}
		pid_t child = fork();

		if (child == 0) {
			first = 0;
			setsid();
		} else if (child > 0) {
			atomic_fetch_add(&shared->made, 1);
		} else {
			int none = 0;

			atomic_compare_exchange_strong(&shared->first_error, &none, errno);
			atomic_fetch_sub(&shared->processes, 1);
			atomic_fetch_add(&shared->failed, 1);
		}
	}
	if (first)
		print_outcome(atomic_load(&shared->made), atomic_load(&shared->failed),
			      atomic_load(&shared->first_error));
	return 0;
}

/*
 * A socket bomb to demonstrate limits with: makes sockets for ever and closes none.
 *
 * It is bounded by itself: it never has more than MOST, and ends after SECONDS. It asks for as many descriptors as it
 * may have; where that is fewer than MOST, EMFILE is what stops it.
 *
 * Arguments: [SECONDS [MOST]], default 10 and 1000
 * Output, at the end: one line of JSON with the sockets made, the calls that failed, and the first reason
 */
#include "../workload.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	int64_t deadline = now_ns() + number(argc, argv, 1, 1, LONGEST_SECONDS, DEFAULT_SECONDS) * NS_PER_SECOND;
	long most = number(argc, argv, 2, 1, LARGEST_BOMB, DEFAULT_MOST);
	long made = 0, failed = 0;
	int first_error = 0;
	struct rlimit descriptors;

	if (!getrlimit(RLIMIT_NOFILE, &descriptors)) {
		descriptors.rlim_cur = descriptors.rlim_max;
		setrlimit(RLIMIT_NOFILE, &descriptors);	/* if not, EMFILE says so */
	}
	while (now_ns() < deadline) {
		if (made == most) {
			nap();
		} else if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0) {
			made++;
		} else {
			failed++;
			first_error = first_error ? first_error : errno;
		}
	}
	print_outcome(made, failed, first_error);
	return 0;
}

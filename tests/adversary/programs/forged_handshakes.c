/*
 * Be a shim that hands over something: at the socket which is mounted into its container, again and again, next to
 * connections that say nothing or stop in the middle of it.
 */
#include "adversary.h"

#include <sys/socket.h>
#include <sys/un.h>

#define SOCKET "/.kmem-harness/run/shim.sock"
#define DIALS 300
#define MOST_KEPT 150

struct outcome {
	uint32_t magic;
	int32_t error;
	uint32_t flags;
	char step[20];
};

static int kept[MOST_KEPT];
static int nr_kept;

static int dial(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
	struct timeval patience = {.tv_usec = 200000};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Hand over so many descriptors, none of them a listener; whether it was taken. */
static int forge(int peer, int nr_fds)
{
	struct outcome outcome = {0x4D454D4B, 0, 40, ""};
	char control[CMSG_SPACE(4 * sizeof(int))] = {0}, answer = 0;
	struct iovec vector = {&outcome, sizeof(outcome)};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
	int fds[4] = {peer, STDIN_FILENO, peer, STDOUT_FILENO};

	if (nr_fds) {
		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE((size_t)nr_fds * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);

		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN((size_t)nr_fds * sizeof(int));
		memcpy(CMSG_DATA(header), fds, (size_t)nr_fds * sizeof(int));
	}
	if (sendmsg(peer, &message, MSG_NOSIGNAL) < 0)
		return 0;
	/* An offer may be read; the word to go on is what counts. */
	return recv(peer, &answer, 1, 0) == 1 && answer == 'g';
}

static void siege(void)
{
	int dialled = 0, accepted = 0;

	for (int at = 0; at < DIALS && !is_over(); at++) {
		int peer = dial();

		if (peer < 0)
			continue;
		dialled++;
		if (at % 4 == 1)
			send(peer, "MEM", 3, MSG_NOSIGNAL);
		if (at % 4 < 2 && nr_kept < MOST_KEPT) {
			kept[nr_kept++] = peer;
			continue;
		}
		accepted += forge(peer, at / 4 % 5);
		close(peer);
	}
	printf("dialled=%d accepted=%d ", dialled, accepted);
	while (one_more())
		fork_lingerer();
}

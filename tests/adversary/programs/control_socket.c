/*
 * Ask the controller for more room, by its control socket, which is a file of its own user's. Arguments: TRIES MEMCG
 * Half of the requests go through a process that is gone when it is looked at.
 */
#include "adversary.h"

#include <glob.h>
#include <sys/socket.h>
#include <sys/un.h>

static int dial(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int raise_limit(int fd, const char *memcg)
{
	char request[512], reply[4096] = "";
	struct timeval patience = {.tv_sec = 2};

	snprintf(request, sizeof(request),
		 "{\"op\":\"write\",\"path\":\"%s\",\"file\":\"memory.kmem.limit_in_bytes\",\"value\":\"-1\"}", memcg);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
		return 0;
	return recv(fd, reply, sizeof(reply) - 1, 0) > 0 && strstr(reply, "\"ok\":true");
}

/* A socket that a child dialled and left to us. */
static int inherited(const char *path)
{
	int pair[2], fd = -1;
	char control[CMSG_SPACE(sizeof(int))] = {0};
	char body = 'x';
	struct iovec vector = {&body, 1};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof(control)};

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return -1;
	long child = kernels(fork());

	if (child == 0) {
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		int dialled = dial(path);

		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &dialled, sizeof(int));
		if (dialled >= 0)
			sendmsg(pair[1], &message, 0);
		_exit(0);
	}
	close(pair[1]);
	if (child > 0) {
		waitpid((pid_t)child, NULL, 0);
		if (recvmsg(pair[0], &message, MSG_CMSG_CLOEXEC) > 0 && CMSG_FIRSTHDR(&message))
			memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	}
	close(pair[0]);
	return fd;
}

static void siege(void)
{
	const char *base = getenv("XDG_RUNTIME_DIR");
	char pattern[256];
	glob_t found;
	int dialled = 0, raised = 0;

	snprintf(pattern, sizeof(pattern), "%s/*/control.sock", base ? base : "");
	if (!words[0] || glob(pattern, 0, NULL, &found) || found.gl_pathc != 1)
		return;
	for (int at = 0; at < 20; at++) {
		int fd = at % 2 ? inherited(found.gl_pathv[0]) : dial(found.gl_pathv[0]);

		if (fd >= 0) {
			dialled++;
			raised += raise_limit(fd, words[0]);
			close(fd);
		}
	}
	globfree(&found);
	printf("dialled=%d raised=%d ", dialled, raised);
	while (one_more())
		fork_lingerer();
}

/*
 * kmem-shim SOCKET COMMAND [ARG...]
 *
 * Puts COMMAND under a seccomp user-notification filter whose listener is held by
 * somebody else.  One job, in this order:
 *
 *	connect to SOCKET; read the filter from it (policy is data, not C);
 *	install it; hand the listener over; wait for one byte; exec COMMAND.
 *
 * Static, because it enters images we know nothing about: no heap, stdio, locale
 * or threads.  Leaves with 125 when a step of its own fails (the step's name is
 * printed and sent to the other side), 126 or 127 when COMMAND cannot be executed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "command.h"

enum {
	EXIT_SHIM = 125,
	MAX_INSTRUCTIONS = 4096,	/* BPF_MAXINSNS */
	ANSWER_TIMEOUT_S = 20,
};

static const uint32_t MAGIC = 0x4d454d4b;	/* "KMEM" */

/* What the other side sends first; nr_instructions sock_filters follow. */
struct offer {
	uint32_t magic;
	uint32_t nr_instructions;
	uint32_t flags;			/* for seccomp(SECCOMP_SET_MODE_FILTER) */
	uint32_t fallback_flags;	/* where the kernel answers EINVAL to flags */
};

/* What the shim answers: the listener rides along when err is 0. */
struct outcome {
	uint32_t magic;
	int32_t err;
	uint32_t flags;
	char step[20];
};

static struct sock_filter instructions[MAX_INSTRUCTIONS];

static int read_whole(int fd, void *into, size_t size)
{
	char *at = into;

	while (size > 0) {
		ssize_t got = read(fd, at, size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0) {
			errno = ECONNRESET;
			return -1;
		}
		at += got;
		size -= (size_t)got;
	}
	return 0;
}

static int dial(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = ANSWER_TIMEOUT_S };
	size_t length = strlen(path);
	int fd;

	if (length >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(address.sun_path, path, length + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	return fd;
}

static int read_filter(int fd, struct offer *offer)
{
	if (read_whole(fd, offer, sizeof(*offer)) < 0)
		return -1;
	if (offer->magic != MAGIC || offer->nr_instructions == 0 ||
	    offer->nr_instructions > MAX_INSTRUCTIONS) {
		errno = EPROTO;
		return -1;
	}
	return read_whole(fd, instructions,
			  offer->nr_instructions * sizeof(instructions[0]));
}

static int set_filter(uint32_t flags, const struct sock_fprog *program)
{
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program);
}

static int install_filter(struct offer *offer)
{
	struct sock_fprog program = {
		.len = (unsigned short)offer->nr_instructions,
		.filter = instructions,
	};
	int listener = set_filter(offer->flags, &program);

	/* Flags first, as the kernel does: one that does not know them says so before it asks for privilege. */
	if (listener < 0 && errno == EINVAL) {
		offer->flags = offer->fallback_flags;
		listener = set_filter(offer->flags, &program);
	}
	/* Without CAP_SYS_ADMIN a filter may only bind those who gain no privileges. */
	if (listener < 0 && errno == EACCES) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
			return -1;
		listener = set_filter(offer->flags, &program);
	}
	return listener;
}

/* listener is -1 when there is only a failure to tell. */
static int tell(int fd, int listener, const struct outcome *outcome)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec body = {
		.iov_base = (void *)(uintptr_t)outcome,
		.iov_len = sizeof(*outcome),
	};
	struct msghdr message = { .msg_iov = &body, .msg_iovlen = 1 };
	ssize_t sent;

	if (listener >= 0) {
		struct cmsghdr *header;

		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &listener, sizeof(int));
	}
	do {
		sent = sendmsg(fd, &message, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent == (ssize_t)sizeof(*outcome) ? 0 : -1;
}

static int fail(int fd, const char *step)
{
	struct outcome outcome = { .magic = MAGIC, .err = errno };
	size_t length = strlen(step);

	complain("kmem-shim", step, outcome.err);
	if (fd >= 0) {
		if (length >= sizeof(outcome.step))
			length = sizeof(outcome.step) - 1;
		memcpy(outcome.step, step, length);
		tell(fd, -1, &outcome);
	}
	return EXIT_SHIM;
}

int main(int argc, char **argv)
{
	struct outcome outcome = { .magic = MAGIC };
	struct offer offer;
	int supervisor, listener;
	char go;

	if (argc < 3) {
		put("usage: kmem-shim SOCKET COMMAND [ARG...]\n");
		return EXIT_SHIM;
	}
	supervisor = dial(argv[1]);
	if (supervisor < 0)
		return fail(-1, "connect");
	if (read_filter(supervisor, &offer) < 0)
		return fail(supervisor, "read filter");
	listener = install_filter(&offer);
	if (listener < 0)
		return fail(supervisor, "install filter");
	outcome.flags = offer.flags;
	/* sendmsg, read, close and execve must stay untrapped: nobody answers yet. */
	if (tell(supervisor, listener, &outcome) < 0)
		return fail(-1, "hand over listener");
	if (read_whole(supervisor, &go, 1) < 0)
		return fail(-1, "wait for go");
	close(listener);
	close(supervisor);
	return become("kmem-shim", argv + 2);
}

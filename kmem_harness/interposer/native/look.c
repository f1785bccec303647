/*
 * kmem-look, with a socket for its standard input
 *
 * Looks at memory, paths and mounts that a target chose.  The kernel may make whoever does that
 * sleep for as long as a file server likes, beyond the reach of any signal; so the controller, for
 * which every box waits, asks a process that only itself waits for, and goes on without it when it
 * is late.
 *
 * One request at a time, each one packet: struct request, followed by a path where one is asked
 * about.  One answer to each: struct answer, followed by what was read.  It ends with the other
 * end of its socket.  Decides nothing, and holds no descriptor of a target's between two requests:
 * one would keep a mount from being unmounted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	EXIT_REFUSED = 125,
	SOCKET = 0,
	PAGE = 4096,			/* the smallest of any machine of ours */
	LONGEST = 4096,			/* PATH_MAX, and the most that is read at once */
};

enum operation {
	READ_MEMORY = 1,
};

struct request {
	uint32_t operation;
	uint32_t serial;
	uint32_t box;
	int32_t tid;
	uint64_t address;
	uint32_t length;
	int32_t directory;
	uint64_t flags;
};

/* What follows an answer has no length of its own: a packet ends where it ends. */
struct answer {
	uint32_t serial;
	int32_t error;
	uint64_t figures[4];
};

static struct {
	struct request request;
	char path[LONGEST + 1];
} asked;

static struct {
	struct answer answer;
	char bytes[LONGEST];
} said;

/*
 * Up to length bytes, fewer where memory ends: the kernel gives whole pieces only, so each is a
 * page.  Gives the number of bytes, or -1.
 */
static ssize_t read_memory(pid_t tid, uint64_t address, size_t length, char *into)
{
	struct iovec from[LONGEST / PAGE + 2], to = { into, length };
	unsigned long nr = 0;

	while (length > 0 && nr < sizeof(from) / sizeof(*from)) {
		size_t part = PAGE - (size_t)(address % PAGE);

		if (part > length)
			part = length;
		from[nr].iov_base = (void *)(uintptr_t)address;
		from[nr++].iov_len = part;
		address += part;
		length -= part;
	}
	return process_vm_readv(tid, &to, 1, from, nr, 0);
}

/* Gives how many bytes follow the answer. */
static size_t carry_out(const struct request *request, struct answer *answer, char *bytes)
{
	switch (request->operation) {
	case READ_MEMORY:
		if (request->length <= LONGEST) {
			ssize_t nr = read_memory(request->tid, request->address,
						 request->length, bytes);

			if (nr >= 0)
				return (size_t)nr;
			answer->error = errno;
			return 0;
		}
		/* fall through */
	default:
		answer->error = EINVAL;
		return 0;
	}
}

int main(int argc, char **argv)
{
	int kind = 0;
	socklen_t size = sizeof(kind);

	(void)argv;
	if (argc != 1 || getsockopt(SOCKET, SOL_SOCKET, SO_TYPE, &kind, &size) ||
	    kind != SOCK_SEQPACKET)
		return EXIT_REFUSED;
	/* Whoever is our user could see by us what the controller may see. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (chdir("/"))
		return EXIT_REFUSED;
	syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0);	/* from 5.9 on; there should be none */
	for (;;) {
		ssize_t nr = recv(SOCKET, &asked, sizeof(asked) - 1, 0);
		size_t more;

		if (nr < (ssize_t)sizeof(asked.request))
			return nr < 0;
		asked.path[(size_t)nr - sizeof(asked.request)] = '\0';
		memset(&said.answer, 0, sizeof(said.answer));
		said.answer.serial = asked.request.serial;
		more = carry_out(&asked.request, &said.answer, said.bytes);
		if (send(SOCKET, &said, sizeof(said.answer) + more, MSG_NOSIGNAL) < 0)
			return 1;
	}
}

/*
 * The floor: run a command whose socket() calls are notified, and answer each with "continue". With a file of
 * instructions named by NOTIFIED_FILTER, an array of struct sock_filter, that filter is installed instead.
 *
 *   notified COMMAND [ARG...]        answers in a loop of its own
 *   notified -FD COMMAND [ARG...]    sends the listener over the unix socket FD instead, waits for
 *                                    one byte, and lets whoever is there answer
 *
 * Exit: the command's status; 2 for arguments it cannot use, 125 if it cannot be set up.
 */
#include "bounded.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define EXIT_SETUP 125
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

#define LONGEST_FILTER 4096

static struct sock_filter code[LONGEST_FILTER] = {
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 1),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

/* Give the number of instructions, 0 if the file cannot be used. */
static unsigned short read_filter(void)
{
	const char *name = getenv("NOTIFIED_FILTER");
	FILE *file;
	size_t count;

	if (!name)
		return 4;
	file = fopen(name, "rb");
	if (!file)
		return 0;
	count = fread(code, sizeof(code[0]), LONGEST_FILTER, file);
	fclose(file);
	return (unsigned short)count;
}

static int install(void)
{
	struct sock_fprog program = {.len = read_filter(), .filter = code};
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
	long fd;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		     flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
	if (fd < 0)
		fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	return (int)fd;
}

static int hand_over(int to, int fd)
{
	char byte = 0;
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control = {.room = {0}};
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
	struct cmsghdr *header;

	message.msg_control = control.room;
	message.msg_controllen = sizeof(control.room);
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	return sendmsg(to, &message, 0) != 1 || read(to, &byte, 1) != 1 ? -1 : 0;
}

static int take_over(int from)
{
	char byte;
	int fd;
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control;
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

	message.msg_control = control.room;
	message.msg_controllen = sizeof(control.room);
	if (recvmsg(from, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return write(from, &byte, 1) == 1 ? fd : -1;
}

static void answer(int listener)
{
	struct seccomp_notif request;
	struct seccomp_notif_resp reply;
	struct pollfd ready = {.fd = listener, .events = POLLIN};

	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	while (poll(&ready, 1, -1) > 0 && ready.revents & POLLIN) {
		memset(&request, 0, sizeof(request));
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0)
			continue;
		memset(&reply, 0, sizeof(reply));
		reply.id = request.id;
		reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
	}
}

static int become(int to, char **command)
{
	int listener = install();

	if (listener < 0 || hand_over(to, listener) < 0) {
		perror("notified");
		return EXIT_SETUP;
	}
	close(listener);
	close(to);
	execvp(command[0], command);
	perror(command[0]);
	return EXIT_SETUP;
}

int main(int argc, char **argv)
{
	int ends[2], status, listener;
	pid_t child;

	if (argc > 2 && argv[1][0] == '-')
		return become((int)number(argv[1] + 1, "FD", 3, 1000), argv + 2);
	if (argc < 2) {
		fprintf(stderr, "usage: %s [-FD] COMMAND [ARG...]\n", argv[0]);
		return EXIT_USAGE;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) < 0)
		return EXIT_SETUP;
	child = fork();
	if (child == 0) {
		close(ends[0]);
		return become(ends[1], argv + 1);
	}
	close(ends[1]);
	listener = take_over(ends[0]);
	if (child < 0 || listener < 0)
		return EXIT_SETUP;
	answer(listener);
	if (waitpid(child, &status, 0) != child)
		return EXIT_SETUP;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_SETUP;
}

/*
 * kmem-init KEY=VALUE... -- COMMAND [ARG...]
 *
 * Runs COMMAND in a box and leaves nothing of it behind.  Two processes:
 *
 *	guard	stays outside, ties the box to those who own it, and ends it with them
 *	init	reaps inside: pid 1 of a pid namespace, or a child subreaper without one
 *
 * The box ends when COMMAND does, as a container's does.  Keys:
 *
 *	isolation=user|pid|none	  user+pid+mount+IPC namespaces, pid+mount+IPC, or a subreaper
 *	session=own|caller	  COMMAND's session: apart from the caller's, or the very same
 *	status=FD		  a socket that struct status messages are written to
 *	leash=FD		  a byte says which signal COMMAND gets, 255 or a hangup ends the box
 *	tie=PIDFD		  ... as does the death of this process; may be given often
 *	pass=FD			  inherited by COMMAND, and held by nobody else; may be given often
 *	uid_map=, gid_map=TEXT	  for isolation=user
 *	nproc=N			  RLIMIT_NPROC of COMMAND
 *	cgroup=DIR		  init enters DIR/box; the guard removes DIR at the end
 *	grace=MS		  once COMMAND has ended, others may take so long to end
 *
 * Without COMMAND the box is set up and left at once: a probe.
 * Exit status: COMMAND's, 128+N after signal N, 125 when a step of ours failed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "command.h"

enum { EXIT_INIT = 125, MAX_TIES = 8, GRACE_STEP_MS = 5 };

enum status_kind {
	STATUS_INIT = 1,
	STATUS_EXITED = 2,
	STATUS_SIGNALED = 3,
	STATUS_FAILED = 4,
	STATUS_READY = 5,	/* the box is set up, COMMAND is next; its System V counts ride along */
	STATUS_REFUSED = 6,	/* so many forks the cgroup has refused */
	STATUS_LEFT = 7,		/* others still ran when their grace was over */
};

/* One message on the status pipe; small enough that the pipe keeps it whole. */
struct status {
	uint32_t kind;
	int32_t value;		/* pid of init, exit code, signal, errno, count */
	char step[24];		/* of STATUS_FAILED */
};

enum { END_OF_BOX = 255 };	/* on the leash, where a signal's number could be */

enum isolation { ISOLATION_USER, ISOLATION_PID, ISOLATION_NONE };

struct options {
	enum isolation isolation;
	int own_session;
	int status, leash, nproc, grace;
	int ties[MAX_TIES], nr_ties;
	const char *uid_map, *gid_map, *cgroup;
	char **words, **command;
};

static struct options options = {
	.isolation = ISOLATION_NONE, .own_session = 1, .status = -1, .leash = -1, .nproc = -1,
};

/* What the caller had, and COMMAND shall have: we need SIGCHLD, which may have been ignored. */
static sigset_t callers_mask;
static struct sigaction callers_sigchld;
static pid_t callers_group;

static void report(enum status_kind kind, int value, const char *step)
{
	struct status status = { .kind = kind, .value = value };
	size_t length = step ? strlen(step) : 0;
	ssize_t unused;

	if (length >= sizeof(status.step))
		length = sizeof(status.step) - 1;
	if (length)
		memcpy(status.step, step, length);
	unused = write(options.status, &status, sizeof(status));
	(void)unused;	/* the owner is gone: the guard will see that too */
}

static _Noreturn void fail(const char *step)
{
	report(STATUS_FAILED, errno, step);
	_exit(EXIT_INIT);
}

static int number(const char *text)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < 0 || value > 0x7fffffff) {
		errno = EINVAL;
		fail("read options");
	}
	return (int)value;
}

/* A descriptor of ours: COMMAND shall not inherit it. */
static int descriptor(const char *text)
{
	int fd = number(text);

	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		fail("read options");
	return fd;
}

static int is_key(const char *arg, const char *key, const char **value)
{
	size_t length = strlen(key);

	if (strncmp(arg, key, length) || arg[length] != '=')
		return 0;
	*value = arg + length + 1;
	return 1;
}

static void parse(int argc, char **argv)
{
	int at;

	for (at = 1; at < argc && strcmp(argv[at], "--"); at++) {
		const char *value;

		if (is_key(argv[at], "isolation", &value) && !strcmp(value, "user"))
			options.isolation = ISOLATION_USER;
		else if (is_key(argv[at], "isolation", &value) && !strcmp(value, "pid"))
			options.isolation = ISOLATION_PID;
		else if (is_key(argv[at], "isolation", &value) && !strcmp(value, "none"))
			options.isolation = ISOLATION_NONE;
		else if (is_key(argv[at], "session", &value) && !strcmp(value, "own"))
			options.own_session = 1;
		else if (is_key(argv[at], "session", &value) && !strcmp(value, "caller"))
			options.own_session = 0;
		else if (is_key(argv[at], "pass", &value))
			number(value);
		else if (is_key(argv[at], "status", &value))
			options.status = descriptor(value);
		else if (is_key(argv[at], "leash", &value))
			options.leash = descriptor(value);
		else if (is_key(argv[at], "tie", &value) && options.nr_ties < MAX_TIES)
			options.ties[options.nr_ties++] = descriptor(value);
		else if (is_key(argv[at], "uid_map", &value))
			options.uid_map = value;
		else if (is_key(argv[at], "gid_map", &value))
			options.gid_map = value;
		else if (is_key(argv[at], "nproc", &value))
			options.nproc = number(value);
		else if (is_key(argv[at], "cgroup", &value))
			options.cgroup = value;
		else if (is_key(argv[at], "grace", &value))
			options.grace = number(value);
		else {
			errno = EINVAL;
			fail("read options");
		}
	}
	options.words = argv;
	options.command = at + 1 < argc ? argv + at + 1 : NULL;
}

/*
 * Hold nothing of COMMAND's: whoever is at the other end of its pipes waits for the last who holds one.
 * The three that everybody has stay taken, lest something else be printed to.
 */
static void let_go_of_streams(void)
{
	int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (nothing < 0 || (fd != nothing && dup3(nothing, fd, O_CLOEXEC) < 0))
			close(fd);
	if (nothing > STDERR_FILENO)
		close(nothing);
	for (char **word = options.words + 1; *word && strcmp(*word, "--"); word++) {
		const char *value;

		if (is_key(*word, "pass", &value))
			close(number(value));
	}
}

/* Streams that the caller had closed must not be given out to what we open. */
static void fill_closed_streams(void)
{
	int fd;

	while ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0 && fd <= STDERR_FILENO)
		;
	if (fd >= 0)
		close(fd);
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t written;
	int err;

	if (fd < 0)
		return -1;
	written = write(fd, text, strlen(text));
	err = errno;
	close(fd);
	errno = err;
	return written == (ssize_t)strlen(text) ? 0 : -1;
}

/* "/proc/" PID "/" NAME, without stdio. */
static const char *proc_path(pid_t pid, const char *name)
{
	static char path[64];
	char digits[12];
	char *at = digits + sizeof(digits);

	*--at = '\0';
	do {
		*--at = (char)('0' + pid % 10);
		pid /= 10;
	} while (pid);
	strcpy(path, "/proc/");
	strcat(path, at);
	strcat(path, "/");
	strcat(path, name);
	return path;
}

/* The maps must be written from outside: inside there is no capability to do so. */
static void map_ids(pid_t init)
{
	if (!options.uid_map || !options.gid_map)
		return;
	if (write_file(proc_path(init, "uid_map"), options.uid_map) < 0)
		fail("write uid_map");
	/* An unprivileged group map is accepted only once setgroups is denied. */
	if (write_file(proc_path(init, "gid_map"), options.gid_map) < 0 &&
	    (write_file(proc_path(init, "setgroups"), "deny") < 0 ||
	     write_file(proc_path(init, "gid_map"), options.gid_map) < 0))
		fail("write gid_map");
}

/* ---- ending a box that has no pid namespace ------------------------------- */

enum { MAX_SEEN = 65536 };

struct seen {
	pid_t pid, ppid, pgrp;
	int inside;
};

static struct seen seen[MAX_SEEN];	/* touched only without a pid namespace */

static int read_stat(const char *pid, struct seen *into)
{
	char path[64] = "/proc/", text[512];
	char *at;
	ssize_t got;
	int fd;

	if (strlen(pid) > 12)
		return -1;
	strcat(path, pid);
	strcat(path, "/stat");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return -1;
	text[got] = '\0';
	at = strrchr(text, ')');	/* comm may hold anything, brackets too */
	if (!at || strlen(at) < 5)
		return -1;
	into->pid = (pid_t)strtol(pid, NULL, 10);
	into->ppid = (pid_t)strtol(at + 4, &at, 10);
	into->pgrp = (pid_t)strtol(at, NULL, 10);
	into->inside = 0;
	return 0;
}

static int list_processes(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int count = 0;

	if (!proc)
		return 0;
	while (count < MAX_SEEN && (entry = readdir(proc)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
		    !read_stat(entry->d_name, &seen[count]))
			count++;
	closedir(proc);
	return count;
}

static int find_descendants(void)
{
	pid_t me = getpid();
	int count = list_processes();
	int grown = 1;

	while (grown) {
		grown = 0;
		for (int i = 0; i < count; i++) {
			if (seen[i].inside || seen[i].pid == me)
				continue;
			seen[i].inside = seen[i].ppid == me;
			for (int j = 0; j < count && !seen[i].inside; j++)
				seen[i].inside = seen[j].inside &&
						 seen[j].pid == seen[i].ppid;
			grown |= seen[i].inside;
		}
	}
	return count;
}

/* A pgrp is hit as one, so that none of it can fork away between two kills; the caller's is not ours to hit. */
static void signal_descendants(int count, int signal)
{
	for (int i = 0; i < count; i++) {
		if (!seen[i].inside)
			continue;
		if (seen[i].pgrp > 1 && seen[i].pgrp != getpgrp() && seen[i].pgrp != callers_group)
			kill(-seen[i].pgrp, signal);
		kill(seen[i].pid, signal);
	}
}

/* Stopped first: what is stopped makes no more of its kind while the others are hit. */
static void kill_descendants(void)
{
	signal_descendants(find_descendants(), SIGSTOP);
	signal_descendants(find_descendants(), SIGKILL);
}

static void end_descendants(void)
{
	const struct timespec pause = { .tv_nsec = 500 * 1000 };

	for (;;) {
		pid_t reaped;

		while ((reaped = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (reaped < 0 && errno == ECHILD)
			return;
		kill_descendants();
		nanosleep(&pause, NULL);
	}
}

/* ---- init: inside --------------------------------------------------------- */

/* One line of /proc/self/mountinfo; the text is the line's own, cut into words. */
struct mount_row {
	char *point, *options, *type, *source, *super_options;
};

static char mount_table[1 << 20];	/* touched as far as there are mounts */

/* Returns the length of the table, 0 where it cannot be read. */
static size_t read_mounts(void)
{
	int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got;

	if (fd < 0)
		return 0;
	while (length < sizeof(mount_table) - 1 &&
	       (got = read(fd, mount_table + length, sizeof(mount_table) - 1 - length)) > 0)
		length += (size_t)got;
	close(fd);
	mount_table[length] = '\0';
	return length;
}

/* Blanks and the like are written as backslashes and three octal digits. */
static void unescape(char *text)
{
	char *into = text;

	for (; *text; text++) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] && text[3]) {
			*into++ = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
			text += 3;
		} else {
			*into++ = *text;
		}
	}
	*into = '\0';
}

/* Cut the line at *at into words and step over it; 0 at the end of the table. */
static int next_mount(char **at, struct mount_row *row)
{
	char *line = *at, *end, *word, *rest = NULL;
	int field = 0, after_dash = 0;

	if (!*line)
		return 0;
	end = strchr(line, '\n');
	if (end)
		*end = '\0';
	*at = end ? end + 1 : line + strlen(line);
	memset(row, 0, sizeof(*row));
	for (word = strtok_r(line, " ", &rest); word; word = strtok_r(NULL, " ", &rest), field++) {
		if (after_dash)
			switch (after_dash++) {
			case 1: row->type = word; break;
			case 2: row->source = word; break;
			case 3: row->super_options = word; break;
			}
		else if (field == 4)
			row->point = word;
		else if (field == 5)
			row->options = word;
		else if (field > 5 && !strcmp(word, "-"))
			after_dash = 1;
	}
	if (row->point)
		unescape(row->point);
	return 1;
}

static int has_option(const char *list, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = list; (at = strstr(at, name)); at += length)
		if ((at == list || at[-1] == ',') && (!at[length] || at[length] == ','))
			return 1;
	return 0;
}

static unsigned long mount_flags(const char *list)
{
	static const struct {
		const char *name;
		unsigned long flag;
	} known[] = {
		{ "nosuid", MS_NOSUID }, { "nodev", MS_NODEV }, { "noexec", MS_NOEXEC },
		{ "noatime", MS_NOATIME }, { "nodiratime", MS_NODIRATIME }, { "relatime", MS_RELATIME },
	};
	unsigned long flags = 0;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (has_option(list, known[i].name))
			flags |= known[i].flag;
	return flags;
}

/*
 * A root box could leave its cgroup, freeze what is in it, or make cgroups that stay.  So it finds them
 * read-only; and where a cgroup bounds its tasks, those are all it can see, however it mounts them.
 */
static void close_cgroups(void)
{
	char *at = mount_table;
	struct mount_row row;
	int anew = options.cgroup && options.isolation == ISOLATION_PID;

	if (geteuid() != 0 || !read_mounts())
		return;
	if (anew && unshare(CLONE_NEWCGROUP) < 0)
		fail("make cgroup namespace");
	while (next_mount(&at, &row)) {
		unsigned long flags;

		if (!row.super_options || (strcmp(row.type, "cgroup") && strcmp(row.type, "cgroup2")))
			continue;
		flags = mount_flags(row.options);
		if (anew) {
			/* Where one cannot be had anew, none is better than the host's. */
			if (umount2(row.point, MNT_DETACH) < 0) {
				if (errno == EINVAL || errno == ENOENT)
					continue;	/* it went with one above it */
				fail("unmount cgroups");
			}
			row.super_options += !strncmp(row.super_options, "rw", 2) ||
					     !strncmp(row.super_options, "ro", 2) ? 2 : 0;
			row.super_options += *row.super_options == ',';
			if (mount(row.source, row.point, row.type, flags, row.super_options) < 0)
				continue;
		}
		if (mount(NULL, row.point, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL) < 0 &&
		    errno != EINVAL && errno != ENOENT)	/* hidden below another mount: out of reach, too */
			fail("close cgroups");
	}
}

/* Who may see whom in the /proc that is there, and what may be done in it, holds in the new one, too. */
static const char *proc_options(unsigned long *flags)
{
	static char found[128];
	char *at = mount_table, *rest = NULL;
	struct mount_row row;

	if (!read_mounts())
		return NULL;
	while (next_mount(&at, &row)) {
		if (!row.super_options || strcmp(row.point, "/proc") || strcmp(row.type, "proc"))
			continue;
		found[0] = '\0';
		*flags = mount_flags(row.options);
		for (char *word = strtok_r(row.super_options, ",", &rest); word;
		     word = strtok_r(NULL, ",", &rest)) {
			if (strncmp(word, "hidepid=", 8) && strncmp(word, "gid=", 4))
				continue;
			if (strlen(found) + strlen(word) + 2 > sizeof(found))
				break;
			if (*found)
				strcat(found, ",");
			strcat(found, word);
		}
	}
	return *found ? found : NULL;
}

static void own_proc(void)
{
	unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	const char *as_before = proc_options(&flags);

	/*
	 * Mounts of ours must not reach the host.  In a chroot "/" need not be a mount
	 * point; then the /proc that is there takes the new one, made private first.
	 */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 &&
	    mount(NULL, "/proc", NULL, MS_PRIVATE, NULL) < 0)
		fail("make mounts private");
	close_cgroups();
	if (mount("proc", "/proc", "proc", flags, as_before) < 0)
		fail("mount /proc");
}

/* System V objects outlive who made them, but not their namespace; without the others, only root can have one. */
static void own_ipc(void)
{
	if (options.isolation == ISOLATION_NONE && geteuid() == 0)
		(void)!unshare(CLONE_NEWIPC);
}

static void enter_cgroup(void)
{
	char path[4096];

	if (!options.cgroup)
		return;
	if (strlen(options.cgroup) > sizeof(path) - sizeof("/box/cgroup.procs")) {
		errno = ENAMETOOLONG;
		fail("enter cgroup");
	}
	strcpy(path, options.cgroup);
	strcat(path, "/box/cgroup.procs");
	if (write_file(path, "0") < 0)
		fail("enter cgroup");
}

/*
 * Say that the box is set up, and hand over what tells how many System V objects there are: only who is
 * in an IPC namespace can open these, and whoever has them open can read them from anywhere.
 */
static void report_ready(void)
{
	static const char *const names[] = { "/proc/sysvipc/sem", "/proc/sysvipc/msg", "/proc/sysvipc/shm" };
	enum { COUNT = sizeof(names) / sizeof(names[0]) };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(COUNT * sizeof(int))];
	} control = { 0 };
	struct status status = { .kind = STATUS_READY };
	struct iovec body = { .iov_base = &status, .iov_len = sizeof(status) };
	struct msghdr message = {
		.msg_iov = &body, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fds[COUNT], opened = 0;
	ssize_t unused;

	while (opened < COUNT && (fds[opened] = open(names[opened], O_RDONLY | O_CLOEXEC)) >= 0)
		opened++;
	if (opened == COUNT) {
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(fds));
		memcpy(CMSG_DATA(header), fds, sizeof(fds));
	} else {
		message.msg_control = NULL;	/* a kernel without them */
		message.msg_controllen = 0;
	}
	unused = sendmsg(options.status, &message, MSG_NOSIGNAL);
	(void)unused;	/* the owner is gone: the guard will see that too */
	while (opened > 0)
		close(fds[--opened]);
}

static _Noreturn void become_command(void)
{
	if (options.nproc >= 0) {
		struct rlimit limit = { (rlim_t)options.nproc, (rlim_t)options.nproc };

		if (setrlimit(RLIMIT_NPROC, &limit) < 0)
			fail("limit processes");
	}
	if (sigaction(SIGCHLD, &callers_sigchld, NULL) < 0 ||
	    sigprocmask(SIG_SETMASK, &callers_mask, NULL) < 0)
		fail("restore signals");
	_exit(become("kmem-init", options.command));
}

/* Signals for COMMAND come along the leash: whatever is sent to us, by a terminal or a box, is not for it. */
static int open_signals(void)
{
	const struct sigaction by_default = { .sa_handler = SIG_DFL };
	sigset_t all;

	sigfillset(&all);
	if (sigprocmask(SIG_SETMASK, &all, &callers_mask) < 0 ||
	    sigaction(SIGCHLD, &by_default, &callers_sigchld) < 0)
		return -1;
	return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void drain(int signals)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		;
}

/*
 * Keep COMMAND's process group apart from ours and the caller's: kill(0, ...) in the box reaches neither.
 * Its leader is gone by the time COMMAND begins, which so may still make a session of its own.
 */
static pid_t make_group(int leash[2])
{
	pid_t leader;
	char go;

	if (pipe2(leash, O_CLOEXEC) < 0)
		fail("pipe");
	leader = fork();
	if (leader < 0)
		fail("fork");
	if (leader == 0) {
		close(leash[1]);
		_exit(read(leash[0], &go, 1) != 0);
	}
	close(leash[0]);
	if (setpgid(leader, leader) < 0)
		fail("make process group");
	return leader;
}

static int reap_until(pid_t awaited, int *status)
{
	pid_t reaped;
	int one;

	while ((reaped = waitpid(-1, &one, WNOHANG)) > 0)
		if (reaped == awaited) {
			*status = one;
			return 1;
		}
	return 0;
}

/*
 * Some are about to end and cannot know it yet: a helper whose pipe has just been closed by COMMAND's end.
 * Returns whether any are left.  Time is counted in polls: init has no clock once it is locked.
 */
static int outlast_grace(struct pollfd wait[2])
{
	int left = options.grace;

	for (;;) {
		pid_t reaped;

		while ((reaped = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (reaped < 0 && errno == ECHILD)
			return 0;
		if (left <= 0 || wait[1].revents)
			return 1;
		left -= poll(wait, 2, GRACE_STEP_MS) > 0 ? 1 : GRACE_STEP_MS;
		drain(wait[0].fd);
	}
}

static int exit_code(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "the filter of init knows x86_64 and aarch64"
#endif
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define GIVE(action) BPF_STMT(BPF_RET | BPF_K, action)
#define ADMIT(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), GIVE(SECCOMP_RET_ALLOW)

/*
 * A pid namespace shows init to the box, and nothing binds init: a target that may trace it could have it fork.
 * So nobody but the host's root may trace it, where root owns it and may; and from here on it can only do what is
 * left for it to do, whoever decides.
 */
static void lock(void)
{
	static struct sock_filter instructions[] = {
		LOAD(arch),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE, 1, 0),
		GIVE(SECCOMP_RET_KILL_PROCESS),
		LOAD(nr),
#ifdef SYS_poll
		ADMIT(SYS_poll),
#endif
		ADMIT(SYS_ppoll),
		ADMIT(SYS_close),
		ADMIT(SYS_read),
		ADMIT(SYS_write),
		ADMIT(SYS_kill),
		ADMIT(SYS_wait4),
		ADMIT(SYS_waitid),
		ADMIT(SYS_restart_syscall),
		ADMIT(SYS_rt_sigreturn),
		ADMIT(SYS_exit),
		ADMIT(SYS_exit_group),
		GIVE(SECCOMP_RET_KILL_PROCESS),
	};
	static const struct sock_fprog program = {
		.len = sizeof(instructions) / sizeof(instructions[0]),
		.filter = instructions,
	};

	/* Not of an ordinary user's: the controller, which must look at it, is no more than that. */
	if (geteuid() == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		fail("hide init");
	/* EINVAL: a kernel without filters, where a box without any limit can run all the same. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0 && errno != EINVAL))
		fail("lock init");
}

static _Noreturn void run_init(int guard, int signals)
{
	struct pollfd wait[2] = { { .fd = signals, .events = POLLIN }, { .fd = guard, .events = POLLIN } };
	int status = 0, guard_died = 0;
	int locked[2], group[2];
	pid_t target, leader = 0;
	unsigned char go;

	if (options.isolation == ISOLATION_NONE) {
		if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
			fail("become subreaper");
	} else if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) {
		fail("tie init to guard");
	}
	if (read(guard, &go, 1) != 1)	/* the guard failed or died */
		_exit(EXIT_INIT);
	own_ipc();
	if (options.own_session && options.command) {
		if (setsid() < 0)
			fail("setsid");
		leader = make_group(group);
	}
	enter_cgroup();
	if (options.isolation != ISOLATION_NONE)
		own_proc();
	report_ready();
	if (!options.command)
		_exit(0);
	if (pipe2(locked, O_CLOEXEC) < 0)
		fail("pipe");
	target = fork();
	if (target < 0)
		fail("fork");
	if (target == 0) {
		close(locked[1]);
		if (leader)
			close(group[1]);
		/* Not a moment beside an init that could still be taken over. */
		if (read(locked[0], &go, 1) != 0)
			_exit(EXIT_INIT);
		become_command();
	}
	close(locked[0]);
	if (leader) {
		if (setpgid(target, leader) < 0)
			fail("join process group");
		close(group[1]);
		waitpid(leader, NULL, 0);
	} else if (setpgid(0, 0) < 0) {
		fail("leave process group");
	}
	let_go_of_streams();
	if (options.isolation != ISOLATION_NONE)
		lock();
	close(locked[1]);
	for (;;) {
		if (poll(wait, 2, -1) < 0 && errno != EINTR)
			fail("poll");
		drain(signals);
		if (wait[1].revents) {
			guard_died = read(guard, &go, 1) != 1;
			if (guard_died)
				break;
			kill(target, go);
		}
		if (!reap_until(target, &status))
			continue;
		if (WIFEXITED(status))
			report(STATUS_EXITED, WEXITSTATUS(status), NULL);
		else
			report(STATUS_SIGNALED, WTERMSIG(status), NULL);
		if (options.grace && outlast_grace(wait))
			report(STATUS_LEFT, 0, NULL);
		break;
	}
	/* As pid 1 our exit takes all others along; as a subreaper we see to it. */
	if (options.isolation == ISOLATION_NONE)
		end_descendants();
	_exit(guard_died ? EXIT_INIT : exit_code(status));
}

/* ---- guard: outside ------------------------------------------------------- */

/* How many forks one cgroup has refused: "max N" in its pids.events. */
static int refused_by(const char *cgroup)
{
	char path[4096], text[256];
	const char *at;
	ssize_t got;
	int fd;

	if (strlen(cgroup) > sizeof(path) - sizeof("/pids.events"))
		return 0;
	strcpy(path, cgroup);
	strcat(path, "/pids.events");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	at = strstr(text, "max ");
	return at ? (int)strtol(at + 4, NULL, 10) : 0;
}

/* The last dead task may take a moment to leave it; the owner sweeps what is left after that. */
static void remove_one(const char *cgroup)
{
	const struct timespec pause = { .tv_nsec = 1000 * 1000 };

	for (int tries = 0; tries < 200; tries++) {
		if (!rmdir(cgroup) || errno != EBUSY)
			return;
		nanosleep(&pause, NULL);
	}
}

/* Remove a cgroup with those below it; give how many forks they have refused. */
static int remove_cgroup(const char *cgroup)
{
	DIR *directory = opendir(cgroup);
	struct dirent *entry;
	char path[4096];
	int refused = refused_by(cgroup);

	while (directory && (entry = readdir(directory))) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.' ||
		    strlen(cgroup) + strlen(entry->d_name) + 2 > sizeof(path))
			continue;
		strcpy(path, cgroup);
		strcat(path, "/");
		strcat(path, entry->d_name);
		refused += remove_cgroup(path);
	}
	if (directory)
		closedir(directory);
	remove_one(cgroup);
	return refused;
}

static pid_t clone_init(void)
{
	static const unsigned long namespaces[] = {
		[ISOLATION_USER] = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC,
		[ISOLATION_PID] = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC,
		[ISOLATION_NONE] = 0,
	};

	return (pid_t)syscall(SYS_clone, namespaces[options.isolation] | SIGCHLD, 0, 0, 0, 0);
}

/* Returns init's wait status. */
static int watch_over(pid_t init, int signals, int leash_of_init)
{
	struct pollfd wait[2 + MAX_TIES] = {
		{ .fd = signals, .events = POLLIN },
		{ .fd = options.leash, .events = POLLIN },
	};
	nfds_t count = 2;
	int status = 0;

	for (int i = 0; i < options.nr_ties; i++)
		wait[count++] = (struct pollfd){ .fd = options.ties[i], .events = POLLIN };
	for (;;) {
		unsigned char order;

		if (poll(wait, count, -1) < 0 && errno != EINTR)
			fail("poll");
		drain(signals);
		if (reap_until(init, &status))
			return status;
		for (nfds_t i = 1; i < count; i++) {
			if (!wait[i].revents)
				continue;
			if (wait[i].fd == options.leash && read(options.leash, &order, 1) == 1 &&
			    order != END_OF_BOX) {
				(void)!write(leash_of_init, &order, 1);
				continue;
			}
			kill(init, SIGKILL);
			wait[i].fd = -1;	/* said once; init's death is what we await now */
		}
	}
}

int main(int argc, char **argv)
{
	int signals, status, leash_of_init[2];
	pid_t init;

	fill_closed_streams();
	parse(argc, argv);
	callers_group = getpgrp();
	signals = open_signals();
	if (signals < 0)
		fail("open signalfd");
	if (options.isolation == ISOLATION_NONE && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		fail("become subreaper");
	if (pipe2(leash_of_init, O_CLOEXEC) < 0)
		fail("pipe");
	init = clone_init();
	if (init < 0)
		fail("make namespaces");
	if (init == 0) {
		close(leash_of_init[1]);
		close(options.leash);
		run_init(leash_of_init[0], signals);
	}
	close(leash_of_init[0]);
	/* A terminal's signals are for COMMAND; a session leader is out of their way already. */
	if (!options.own_session && setpgid(0, 0) < 0)
		fail("leave process group");
	let_go_of_streams();
	map_ids(init);
	report(STATUS_INIT, init, NULL);
	if (write(leash_of_init[1], "g", 1) != 1)
		fail("let init go");
	status = watch_over(init, signals, leash_of_init[1]);
	if (options.isolation == ISOLATION_NONE)
		end_descendants();
	if (options.cgroup)
		report(STATUS_REFUSED, remove_cgroup(options.cgroup), NULL);
	return exit_code(status);
}

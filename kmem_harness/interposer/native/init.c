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
 *	isolation=user|pid|none	  user+pid+mount namespaces, pid+mount, or a subreaper
 *	status=FD		  where struct status messages are written
 *	leash=FD		  the box is ended when this becomes readable or hangs up
 *	tie=PIDFD		  ... or when this process dies; may be given often
 *	uid_map=, gid_map=TEXT	  for isolation=user
 *	nproc=N			  RLIMIT_NPROC of COMMAND
 *	cgroup=DIR		  init enters it; the guard removes it at the end
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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "command.h"

enum { EXIT_INIT = 125, MAX_TIES = 8 };

enum status_kind {
	STATUS_INIT = 1,
	STATUS_EXITED = 2,
	STATUS_SIGNALED = 3,
	STATUS_FAILED = 4,
	STATUS_READY = 5,	/* the box is set up, COMMAND is next */
};

/* One message on the status pipe; small enough that the pipe keeps it whole. */
struct status {
	uint32_t kind;
	int32_t value;		/* pid of init, exit code, signal, errno */
	char step[24];		/* of STATUS_FAILED */
};

enum isolation { ISOLATION_USER, ISOLATION_PID, ISOLATION_NONE };

struct options {
	enum isolation isolation;
	int status, leash, nproc;
	int ties[MAX_TIES], nr_ties;
	const char *uid_map, *gid_map, *cgroup;
	char **command;
};

static struct options options = {
	.isolation = ISOLATION_NONE, .status = -1, .leash = -1, .nproc = -1,
};

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
		else {
			errno = EINVAL;
			fail("read options");
		}
	}
	options.command = at + 1 < argc ? argv + at + 1 : NULL;
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

/* A pgrp is killed as one, so that none of it can fork away between two kills. */
static void kill_descendants(void)
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
	for (int i = 0; i < count; i++) {
		if (!seen[i].inside)
			continue;
		if (seen[i].pgrp > 1 && seen[i].pgrp != getpgrp())
			kill(-seen[i].pgrp, SIGKILL);
		kill(seen[i].pid, SIGKILL);
	}
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

static void own_proc(void)
{
	/*
	 * Mounts of ours must not reach the host.  In a chroot "/" need not be a mount
	 * point; then the /proc that is there takes the new one, made private first.
	 */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 &&
	    mount(NULL, "/proc", NULL, MS_PRIVATE, NULL) < 0)
		fail("make mounts private");
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		fail("mount /proc");
}

static void enter_cgroup(void)
{
	char path[4096];

	if (!options.cgroup)
		return;
	if (strlen(options.cgroup) > sizeof(path) - sizeof("/cgroup.procs")) {
		errno = ENAMETOOLONG;
		fail("enter cgroup");
	}
	strcpy(path, options.cgroup);
	strcat(path, "/cgroup.procs");
	if (write_file(path, "0") < 0)
		fail("enter cgroup");
}

static _Noreturn void become_command(const sigset_t *mask)
{
	/* Its own session: kill(0, ...) in the box must not reach our terminal's group. */
	if (setsid() < 0)
		fail("setsid");
	if (options.nproc >= 0) {
		struct rlimit limit = { (rlim_t)options.nproc, (rlim_t)options.nproc };

		if (setrlimit(RLIMIT_NPROC, &limit) < 0)
			fail("limit processes");
	}
	if (sigprocmask(SIG_SETMASK, mask, NULL) < 0)
		fail("unblock signals");
	_exit(become("kmem-init", options.command));
}

static int open_signals(sigset_t *before)
{
	sigset_t all;

	sigfillset(&all);
	if (sigprocmask(SIG_SETMASK, &all, before) < 0)
		return -1;
	return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Pass on what was sent to us; a terminal's own signals reach the target's group anyway. */
static void forward_signals(int signals, pid_t to)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		if (info.ssi_signo != SIGCHLD && info.ssi_signo != SIGPIPE)
			kill(to, (int)info.ssi_signo);
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

static _Noreturn void run_init(int guard, int signals, const sigset_t *mask)
{
	struct pollfd wait[2] = { { .fd = signals, .events = POLLIN }, { .fd = guard } };
	int status = 0;
	int locked[2];
	pid_t target;
	char go;

	if (options.isolation == ISOLATION_NONE) {
		if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
			fail("become subreaper");
	} else if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) {
		fail("tie init to guard");
	}
	if (read(guard, &go, 1) != 1)	/* the guard failed or died */
		_exit(EXIT_INIT);
	enter_cgroup();
	if (options.isolation != ISOLATION_NONE)
		own_proc();
	report(STATUS_READY, 0, NULL);
	if (!options.command)
		_exit(0);
	if (pipe2(locked, O_CLOEXEC) < 0)
		fail("pipe");
	target = fork();
	if (target < 0)
		fail("fork");
	if (target == 0) {
		close(locked[1]);
		/* Not a moment beside an init that could still be taken over. */
		if (read(locked[0], &go, 1) != 0)
			_exit(EXIT_INIT);
		become_command(mask);
	}
	close(locked[0]);
	if (options.isolation != ISOLATION_NONE)
		lock();
	close(locked[1]);
	for (;;) {
		if (poll(wait, 2, -1) < 0 && errno != EINTR)
			fail("poll");
		if (wait[1].revents)	/* the guard is dead */
			break;
		forward_signals(signals, target);
		if (!reap_until(target, &status))
			continue;
		if (WIFEXITED(status))
			report(STATUS_EXITED, WEXITSTATUS(status), NULL);
		else
			report(STATUS_SIGNALED, WTERMSIG(status), NULL);
		break;
	}
	/* As pid 1 our exit takes all others along; as a subreaper we see to it. */
	if (options.isolation == ISOLATION_NONE)
		end_descendants();
	_exit(wait[1].revents ? EXIT_INIT : exit_code(status));
}

/* ---- guard: outside ------------------------------------------------------- */

/* The last dead task may take a moment to leave it; the owner sweeps what is left after that. */
static void remove_cgroup(void)
{
	const struct timespec pause = { .tv_nsec = 1000 * 1000 };

	for (int tries = 0; options.cgroup && tries < 200; tries++) {
		if (!rmdir(options.cgroup) || errno != EBUSY)
			return;
		nanosleep(&pause, NULL);
	}
}

static pid_t clone_init(void)
{
	static const unsigned long namespaces[] = {
		[ISOLATION_USER] = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS,
		[ISOLATION_PID] = CLONE_NEWPID | CLONE_NEWNS,
		[ISOLATION_NONE] = 0,
	};

	return (pid_t)syscall(SYS_clone, namespaces[options.isolation] | SIGCHLD, 0, 0, 0, 0);
}

/* Returns init's wait status. */
static int watch_over(pid_t init, int signals)
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
		if (poll(wait, count, -1) < 0 && errno != EINTR)
			fail("poll");
		forward_signals(signals, init);
		if (reap_until(init, &status))
			return status;
		for (nfds_t i = 1; i < count; i++) {
			if (!wait[i].revents)
				continue;
			kill(init, SIGKILL);
			wait[i].fd = -1;	/* said once; init's death is what we await now */
		}
	}
}

int main(int argc, char **argv)
{
	sigset_t mask;
	int signals, status, leash_of_init[2];
	pid_t init;

	parse(argc, argv);
	signals = open_signals(&mask);
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
		run_init(leash_of_init[0], signals, &mask);
	}
	close(leash_of_init[0]);
	map_ids(init);
	report(STATUS_INIT, init, NULL);
	if (write(leash_of_init[1], "g", 1) != 1)
		fail("let init go");
	status = watch_over(init, signals);
	if (options.isolation == ISOLATION_NONE)
		end_descendants();
	remove_cgroup();
	return exit_code(status);
}

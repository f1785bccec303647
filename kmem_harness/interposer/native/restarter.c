/*
 * kmem-restarter SOCKET TALLIES NUMBER[,NUMBER...]
 *
 * Keeps signals from failing trapped system calls.  Between the trap of a call and the moment its
 * controller receives it, the caller sleeps interruptibly.  A signal whose handler lacks SA_RESTART then
 * ends the call with EINTR, which fork, mkdir or socket never do by themselves.
 *
 * So tasks that have such a handler, and they alone, are traced (PTRACE_SEIZE).  A tracer sees each
 * signal before its handler runs, and there turns -ERESTARTSYS, which would become EINTR, into
 * -ERESTARTNOINTR: the call starts over after the handler, as the kernel does it for fork.
 *
 * The controller asks over SOCKET (SOCK_SEQPACKET) before it lets a call of these run:
 *
 *	rt_sigaction	is this a handler without SA_RESTART?  Then its process is traced from here on
 *	ptrace		somebody wants to trace a task that we trace, or to be traced: it is let go of first
 *
 * The NUMBERs are the system calls that start over; TALLIES is a file that holds struct tallies.  It
 * knows one box, and a box that makes it wait makes nobody else wait.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	EXIT_RESTARTER = 125,
	MAX_PID = 4194304,	/* PID_MAX_LIMIT */
	MAX_NUMBER = 512,	/* system calls that can be known */
	MAX_WAITS = 256,	/* tasks that are being let go of for somebody */
	PATH_SIZE = 4096,
};

/* Of include/linux/errno.h: what a call answers inside the kernel that a signal has interrupted. */
enum { ERESTARTSYS = 512, ERESTARTNOINTR = 513, ERESTARTNOHAND = 514 };

enum operation { SIGNAL_ACTION = 1, ATTACH = 2, TRACEME = 3 };

struct request {
	uint32_t operation;
	int32_t tid;		/* who calls */
	uint64_t token;		/* comes back with the answer */
	uint64_t word;		/* address of the new action; pid, as the caller counts, to be attached to */
};

enum outcome { GO_ON = 0, START_OVER = 1 };

struct answer {
	uint64_t token;
	uint32_t outcome;
	uint32_t unused;
};

struct tallies {
	uint64_t restarted;	/* calls that a signal had interrupted, and that started over */
	uint64_t untraceable;	/* tasks that need it and that we may not trace */
};

/* struct sigaction as the kernel has it; what follows does not matter here. */
struct action {
	uint64_t handler;
	uint64_t flags;
};

enum state { UNKNOWN = 0, TRACED, LEAVING };

struct wait {
	pid_t tid;
	uint64_t token;
};

static const unsigned long OPTIONS = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
				     PTRACE_O_TRACEEXEC;

static uint8_t states[MAX_PID];		/* enum state by tid; pages that are never touched cost nothing */
static uint8_t starts_over[MAX_NUMBER];
static struct wait waits[MAX_WAITS];
static int nr_waits;
static int requests_fd;
static struct tallies *tallies;

/* ---- small helpers --------------------------------------------------------- */

/* "/proc/" TID "/" NAME, or with a number of at least 0 after it: ... NAME "/" NUMBER. */
static const char *proc_path(pid_t tid, const char *name, int number)
{
	static char path[96];
	char digits[12];

	strcpy(path, "/proc/");
	for (int part = 0; part < 2; part++) {
		unsigned int value = (unsigned int)(part ? number : tid);
		char *at = digits + sizeof(digits);

		if (part && number < 0)
			break;
		*--at = '\0';
		do {
			*--at = (char)('0' + value % 10);
			value /= 10;
		} while (value);
		strcat(path, at);
		strcat(path, "/");
		if (!part)
			strcat(path, name);
		if (!part && number >= 0)
			strcat(path, "/");
	}
	if (number >= 0)
		path[strlen(path) - 1] = '\0';
	return path;
}

static int is_pid(long pid)
{
	return pid > 0 && pid < MAX_PID;
}

static void answer(uint64_t token, enum outcome outcome)
{
	struct answer answer = { .token = token, .outcome = outcome };
	ssize_t unused = send(requests_fd, &answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT);

	(void)unused;	/* the controller has a deadline for each */
}

/* ---- who is traced --------------------------------------------------------- */

/* Somebody waited for this task to be let go of: it is. */
static void has_left(pid_t tid)
{
	states[tid] = UNKNOWN;
	for (int i = 0; i < nr_waits;) {
		uint64_t token = waits[i].token;
		int others = 0;

		if (waits[i].tid != tid) {
			i++;
			continue;
		}
		waits[i] = waits[--nr_waits];
		for (int j = 0; j < nr_waits; j++)
			others |= waits[j].token == token;
		if (!others)
			answer(token, GO_ON);
	}
}

static void let_go(pid_t tid, int sig)
{
	ptrace(PTRACE_DETACH, tid, 0, (long)sig);	/* ESRCH: it has been killed */
	has_left(tid);
}

/* A task that is traced by another is in good hands: a debugger's stops hide EINTR as ours do. */
static int has_a_tracer(pid_t tid)
{
	char text[4096];
	const char *line;
	ssize_t got;
	int fd = open(proc_path(tid, "status", -1), O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 1;	/* it is gone */
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	line = strstr(text, "\nTracerPid:\t");
	return line && line[12] != '0';
}

/* Returns how many tasks of the process were not traced before. */
static int trace_tasks(pid_t tid)
{
	DIR *tasks = opendir(proc_path(tid, "task", -1));
	struct dirent *entry;
	int found = 0;

	if (!tasks)
		return 0;
	while ((entry = readdir(tasks))) {
		long task = strtol(entry->d_name, NULL, 10);

		if (!is_pid(task) || states[task] != UNKNOWN)
			continue;
		if (!ptrace(PTRACE_SEIZE, (pid_t)task, 0, OPTIONS)) {
			states[task] = TRACED;
			found++;
		} else if (errno != ESRCH && !has_a_tracer((pid_t)task)) {
			tallies->untraceable++;
		}
	}
	closedir(tasks);
	return found;
}

static void trace_process(pid_t tid)
{
	while (trace_tasks(tid) > 0)
		;	/* a task that was made meanwhile by one that was not traced yet */
}

/* ---- what interrupted calls come to ----------------------------------------- */

static ssize_t read_memory(pid_t tid, uint64_t address, void *into, size_t size)
{
	struct iovec ours = { .iov_base = into, .iov_len = size };
	struct iovec theirs = { .iov_base = (void *)(uintptr_t)address, .iov_len = size };

	return process_vm_readv(tid, &ours, 1, &theirs, 1, 0);
}

/* Reads no further than the page that the text ends in. */
static int read_path(pid_t tid, uint64_t address, char into[PATH_SIZE])
{
	size_t have = 0;

	while (have < PATH_SIZE) {
		size_t more = 4096 - (size_t)((address + have) & 4095);
		ssize_t got;

		if (more > PATH_SIZE - have)
			more = PATH_SIZE - have;
		got = read_memory(tid, address + have, into + have, more);
		if (got <= 0)
			return -1;
		if (memchr(into + have, '\0', (size_t)got))
			return 0;
		have += (size_t)got;
	}
	return -1;
}

/*
 * Opening a named pipe waits for its other end, and a signal may end that: natively, too.  Only what the
 * kernel has at hand is looked at, for a file system may never answer.
 */
static int is_named_pipe(pid_t tid, int directory, uint64_t address)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_CACHED };
	struct statx found = { 0 };
	char path[PATH_SIZE];
	int base, file, known = -1;

	if (read_path(tid, address, path) < 0)
		return 0;
	if (path[0] == '/') {
		how.resolve |= RESOLVE_IN_ROOT;
		base = open(proc_path(tid, "root", -1), O_PATH | O_CLOEXEC);
	} else if (directory == AT_FDCWD) {
		base = open(proc_path(tid, "cwd", -1), O_PATH | O_CLOEXEC);
	} else {
		base = directory < 0 ? -1 : open(proc_path(tid, "fd", directory), O_PATH | O_CLOEXEC);
	}
	if (base < 0)
		return 0;
	file = (int)syscall(SYS_openat2, base, path, &how, sizeof(how));
	if (file >= 0) {
		known = statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &found);
		close(file);
	}
	close(base);
	return !known && S_ISFIFO(found.stx_mode);
}

/* Whether a call that was interrupted starts over on every kernel, whatever its handler's flags. */
static int always_starts_over(pid_t tid, long number, const uint64_t words[3])
{
	if (number < 0 || number >= MAX_NUMBER || !starts_over[number])
		return 0;
	switch (number) {
	case SYS_fcntl:
		return words[1] != F_SETLKW && words[1] != F_OFD_SETLKW;
	case SYS_openat:
	case SYS_openat2:
		return !is_named_pipe(tid, (int)words[0], words[1]);
#ifdef SYS_open
	case SYS_open:
	case SYS_creat:
		return !is_named_pipe(tid, AT_FDCWD, words[0]);
#endif
	default:
		return 1;
	}
}

#if defined(__x86_64__)
#include <sys/user.h>

/*
 * These answer EINTR by themselves to any signal that wakes them.  A signal that is ignored wakes only
 * those who are traced.
 */
static int answers_eintr(long number)
{
	switch (number) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_rt_sigtimedwait:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_io_getevents:
		return 1;
	default:
		return 0;
	}
}

/* The task is about to take a signal: have the call that this interrupts start over, if it should. */
static int mend_call(pid_t tid)
{
	struct user_regs_struct registers;
	struct iovec place = { .iov_base = &registers, .iov_len = sizeof(registers) };
	long result, number;

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &place) < 0)
		return PTRACE_CONT;
	result = (long)registers.rax;
	number = (long)registers.orig_rax;
	if (result == -ERESTARTSYS) {
		const uint64_t words[3] = { registers.rdi, registers.rsi, registers.rdx };

		if (!always_starts_over(tid, number, words))
			return PTRACE_CONT;
		registers.rax = (unsigned long)-ERESTARTNOINTR;
		tallies->restarted++;
	} else if (result == -EINTR && answers_eintr(number)) {
		/* EINTR if a handler runs; else the call goes on. */
		registers.rax = (unsigned long)-ERESTARTNOHAND;
	} else {
		return PTRACE_CONT;
	}
	ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &place);
	return PTRACE_CONT;
}

static int mend_frame(pid_t tid, int is_stepped)
{
	(void)tid;
	(void)is_stepped;	/* nobody is: what mend_call() says is what the frame gets */
	return 0;
}
#elif defined(__aarch64__)
#include <stddef.h>
#include <sys/user.h>
#include <ucontext.h>

/*
 * Here the registers are set back to the call before a tracer sees the signal, and the frame of a handler
 * gets EINTR all the same.  So the task is stepped into its handler, and its frame is mended there.
 */
enum { SVC = 0xd4000001, MAX_FRAMES = 64 };

struct frame {			/* arch/arm64/kernel/signal.c */
	siginfo_t info;
	ucontext_t context;
};

struct mend {
	pid_t tid;
	uint64_t argument;	/* the call's first ... */
	uint64_t call;		/* ... and where it stands */
};

static struct mend mends[MAX_FRAMES];
static int nr_mends;

static int mend_call(pid_t tid)
{
	struct user_regs_struct registers;
	struct iovec place = { .iov_base = &registers, .iov_len = sizeof(registers) };
	uint32_t instruction = 0;

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &place) < 0 || nr_mends == MAX_FRAMES ||
	    read_memory(tid, registers.pc, &instruction, sizeof(instruction)) !=
		    (ssize_t)sizeof(instruction) ||
	    instruction != SVC)
		return PTRACE_CONT;
	const uint64_t words[3] = { registers.regs[0], registers.regs[1], registers.regs[2] };

	if (!always_starts_over(tid, (long)registers.regs[8], words))
		return PTRACE_CONT;
	mends[nr_mends++] = (struct mend){ tid, registers.regs[0], registers.pc };
	return PTRACE_SINGLESTEP;
}

/*
 * Whether a stop comes of such a step, which *is_stepped* if it looks so.  The task is in a handler then,
 * whose frame says where the program goes on, or beyond the call, if the signal was ignored.
 */
static int mend_frame(pid_t tid, int is_stepped)
{
	struct user_regs_struct registers;
	struct iovec place = { .iov_base = &registers, .iov_len = sizeof(registers) };
	const size_t result = offsetof(struct frame, context.uc_mcontext.regs);
	const size_t next = offsetof(struct frame, context.uc_mcontext.pc);
	struct mend mend;
	int at = 0;

	while (at < nr_mends && mends[at].tid != tid)
		at++;
	if (at == nr_mends)
		return 0;
	mend = mends[at];
	mends[at] = mends[--nr_mends];
	if (!is_stepped || ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &place) < 0 ||
	    ptrace(PTRACE_PEEKDATA, tid, registers.sp + result, 0) != -EINTR ||
	    (uint64_t)ptrace(PTRACE_PEEKDATA, tid, registers.sp + next, 0) != mend.call + 4)
		return is_stepped;
	ptrace(PTRACE_POKEDATA, tid, registers.sp + result, mend.argument);
	ptrace(PTRACE_POKEDATA, tid, registers.sp + next, mend.call);
	tallies->restarted++;
	return 1;
}
#else
#error "the registers of this machine are not known"
#endif

/* ---- stops ------------------------------------------------------------------ */

static void stopped(pid_t tid, int status)
{
	int go_on = PTRACE_CONT;
	int event = status >> 16, sig = WSTOPSIG(status);
	unsigned long former = 0;

	if (event == PTRACE_EVENT_EXEC) {
		/* Its handlers are gone; if another task than the first called, that one's number is, too. */
		if (!ptrace(PTRACE_GETEVENTMSG, tid, 0, &former) && is_pid((long)former))
			has_left((pid_t)former);
		let_go(tid, 0);
		return;
	}
	if (states[tid] == LEAVING) {
		let_go(tid, event ? 0 : sig);
		return;
	}
	states[tid] = TRACED;	/* also a child that came to us by being made */
	if (event == PTRACE_EVENT_STOP && sig != SIGTRAP) {
		ptrace(PTRACE_LISTEN, tid, 0, 0);	/* stopped as by Ctrl-Z, until SIGCONT */
		return;
	}
	if (mend_frame(tid, !event && sig == SIGTRAP))
		sig = 0;
	else if (!event)
		go_on = mend_call(tid);
	ptrace(go_on, tid, 0, (long)(event ? 0 : sig));
}

static void look_at_stops(int signals)
{
	struct signalfd_siginfo info;
	int status;
	pid_t tid;

	while (read(signals, &info, sizeof(info)) > 0)
		;
	while ((tid = waitpid(-1, &status, __WALL | WNOHANG)) > 0) {
		if (!is_pid(tid))
			continue;
		if (WIFSTOPPED(status))
			stopped(tid, status);
		else
			has_left(tid);
	}
}

/* ---- requests --------------------------------------------------------------- */

/* Whether the task is number *pid* in its own pid namespace or one above. */
static int has_number(pid_t tid, uint64_t pid)
{
	char text[4096], *at;
	ssize_t got;
	int fd = open(proc_path(tid, "status", -1), O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	at = strstr(text, "\nNSpid:");
	if (!at)
		return (uint64_t)tid == pid;
	for (at += 7; *at == '\t' || *at == ' ';) {
		if (strtoull(at, &at, 10) == pid)
			return 1;
	}
	return 0;
}

static int start_letting_go(pid_t tid)
{
	states[tid] = LEAVING;
	if (!ptrace(PTRACE_INTERRUPT, tid, 0, 0))
		return 0;
	has_left(tid);
	return -1;
}

static void attach(const struct request *request)
{
	uint8_t *at = states;
	int waiting = 0;

	while ((at = memchr(at, TRACED, (size_t)(states + MAX_PID - at)))) {
		pid_t tid = (pid_t)(at++ - states);

		if (nr_waits < MAX_WAITS && has_number(tid, request->word) && !start_letting_go(tid)) {
			waits[nr_waits++] = (struct wait){ tid, request->token };
			waiting = 1;
		}
	}
	if (!waiting)
		answer(request->token, GO_ON);
}

static void serve(const struct request *request)
{
	struct action action;

	if (!is_pid(request->tid)) {
		answer(request->token, GO_ON);
		return;
	}
	switch (request->operation) {
	case ATTACH:
		attach(request);
		return;
	case TRACEME:
		/* It waits for us and cannot stop: once it starts the call over it will have. */
		answer(request->token,
		       states[request->tid] == TRACED && !start_letting_go(request->tid) ?
			       START_OVER : GO_ON);
		return;
	case SIGNAL_ACTION:
		if (states[request->tid] == UNKNOWN &&
		    read_memory(request->tid, request->word, &action, sizeof(action)) ==
			    (ssize_t)sizeof(action) &&
		    action.handler > 1 &&	/* neither SIG_DFL nor SIG_IGN */
		    !(action.flags & SA_RESTART))
			trace_process(request->tid);
		answer(request->token, GO_ON);
		return;
	default:
		answer(request->token, GO_ON);
	}
}

static void parse_numbers(const char *text)
{
	char *end;

	for (; *text; text = *end ? end + 1 : end) {
		long number = strtol(text, &end, 10);

		if (end == text)
			_exit(EXIT_RESTARTER);
		if (number >= 0 && number < MAX_NUMBER)
			starts_over[number] = 1;
	}
}

int main(int argc, char **argv)
{
	struct pollfd ready[2];
	sigset_t all;

	if (argc != 4)
		_exit(EXIT_RESTARTER);
	signal(SIGCHLD, SIG_DFL);	/* a caller may ignore it, and then no stop would be heard of */
	requests_fd = atoi(argv[1]);
	parse_numbers(argv[3]);
	tallies = mmap(NULL, sizeof(*tallies), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
	sigfillset(&all);
	if (tallies == MAP_FAILED || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
	    sigprocmask(SIG_SETMASK, &all, NULL) < 0)
		_exit(EXIT_RESTARTER);
	ready[0] = (struct pollfd){ .fd = requests_fd, .events = POLLIN };
	ready[1] = (struct pollfd){ .fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK),
				    .events = POLLIN };
	if (ready[1].fd < 0)
		_exit(EXIT_RESTARTER);
	for (;;) {
		struct request request;
		ssize_t got;

		if (poll(ready, 2, -1) < 0 && errno != EINTR)
			_exit(EXIT_RESTARTER);
		if (ready[1].revents)
			look_at_stops(ready[1].fd);
		if (!ready[0].revents)
			continue;
		got = recv(requests_fd, &request, sizeof(request), MSG_DONTWAIT);
		if (got == (ssize_t)sizeof(request))
			serve(&request);
		else if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			_exit(0);	/* the controller is gone; so are our tasks' tracer, and their calls */
	}
}

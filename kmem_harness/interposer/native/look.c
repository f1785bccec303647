/*
 * kmem-look, with a socket for its standard input
 *
 * Looks at memory, paths and mounts that a target chose.  The kernel may make whoever does that
 * sleep for as long as a file server likes, beyond the reach of any signal; so the controller, for
 * which every box waits, asks this process, for which nobody does, and goes on without it when it
 * is late.
 *
 * One request at a time, each one packet: struct request, followed by a path where one is asked
 * about.  One answer to each: struct answer, followed by what was read.  It ends with the other
 * end of its socket.
 *
 * Between requests it waits in a system call that its own filter traps, and whose listener the
 * controller has, from the first packet on: from Linux 6.6 on the two then wake each other on one
 * processor, in two microseconds, where a socket's wake-up goes to an idle one and takes up to
 * seventy.  Where that cannot be had, the first packet has no listener, and it waits for its socket.
 *
 * It also watches names being made and removed.  What is about to be removed is found before the
 * call runs, and inotify tells when that inode is no more: not when it has lost its name and is
 * open still, and not by what a path leads to later.  What is about to be made is told by its
 * directory.  A watch keeps an inode in memory, and no mount from being unmounted, as a descriptor
 * would: between two requests it holds none of a target's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
	EXIT_REFUSED = 125,
	SOCKET = 0,
	PAGE = 4096,			/* the smallest of any machine of ours */
	LONGEST = 4096,			/* PATH_MAX, and the most that is read at once */
	NAME = 255,			/* NAME_MAX */
	MOST_BOXES = 4096,
	MOST_OF_A_BOX = 256,		/* names watched at once */
	MOST_WATCHED = 2048,		/* ... of all boxes */
	MOST_DEVICES = 8,
	MOST_DIRECTORIES = 16,		/* directories watched for the next name to be made there */
	MOST_SYMLINKS = 40,		/* as the kernel */
	MOST_COMPONENTS = 512,
	MOST_TURNS = 40,
	MOUNTS = 16,
	SHORT_MS = 20,			/* after so long without a request, loose ends are put away */
	LONG_MS = 1000,
};

/* linux/seccomp.h of Linux 6.6, and the call that is trapped: one that is here on all machines. */
enum { NEW_LISTENER = 1 << 3, SYNC_WAKE_UP = 1, WAITING = SYS_getsid };
static const unsigned long SET_FLAGS = 0x40082104;

enum operation {
	READ_MEMORY = 1,
	WATCH_REMOVAL,
	WATCH_MAKING,
	SETTLE,
	FORGET,
	COUNT_INODES,
	TIDY,
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
	uint64_t figures[5];
};

static struct {
	struct request request;
	char path[LONGEST + 1];
} asked;

static struct {
	struct answer answer;
	char bytes[LONGEST];
} said;

/* linux/openat2.h and linux/stat.h, which some C libraries lack. */
struct how {
	uint64_t flags, mode, resolve;
};
enum { NO_XDEV = 0x01, NO_MAGICLINKS = 0x02, NO_SYMLINKS = 0x04, BENEATH = 0x08 };

struct moment {
	int64_t seconds;
	uint32_t nanoseconds;
	int32_t unused;
};
struct status {
	uint32_t mask, blksize;
	uint64_t attributes;
	uint32_t nlink, uid, gid;
	uint16_t mode, unused;
	uint64_t ino, size, blocks, attributes_mask;
	struct moment atime, btime, ctime, mtime;
	uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
	uint64_t mount, more[13];
};
enum { WANT_TYPE = 0x1, WANT_INO = 0x100, WANT_BTIME = 0x800, WANT_MOUNT = 0x1000, DONT_SYNC = 0x4000 };

/* ---- memory ------------------------------------------------------------------------------- */

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

/* ---- paths -------------------------------------------------------------------------------- */

static int open_how(int at, const char *path, uint64_t flags, uint64_t resolve)
{
	struct how how = { .flags = flags | O_PATH | O_CLOEXEC, .resolve = resolve };

	return (int)syscall(SYS_openat2, at, path, &how, sizeof(how));
}

/* Asks no file server: what is known here will do. */
static int look_at(int fd, struct status *status)
{
	return (int)syscall(SYS_statx, fd, "", AT_EMPTY_PATH | DONT_SYNC,
			    WANT_TYPE | WANT_INO | WANT_BTIME | WANT_MOUNT, status);
}

static uint64_t milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Another process or machine answers for these, when it likes. */
static bool is_answered_elsewhere(const char *type)
{
	static const char *const types[] = { "9p", "afs", "autofs", "ceph", "cifs", "coda", "fuse",
					     "fuseblk", "ncpfs", "nfs", "nfs4", "smb3" };

	for (size_t at = 0; at < sizeof(types) / sizeof(*types); at++) {
		size_t length = strlen(types[at]);

		if (!strncmp(type, types[at], length) &&
		    (type[length] == ' ' || type[length] == '.'))
			return true;
	}
	return false;
}

/* From where a mount is served, and those about it. */
enum service {
	UNKNOWN,
	ELSEWHERE,
	HERE,		/* but some of the others elsewhere */
	ALL_HERE,
};

/* What a list of mounts says of one of them. */
static enum service service_in(const char *list, uint64_t mount)
{
	static char line[3 * LONGEST];
	FILE *mounts = fopen(list, "re");
	enum service found = UNKNOWN;
	bool all = true;

	if (!mounts)
		return UNKNOWN;
	while (fgets(line, sizeof(line), mounts)) {
		const char *type = strstr(line, " - ");
		bool elsewhere = !type || is_answered_elsewhere(type + 3);

		all = all && !elsewhere;
		if (strtoull(line, NULL, 10) == mount)
			found = elsewhere ? ELSEWHERE : HERE;
	}
	fclose(mounts);
	return found == HERE && all ? ALL_HERE : found;
}

/*
 * Finds a mount among those of tid, or else, for who has changed its root does not see the mount
 * that is in, among ours.  One that is nowhere may be of anything.
 */
static enum service find_service(pid_t tid, uint64_t mount)
{
	enum service found;
	char name[40];

	snprintf(name, sizeof(name), "/proc/%d/mountinfo", tid);
	found = service_in(name, mount);
	return found == UNKNOWN ? service_in("/proc/self/mountinfo", mount) : found;
}

/* What was found of a mount holds for a second: its number may be another's then. */
static enum service service_of(pid_t tid, const struct status *of)
{
	static struct {
		uint64_t until, mount;
		enum service service;
	} known[MOUNTS];
	static unsigned next;
	uint64_t now = milliseconds();

	for (unsigned at = 0; at < MOUNTS; at++)
		if (known[at].until > now && known[at].mount == of->mount)
			return known[at].service;
	next = (next + 1) % MOUNTS;
	known[next].mount = of->mount;
	known[next].service = of->mask & WANT_MOUNT ? find_service(tid, of->mount) : UNKNOWN;
	known[next].until = now + 1000;
	return known[next].service;
}

static bool same(const struct status *one, const struct status *other)
{
	return one->ino == other->ino && one->mount == other->mount;
}

/*
 * Step by step, where the path crosses mounts, goes up, or has symbolic links on its way: as the
 * target would, whose root is another than ours, and onto local mounts only.  Takes over at.
 * Gives a directory, or -1.
 */
static int walk(pid_t tid, int at, const char *path)
{
	static char rest[2 * LONGEST + 2], link[LONGEST + 1];
	struct status root, here, there;
	char name[40], *from = rest;
	int links = 0, up;

	snprintf(name, sizeof(name), "/proc/%d/root", tid);
	up = open_how(AT_FDCWD, name, O_DIRECTORY, 0);
	if (up < 0 || look_at(up, &root) || look_at(at, &here))
		goto fail;
	snprintf(rest, sizeof(rest), "%s", path);
	for (int nr = 0; nr < MOST_COMPONENTS; nr++) {
		size_t length;
		char *component;
		int next;

		from += strspn(from, "/");
		if (!*from) {
			close(up);
			return at;
		}
		length = strcspn(from, "/");
		component = from;
		from += length;
		if (*from)
			*from++ = '\0';
		if (!strcmp(component, ".") || (!strcmp(component, "..") && same(&here, &root)))
			continue;
		next = open_how(at, component, O_NOFOLLOW, 0);
		if (next < 0)
			goto fail;
		if (look_at(next, &there) ||
		    (there.mount != here.mount && service_of(tid, &there) < HERE)) {
			close(next);
			goto fail;
		}
		if ((there.mode & S_IFMT) == S_IFLNK) {
			ssize_t nr_bytes = readlinkat(next, "", link, LONGEST);
			size_t left = strlen(from);

			close(next);
			if (nr_bytes <= 0 || ++links > MOST_SYMLINKS ||
			    (size_t)nr_bytes + left + 2 > sizeof(rest))
				goto fail;
			memmove(rest + nr_bytes + 1, from, left + 1);
			memcpy(rest, link, (size_t)nr_bytes);
			rest[nr_bytes] = '/';
			from = rest;
			if (link[0] != '/')
				continue;
			next = dup(up);
			there = root;
			if (next < 0)
				goto fail;
		}
		close(at);
		at = next;
		here = there;
	}
fail:
	close(at);
	if (up >= 0)
		close(up);
	return -1;
}

/*
 * Opens the directory in which the last name of a path is, -1 if there is none, or a file server
 * would have to be asked for it.  slash is the last in path, if there is any; it is cut there.
 */
static int open_parent(pid_t tid, int directory, char *path, char *slash)
{
	enum service service = UNKNOWN;
	struct status status;
	int base, parent;
	char name[50];

	if (path[0] == '/')
		snprintf(name, sizeof(name), "/proc/%d/root", tid);
	else if (directory == AT_FDCWD)
		snprintf(name, sizeof(name), "/proc/%d/cwd", tid);
	else
		snprintf(name, sizeof(name), "/proc/%d/fd/%d", tid, directory);
	base = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (base < 0) {
		if (errno == EACCES)
			errno = EPERM;	/* nobody may look where that task is */
		return -1;
	}
	if (!look_at(base, &status))
		service = service_of(tid, &status);
	if (service < HERE) {
		close(base);
		return -1;
	}
	if (!slash || slash == path)
		return base;
	*slash = '\0';
	path += strspn(path, "/");
	parent = open_how(base, path, O_DIRECTORY,
			  NO_SYMLINKS | BENEATH | (service == ALL_HERE ? 0 : NO_XDEV));
	if (parent < 0 && errno != ENOENT && errno != ENOTDIR && errno != EACCES)
		return walk(tid, base, path);
	close(base);
	return parent;
}

/* ---- names -------------------------------------------------------------------------------- */

enum state {
	GOING,		/* a call may be removing it */
	NAMELESS,	/* it may have lost its name, and somebody holds it */
	COMING,		/* a call may be making it */
};

struct watched {
	uint32_t box;
	int32_t tid;		/* 0 where the call is over */
	int wd;
	enum state state;
	uint32_t major, minor;	/* COMING: of the device of that directory */
	char name[NAME + 1];	/* COMING: in the directory that is watched */
};

/* How many names were made on a device since they were last asked for. */
struct made {
	uint32_t major, minor, nr;
};

/* What was seen of a box's names, ever. */
struct box {
	uint32_t made, gone, unsure, nr_going, nr;
	struct made made_on[MOST_DEVICES];	/* of more devices than these nobody is told */
};

static struct watched watched[MOST_WATCHED];
static unsigned nr_watched;
static struct box boxes[MOST_BOXES];
static struct {
	int wd;
	uint64_t used, ino, mount;
} directories[MOST_DIRECTORIES];
static unsigned nr_directories;
static int notify = -1;

static bool is_watched(int wd)
{
	for (unsigned at = 0; at < nr_watched; at++)
		if (watched[at].wd == wd)
			return true;
	return false;
}

static bool is_kept(int wd)
{
	for (unsigned at = 0; at < nr_directories; at++)
		if (directories[at].wd == wd)
			return true;
	return false;
}

/* Its place is taken by the last. */
static void drop(unsigned at)
{
	struct box *box = boxes + watched[at].box;
	int wd = watched[at].wd;

	box->nr--;
	if (watched[at].state != COMING)
		box->nr_going--;
	watched[at] = watched[--nr_watched];
	if (wd >= 0 && !is_watched(wd) && !is_kept(wd))
		inotify_rm_watch(notify, wd);
}

/* The watch is gone, with what it watched. */
static void drop_all_of(int wd)
{
	for (unsigned at = nr_directories; at-- > 0;)
		if (directories[at].wd == wd)
			directories[at] = directories[--nr_directories];
	for (unsigned at = nr_watched; at-- > 0;)
		if (watched[at].wd == wd) {
			watched[at].wd = -1;
			drop(at);
		}
}

static void note_made(const struct watched *one)
{
	struct box *box = boxes + one->box;

	box->made++;
	for (struct made *made = box->made_on; made < box->made_on + MOST_DEVICES; made++)
		if (!made->nr || (made->major == one->major && made->minor == one->minor)) {
			made->major = one->major;
			made->minor = one->minor;
			made->nr++;
			return;
		}
}

static void hear_of(const struct inotify_event *event)
{
	if (event->mask & IN_Q_OVERFLOW) {	/* whatever it was */
		for (unsigned at = nr_watched; at-- > 0;)
			if (watched[at].state != COMING) {
				boxes[watched[at].box].unsure++;
				drop(at);
			}
		return;
	}
	for (unsigned at = nr_watched; at-- > 0;) {
		struct watched *one = watched + at;

		if (one->wd != event->wd)
			continue;
		if (one->state == COMING) {
			if (event->mask & IN_CREATE && event->len &&
			    !strcmp(one->name, event->name)) {
				note_made(one);
				drop(at);
				return;		/* one was made, whoever else wanted to */
			}
		} else if (event->mask & IN_DELETE_SELF) {
			boxes[one->box].gone++;
			break;			/* and it is gone once */
		} else if (event->mask & IN_ATTRIB && !event->len) {
			one->state = NAMELESS;
		}
	}
	if (event->mask & (IN_DELETE_SELF | IN_IGNORED | IN_UNMOUNT))
		drop_all_of(event->wd);
}

static void hear(void)
{
	static _Alignas(struct inotify_event) char queue[16384];
	ssize_t nr = 0;

	if (!nr_watched && !nr_directories)
		return;
	/* No more than the kernel keeps: others may be making names as fast as we hear of them. */
	for (int turn = 0; turn < MOST_TURNS; turn++) {
		nr = read(notify, queue, sizeof(queue));
		for (char *at = queue; at < queue + nr;) {
			const struct inotify_event *event = (const void *)at;

			hear_of(event);
			at += sizeof(*event) + event->len;
		}
		if (nr < (ssize_t)(sizeof(queue) - sizeof(struct inotify_event) - NAME - 1))
			break;
	}
}

/* The call that this was watched for has returned, or never will. */
static void is_over(unsigned at)
{
	struct watched *one = watched + at;

	if (one->state == NAMELESS)
		one->tid = 0;
	else
		drop(at);
}

static void judge(int32_t tid)
{
	for (unsigned at = nr_watched; at-- > 0;)
		if (watched[at].tid == tid)
			is_over(at);
}

/* Puts away what calls of threads that are gone were watched for, and directories of no more use. */
static void tidy(void)
{
	hear();
	for (unsigned at = nr_watched; at-- > 0;) {
		char name[30];

		snprintf(name, sizeof(name), "/proc/%d", watched[at].tid);
		if (watched[at].tid && access(name, F_OK))
			is_over(at);
	}
	while (nr_directories > 0) {
		int wd = directories[--nr_directories].wd;

		if (!is_watched(wd))
			inotify_rm_watch(notify, wd);
	}
}

/* Gives the watch of what fd leads to, or -1. */
static int watch(int fd)
{
	char name[40];

	if (notify < 0)
		notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return inotify_add_watch(notify, name, IN_CREATE | IN_ATTRIB | IN_DELETE_SELF);
}

/* Gives the watch of a directory, which is kept for the next name to be made there; or -1. */
static int watch_directory(int fd, struct status *status)
{
	static uint64_t turn;
	unsigned oldest = 0;
	int wd;

	if (look_at(fd, status))
		return -1;
	for (unsigned at = 0; at < nr_directories; at++) {
		if (directories[at].ino == status->ino && directories[at].mount == status->mount) {
			directories[at].used = ++turn;
			return directories[at].wd;
		}
		if (directories[at].used < directories[oldest].used)
			oldest = at;
	}
	wd = watch(fd);
	if (wd < 0)
		return -1;
	if (nr_directories < MOST_DIRECTORIES) {
		oldest = nr_directories++;
	} else {
		int old = directories[oldest].wd;

		directories[oldest].wd = -1;
		if (!is_watched(old))
			inotify_rm_watch(notify, old);
	}
	directories[oldest].wd = wd;
	directories[oldest].used = ++turn;
	directories[oldest].ino = status->ino;
	directories[oldest].mount = status->mount;
	return wd;
}

static void add(const struct request *request, int wd, enum state state, const char *name)
{
	struct watched *one = watched + nr_watched++;
	struct box *box = boxes + request->box;

	one->box = request->box;
	one->tid = request->tid;
	one->wd = wd;
	one->state = state;
	snprintf(one->name, sizeof(one->name), "%s", name);
	box->nr++;
	if (state != COMING)
		box->nr_going++;
}

/* Only what was born after the box is its own to remove: flags says when that was, in nanoseconds. */
static void watch_going(const struct request *request, int parent, const char *name)
{
	struct box *box = boxes + request->box;
	int fd = open_how(parent, name, O_NOFOLLOW, NO_XDEV), wd;
	struct status status;
	uint64_t born;

	if (fd < 0)
		return;
	if (look_at(fd, &status))
		goto out;
	born = (uint64_t)status.btime.seconds * 1000000000 + status.btime.nanoseconds;
	if (!(status.mask & WANT_BTIME)) {
		box->unsure++;
	} else if (born >= request->flags) {
		wd = watch(fd);
		if (wd < 0)
			box->unsure++;
		else
			add(request, wd, GOING, "");
	}
out:
	close(fd);
}

static void watch_coming(const struct request *request, int parent, const char *name)
{
	struct status status;
	int wd = watch_directory(parent, &status);

	if (wd < 0)
		return;
	add(request, wd, COMING, name);
	watched[nr_watched - 1].major = status.dev_major;
	watched[nr_watched - 1].minor = status.dev_minor;
}

static int watch_name(const struct request *request, char *text)
{
	bool removes = request->operation == WATCH_REMOVAL;
	struct box *box = boxes + request->box;
	char *slash, *name;
	size_t length;
	ssize_t nr;
	int parent;

	hear();
	judge(request->tid);
	if (box->nr >= MOST_OF_A_BOX || nr_watched >= MOST_WATCHED) {
		box->unsure += removes;
		return 0;
	}
	nr = read_memory(request->tid, request->address, LONGEST, text);
	if (nr < 0)
		return errno;
	if (!memchr(text, '\0', (size_t)nr))
		return ENAMETOOLONG;
	for (length = strlen(text); length > 0 && text[length - 1] == '/';)
		text[--length] = '\0';
	slash = strrchr(text, '/');
	name = slash ? slash + 1 : text;
	if (!*name || !strcmp(name, ".") || !strcmp(name, "..") || strlen(name) > NAME)
		return EINVAL;
	parent = open_parent(request->tid, request->directory, text, slash);
	if (parent < 0)
		return errno == EPERM ? EPERM : ENOENT;
	(removes ? watch_going : watch_coming)(request, parent, name);
	close(parent);
	return 0;
}

static void forget(uint32_t number)
{
	for (unsigned at = nr_watched; at-- > 0;)
		if (watched[at].box == number)
			drop(at);
	memset(boxes + number, 0, sizeof(*boxes));
}

static void tell(const struct box *box, struct answer *answer)
{
	answer->figures[0] = box->made;
	answer->figures[1] = box->gone;
	answer->figures[2] = box->unsure;
	answer->figures[3] = box->nr_going;
}

/* ---- mounts ------------------------------------------------------------------------------- */

/* The path is one of a mount as the process tid sees it, and so without symbolic links. */
static int count_inodes(pid_t tid, const char *path, struct answer *answer)
{
	static char whole[LONGEST + 40];
	struct statvfs figures;

	snprintf(whole, sizeof(whole), "/proc/%d/root%s", tid, path);
	if (statvfs(whole, &figures))
		return errno;
	answer->figures[0] = figures.f_files;
	answer->figures[1] = figures.f_ffree;
	answer->figures[2] = figures.f_blocks;
	answer->figures[3] = figures.f_bfree;
	answer->figures[4] = figures.f_fsid;
	return 0;
}

/* ---- requests ----------------------------------------------------------------------------- */

/* Gives how many bytes follow the answer. */
static size_t carry_out(const struct request *request, struct answer *answer, char *bytes)
{
	ssize_t nr;

	if (request->box >= MOST_BOXES || request->length > LONGEST) {
		answer->error = EINVAL;
		return 0;
	}
	switch (request->operation) {
	case READ_MEMORY:
		nr = read_memory(request->tid, request->address, request->length, bytes);
		if (nr >= 0)
			return (size_t)nr;
		answer->error = errno;
		return 0;
	case WATCH_REMOVAL:
	case WATCH_MAKING:
		answer->error = watch_name(request, bytes);
		tell(boxes + request->box, answer);
		return 0;
	case SETTLE:
		tidy();
		tell(boxes + request->box, answer);
		memcpy(bytes, boxes[request->box].made_on, sizeof(boxes->made_on));
		memset(boxes[request->box].made_on, 0, sizeof(boxes->made_on));
		return sizeof(boxes->made_on);
	case TIDY:
		tidy();
		return 0;
	case FORGET:
		forget(request->box);
		return 0;
	case COUNT_INODES:
		answer->error = count_inodes(request->tid, asked.path, answer);
		return 0;
	default:
		answer->error = EINVAL;
		return 0;
	}
}

/*
 * Traps WAITING, which is of no other use here, and hands over the listener in the first packet.
 * Gives whether there is one.
 */
static bool hand_over_listener(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, WAITING, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof(code) / sizeof(*code), code };
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec text = { &byte, 1 };
	struct msghdr hello = { .msg_iov = &text, .msg_iovlen = 1 };
	int listener = -1;

	if (!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, NEW_LISTENER, &filter);
	if (listener >= 0 && ioctl(listener, SET_FLAGS, SYNC_WAKE_UP)) {
		close(listener);
		listener = -1;
	}
	if (listener >= 0) {
		struct cmsghdr *head;

		hello.msg_control = control;
		hello.msg_controllen = sizeof(control);
		head = CMSG_FIRSTHDR(&hello);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(head), &listener, sizeof(int));
	}
	sendmsg(SOCKET, &hello, MSG_NOSIGNAL);
	if (listener < 0)
		return false;
	close(listener);
	return true;
}

/* Waits to be told of a request, by who has the listener. */
static ssize_t next_request_told(void)
{
	for (;;) {
		ssize_t nr = recv(SOCKET, &asked, sizeof(asked) - 1, MSG_DONTWAIT);

		if (nr >= 0 || errno != EAGAIN)
			return nr;
		if (syscall(WAITING, 0) < 0 && errno == ENOSYS)
			return 0;	/* nobody has it any more */
	}
}

/* Waits for a request; meanwhile nothing is kept for longer than it is of use. */
static ssize_t next_request(void)
{
	static int patience = -1;	/* of the socket, in milliseconds; 0 is for ever */
	int wanted = nr_watched > 0 || nr_directories > 0 ? SHORT_MS : 0;
	ssize_t nr;

	for (;;) {
		if (patience != wanted) {
			struct timeval timeout = { wanted / 1000, wanted % 1000 * 1000 };

			setsockopt(SOCKET, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
			patience = wanted;
		}
		nr = recv(SOCKET, &asked, sizeof(asked) - 1, 0);
		if (nr >= 0 || errno != EAGAIN)
			return nr;
		tidy();
		wanted = nr_watched == 0 ? 0 : wanted < LONG_MS ? wanted * 2 : LONG_MS;
	}
}

/*
 * Somebody waits each time, for some microseconds of work: a short slice lets it begin at once where
 * others fill the processors (from 6.12 on; before, it changes nothing).
 */
static void be_quick(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} wanted = { .size = sizeof(wanted), .runtime = 100000 };

	wanted.nice = getpriority(PRIO_PROCESS, 0);
	syscall(SYS_sched_setattr, 0, &wanted, 0);
}

int main(int argc, char **argv)
{
	int kind = 0;
	socklen_t size = sizeof(kind);
	bool is_told;

	(void)argv;
	if (argc != 1 || getsockopt(SOCKET, SOL_SOCKET, SO_TYPE, &kind, &size) ||
	    kind != SOCK_SEQPACKET)
		return EXIT_REFUSED;
	/* Whoever is our user could see by us what the controller may see. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	be_quick();
	if (chdir("/"))
		return EXIT_REFUSED;
	syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0);	/* from 5.9 on; there should be none */
	is_told = hand_over_listener();
	for (;;) {
		ssize_t nr = is_told ? next_request_told() : next_request();
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

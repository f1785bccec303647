/*
 * Answers the trapped calls that need no thought, without waking the interpreter: those whose price
 * is known and fits, far from every limit and every peak that must be looked at.  All else is left
 * to the controller, which is told of what was charged here before it does anything.
 *
 * The controller owns every structure, and the truth: what stands here is a copy, good for as long as
 * an account is lent.  A library for ctypes; it needs nothing but what every C library has, and is
 * linked against none, so that one build serves all of them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>

/* What ioctl takes for one. */
#ifdef __GLIBC__
typedef unsigned long request;
#else
typedef int request;
#endif

enum {
	NUMBERS = 512,		/* system calls that can be known */
	CHARGES = 32,		/* different charges of one account ... */
	FORKS = 8,		/* ... and of threads whose address space is copied */
	TESTS = 16,		/* tests of arguments, all charges together */
	DEPTH = 32,		/* counters that a charge walks */
	TOUCHED = 1024,		/* threads, a power of 2 */
	ROUNDS = 64,		/* polls before the controller has its turn again ... */
	BUSY_ROUNDS = 3,	/* ... and when it has no time to wait */
	FURTHER = 3,		/* objects for which there must be room left */
	CHANGES = 1024,		/* charges of accounts that differ */
	NOTHING = 0,		/* the charge of every call that makes nothing */
	ANSWERED = -1,
	LEFT = -2,		/* to the controller: not taken, or no room that is sure */
	UNPRICED = -3,		/* ... or nothing that is ever decided here */
	HANDED = 1,		/* taken, and left */
	IN_VAIN = 2,		/* taken, and unpriced */
};

struct counter {
	int64_t usage;
	int64_t max_usage;
	int64_t limit;
	int64_t charged;	/* bytes since the controller was told ... */
	int64_t is_listed;	/* ... which it will be */
};

struct charged {
	int64_t counter;
	int64_t nbytes;
};

/* As an argument of a call must be: equal to value, or, with any, not without all of mask. */
struct test {
	uint64_t mask;
	uint64_t value;
	uint32_t argument;
	uint32_t any;
};

struct charge {
	int64_t nbytes;
	uint32_t made;		/* calls since the controller was told */
	uint8_t first_test;
	uint8_t nr_tests;
	uint8_t left;		/* not for us */
	uint8_t copies_memory;	/* what it comes to stands among the forks */
};

/* What a call of one thread comes to that copies its address space, until so many nanoseconds. */
struct fork {
	int64_t until;
	int32_t tid;
	int32_t of;		/* the charge that it is one of */
};

struct account {
	int64_t lent;
	int64_t beyond;		/* up to what kmem usage a new peak is let by */
	uint32_t nr_counters;
	uint32_t kmem;		/* which of counters is the box's own */
	uint32_t vanished;	/* calls that were over before they were received */
	uint32_t unused;
	uint16_t counters[DEPTH];
	uint8_t prices[NUMBERS];	/* the first charge that is tried; 0: not for us */
	struct charge charges[CHARGES + FORKS];
	struct fork forks[FORKS];
	struct test tests[TESTS];
};

/* The last charge of a thread since the controller was told, for its ticket. */
struct touch {
	int32_t account;
	int32_t tid;
	int32_t charge;
};

/* So many calls of an account were charged this. */
struct change {
	int32_t account;
	int32_t charge;
	uint32_t made;
};

struct ready {
	int32_t fd;
	int32_t events;
	int32_t handed;		/* HANDED or IN_VAIN where its call was taken, else 0 */
};

struct fast_path {
	struct pollfd *fds;	/* the first is never a listener */
	int32_t *owners;	/* accounts of these listeners, -1 for none */
	struct account *accounts;
	struct counter *counters;
	struct charged *charged;	/* as many as there are counters */
	struct ready *ready;
	struct seccomp_notif *handed;	/* beside each of ready */
	uint32_t nr_fds;
	uint32_t is_told;	/* 1 when the controller knows what stands in the lists */
	uint32_t nr_changes;
	uint32_t nr_touched;
	uint32_t nr_charged;
	int32_t last_fd;	/* the listener answered last; -1: none was */
	uint32_t nr_vanished;	/* calls that were over before they were received */
	struct change changes[CHANGES];
	struct touch touched[TOUCHED];
	uint16_t slots[TOUCHED];	/* 1 + which of touched; 0: free */
};

/* Starts new lists, unless the controller has not been told of those yet. */
static void begin(struct fast_path *path)
{
	if (path->is_told)
		path->nr_changes = path->nr_touched = path->nr_charged = path->is_told = 0;
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Where the touch of this thread stands in slots, or would. */
static uint32_t slot_of(const struct fast_path *path, int32_t account, int32_t tid)
{
	uint32_t slot = ((uint32_t)tid * 2654435761u) ^ ((uint32_t)account * 40503u);

	for (slot &= TOUCHED - 1; path->slots[slot]; slot = (slot + 1) & (TOUCHED - 1)) {
		const struct touch *touch = &path->touched[path->slots[slot] - 1];

		if (touch->tid == tid && touch->account == account)
			break;
	}
	return slot;
}

/* Remembers for the controller that this thread was last allowed this. */
static void note(struct fast_path *path, int32_t account, int32_t tid, int32_t charge)
{
	uint32_t slot = slot_of(path, account, tid);
	struct touch *touch;

	if (!path->slots[slot])
		path->slots[slot] = (uint16_t)++path->nr_touched;
	touch = &path->touched[path->slots[slot] - 1];
	touch->account = account;
	touch->tid = tid;
	touch->charge = charge;
	if (!path->accounts[account].charges[charge].made++) {
		struct change *change = &path->changes[path->nr_changes++];

		change->account = account;
		change->charge = charge;
	}
}

static bool holds(const struct test *test, const struct seccomp_data *call)
{
	uint64_t word = call->args[test->argument] & test->mask;

	return test->any ? word != 0 : word == test->value;
}

/* Which charge a call meets; UNPRICED or, for a fork that is not known now, LEFT. */
static int32_t charge_of(const struct account *account, const struct seccomp_notif *call)
{
	uint32_t charge, test;

	if (call->data.nr < 0 || call->data.nr >= NUMBERS || !account->prices[call->data.nr])
		return UNPRICED;
	/* The last one of them always holds. */
	for (charge = account->prices[call->data.nr]; charge < CHARGES; charge++) {
		const struct charge *one = &account->charges[charge];

		for (test = 0; test < one->nr_tests; test++)
			if (!holds(&account->tests[one->first_test + test], &call->data))
				break;
		if (test < one->nr_tests)
			continue;
		if (one->left)
			return UNPRICED;
		if (one->copies_memory) {
			uint32_t fork = call->pid % FORKS;
			const struct fork *known = &account->forks[fork];

			if (known->tid != (int32_t)call->pid || known->of != (int32_t)charge ||
			    known->until <= now())
				return LEFT;
			return (int32_t)(CHARGES + fork);
		}
		return (int32_t)charge;
	}
	return UNPRICED;
}

/* Charges all counters or none; false where the controller has to look. */
static bool try_charge(struct fast_path *path, const struct account *account, int64_t nbytes)
{
	const struct counter *kmem = &path->counters[account->counters[account->kmem]];
	int64_t room = nbytes * FURTHER;
	bool peak = false;
	uint32_t at;

	for (at = 0; at < account->nr_counters; at++) {
		const struct counter *counter = &path->counters[account->counters[at]];
		int64_t after = counter->usage + nbytes;

		if (after + room > counter->limit)
			return false;
		peak |= after > counter->max_usage;
	}
	if (peak && kmem->usage + nbytes > account->beyond)
		return false;
	for (at = 0; at < account->nr_counters; at++) {
		uint16_t number = account->counters[at];
		struct counter *counter = &path->counters[number];

		counter->usage += nbytes;
		if (counter->usage > counter->max_usage)
			counter->max_usage = counter->usage;
		counter->charged += nbytes;
		if (!counter->is_listed) {
			counter->is_listed = 1;
			path->charged[path->nr_charged++].counter = number;
		}
	}
	return true;
}

static void uncharge(struct fast_path *path, const struct account *account, int64_t nbytes)
{
	uint32_t at;

	for (at = 0; at < account->nr_counters; at++) {
		struct counter *counter = &path->counters[account->counters[at]];

		counter->usage -= nbytes;
		counter->charged -= nbytes;
	}
}

/* Lets a call run; false if its caller is gone. */
static bool allow(int fd, uint64_t id)
{
	struct seccomp_notif_resp answer = {.id = id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};

	while (ioctl(fd, (request)SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0)
		if (errno != EINTR)
			return false;
	return true;
}

/* Charges a call of an account, and says what; LEFT or UNPRICED if it is not for us.  Answers nobody. */
int32_t kmem_decide(struct fast_path *path, int32_t number, const struct seccomp_notif *call)
{
	struct account *account = &path->accounts[number];
	int32_t charge = charge_of(account, call);
	int64_t nbytes;

	begin(path);
	if (charge < 0)
		return charge;
	nbytes = account->charges[charge].nbytes;
	if (nbytes && !try_charge(path, account, nbytes))
		return LEFT;
	if (!nbytes)
		charge = NOTHING;
	note(path, number, (int32_t)call->pid, charge);
	return charge;
}

/* Takes one waiting call and answers it; HANDED or IN_VAIN where it is the controller's. */
static int32_t serve(struct fast_path *path, int fd, int32_t number, struct seccomp_notif *call)
{
	int32_t charge;

	*call = (struct seccomp_notif){0};	/* the kernel wants it so */
	if (ioctl(fd, (request)SECCOMP_IOCTL_NOTIF_RECV, call) < 0) {
		if (errno != ENOENT)
			return errno == EINTR ? ANSWERED : LEFT;
		path->accounts[number].vanished++;
		path->nr_vanished++;
		return ANSWERED;
	}
	charge = kmem_decide(path, number, call);
	if (charge < 0)
		return charge == LEFT ? HANDED : IN_VAIN;
	path->last_fd = fd;
	if (!allow(fd, call->id) && charge != NOTHING) {
		/* It never ran. */
		struct account *account = &path->accounts[number];

		account->charges[charge].made--;
		uncharge(path, account, account->charges[charge].nbytes);
		note(path, number, (int32_t)call->pid, NOTHING);
	}
	return ANSWERED;
}

/* Says what was charged since the controller was last told. */
static void settle(struct fast_path *path)
{
	uint32_t at;

	for (at = 0; at < path->nr_changes; at++) {
		struct change *change = &path->changes[at];
		struct charge *charge = &path->accounts[change->account].charges[change->charge];

		change->made = charge->made;
		charge->made = 0;
	}
	for (at = 0; at < path->nr_charged; at++) {
		struct charged *charged = &path->charged[at];
		struct counter *counter = &path->counters[charged->counter];

		charged->nbytes = counter->charged;
		counter->charged = counter->is_listed = 0;
	}
	if (path->nr_touched)
		for (at = 0; at < TOUCHED; at++)
			path->slots[at] = 0;
	path->is_told = 1;
}

static bool is_lent(const struct fast_path *path, int32_t number)
{
	return number >= 0 && path->accounts[number].lent &&
	       path->nr_touched < TOUCHED / 2 && path->nr_changes + 1 < CHANGES;
}

/* For poll: rounded up, or it would be called again and again before the time has come. */
static int milliseconds(int64_t nanoseconds)
{
	return (int)(nanoseconds < 0 ? nanoseconds : (nanoseconds + 999999) / 1000000);
}

/*
 * Waits until the controller has something to do, for so many nanoseconds at most unless that is
 * less than none, and answers what it can meanwhile.  Gives how many of ready there are, or minus
 * an errno.
 */
int32_t kmem_wait(struct fast_path *path, int64_t patience)
{
	int64_t until = patience < 0 ? 0 : now() + patience;
	uint32_t rounds = patience == 0 ? BUSY_ROUNDS : ROUNDS;
	int32_t nr = 0, outcome;
	uint32_t round, at;

	begin(path);
	path->nr_vanished = 0;
	path->last_fd = -1;
	for (round = 0; round < rounds && nr == 0; round++) {
		int64_t left = patience < 0 ? patience : until - now();
		int found;

		if (left < 0 && patience >= 0)
			left = 0;	/* even so there is one look */
		if (left == 0 && round > 0 && patience)
			break;
		found = poll(path->fds, path->nr_fds, milliseconds(left));
		if (found < 0 && errno != EINTR)
			nr = -errno;
		if (found <= 0)
			break;
		for (at = 0; at < path->nr_fds && found > 0; at++) {
			const struct pollfd *one = &path->fds[at];

			if (!one->revents)
				continue;
			found--;
			outcome = LEFT;
			if (one->revents & POLLIN && is_lent(path, path->owners[at]))
				outcome = serve(path, one->fd, path->owners[at], &path->handed[nr]);
			if (outcome == ANSWERED)
				continue;
			path->ready[nr].fd = one->fd;
			path->ready[nr].events = one->revents;
			path->ready[nr++].handed = outcome > 0 ? outcome : 0;
		}
	}
	settle(path);
	return nr;
}

/* What the controller takes these structures to be, it can compare with this. */
void kmem_sizes(uint32_t sizes[2])
{
	sizes[0] = sizeof(struct fast_path);
	sizes[1] = sizeof(struct account);
}

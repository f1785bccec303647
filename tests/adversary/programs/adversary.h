/*
 * What the adversaries share: a bounded number of tries, tasks that stay to be counted, and what came of it all.
 *
 * A program defines siege(), which tries as long as one_more() says so. What it makes calls linger(). Everything ends
 * after TRIES tries or ten seconds, whatever surrounds it, and in all never more than some 300 tasks are made.
 *
 * If $SIEGE_BEGINS names a file, nothing happens before it is there: whoever counts is ready then.
 *
 * Arguments: TRIES [WORD...]
 * Output: made=N refused=N first_errno=NAME
 */
#ifndef ADVERSARY_H
#define ADVERSARY_H

#include "bounded.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#define LONGEST_NS (10 * NS_PER_SECOND)
#define MOST_TRIES 300
#define SIEGE_FD 100	/* the memory that an exec keeps */

struct siege {
	int64_t deadline_ns;
	atomic_int finished;
	atomic_long tries, made, refused;
	atomic_int first_errno;
};

static struct siege *memory;
static char **words;	/* after TRIES */

static void siege(void);

static inline int is_over(void)
{
	return atomic_load(&memory->finished) || now_ns() >= memory->deadline_ns;
}

static inline int one_more(void)
{
	return !is_over() && atomic_fetch_sub(&memory->tries, 1) > 0;
}

/* The result of a fork or the like as the kernel gives it: a pid, or a negative errno. */
static inline void note(long result)
{
	int none = 0;

	if (result >= 0) {
		atomic_fetch_add(&memory->made, 1);
		return;
	}
	atomic_fetch_add(&memory->refused, 1);
	atomic_compare_exchange_strong(&memory->first_errno, &none, (int)-result);
}

/* -1 with errno, as libc gives it, to what the kernel gave. */
static inline long kernels(long result)
{
	return result < 0 ? -errno : result;
}

static _Noreturn void linger(void)
{
	while (!is_over())
		nap_us(1000);
	_exit(0);
}

/* Fork a task that stays; past libc, whose locks a killed or rewritten thread may hold. */
static inline long fork_lingerer(void)
{
	long pid = kernels(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));

	if (pid == 0)
		linger();
	note(pid);
	return pid;
}

/* A box has an init of the harness's as its first process: elsewhere nothing of the kind may be touched. */
static inline int is_boxed(void)
{
	char name[16] = "";
	FILE *comm = fopen("/proc/1/comm", "r");
	int boxed = comm && fgets(name, sizeof(name), comm) && !strncmp(name, "kmem-init", 9);

	if (comm)
		fclose(comm);
	return boxed;
}

static inline void map_siege(int fresh)
{
	if (fresh) {
		int fd = (int)syscall(SYS_memfd_create, "siege", 0);

		if (fd < 0 || ftruncate(fd, sizeof(*memory)) < 0 || dup2(fd, SIEGE_FD) < 0) {
			perror("make the memory of the siege");
			exit(1);
		}
		close(fd);
	}
	memory = mmap(NULL, sizeof(*memory), PROT_READ | PROT_WRITE, MAP_SHARED, SIEGE_FD, 0);
	if (memory == MAP_FAILED) {
		perror("map the memory of the siege");
		exit(1);
	}
}

static inline void await_begin(void)
{
	const char *path = getenv("SIEGE_BEGINS");
	int64_t patience = now_ns() + LONGEST_NS;

	while (path && access(path, F_OK) < 0 && now_ns() < patience)
		nap_us(500);
}

static inline void finish(void)
{
	nap_us(20000);	/* long enough to be counted */
	int64_t patience = now_ns() + 2 * NS_PER_SECOND;

	atomic_store(&memory->finished, 1);
	while ((waitpid(-1, NULL, WNOHANG) >= 0 || errno == EINTR) && now_ns() < patience)
		nap_us(500);
	printf("made=%ld refused=%ld first_errno=%s\n", atomic_load(&memory->made),
	       atomic_load(&memory->refused), errno_name(atomic_load(&memory->first_errno)));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int again = argc > 1 && !strcmp(argv[1], "again");

	map_siege(!again);
	words = argv + (argc > 1 ? 2 : 1);
	if (!again) {
		await_begin();
		atomic_store(&memory->tries, argc > 1 ? number(argv[1], "TRIES", 1, MOST_TRIES) : 100);
		memory->deadline_ns = now_ns() + LONGEST_NS;
	}
	siege();
	finish();
	return 0;
}

#endif

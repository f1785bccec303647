/* Fork by the i386 entry, where numbers mean other calls: fork is 2, clone 120, vfork 190. x86_64 only. */
#include "adversary.h"

#include <setjmp.h>

static sigjmp_buf no_entry;

static void fault(int signal_number)
{
	(void)signal_number;
	siglongjmp(no_entry, 1);
}

static long call(long number)
{
	long result = number;

	__asm__ volatile("int $0x80" : "+a"(result) : "b"(SIGCHLD), "c"(0), "d"(0), "S"(0), "D"(0) : "memory");
	return (int)result;
}

static void siege(void)
{
	static const long numbers[] = {2, 120, 190};

	/* A kernel without the entry raises a fault. */
	signal(SIGSEGV, fault);
	if (sigsetjmp(no_entry, 1)) {
		note(-ENOSYS);
		return;
	}
	for (long at = 0; one_more(); at++) {
		long pid = call(numbers[at % 2]);

		if (pid == 0)
			linger();
		note(pid);
	}
}

/*
 * A fork bomb of raw clone3 calls, which no libc fallback softens.
 *
 * Arguments: process|thread|mixed SECONDS [NAP_US [CAP]] (see bounded.h)
 *   process  no flags, as fork
 *   thread   the flags of a thread that shares everything, with a stack of its own
 *   mixed    both in turn, made by processes and threads alike
 * Output, at the end: created=N failures=K first_errno=NAME (ENOSYS: this kernel or sandbox has no clone3)
 */
#include "rawbomb.h"

static long make_process(void)
{
	struct clone_args args = {.exit_signal = SIGCHLD};

	return raw_call(SYS_clone3, (long)&args, sizeof args, 0, 0, 0);
}

static long make_thread(char *stack, void (*run)(void))
{
	struct clone_args args = {.flags = THREAD_FLAGS, .stack = (uintptr_t)stack, .stack_size = STACK_BYTES};

	return raw_spawn(SYS_clone3, (long)&args, sizeof args, run);
}

int main(int argc, char **argv)
{
	return raw_bomb(argc, argv);
}

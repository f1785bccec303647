/*
 * A fork bomb as a Go program would be one: static, threads and processes from raw clone calls, libc never asked.
 *
 * Arguments: process|thread|mixed SECONDS [NAP_US [CAP]] (see bounded.h)
 *   process  SIGCHLD only, as fork
 *   thread   CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, as Go's runtime
 *   mixed    both in turn, made by processes and threads alike
 * Output, at the end: created=N failures=K first_errno=NAME
 */
#include "rawbomb.h"

static long make_process(void)
{
	return raw_call(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static long make_thread(char *stack, void (*run)(void))
{
	return raw_spawn(SYS_clone, THREAD_FLAGS, (long)(stack + STACK_BYTES), run);
}

int main(int argc, char **argv)
{
	return raw_bomb(argc, argv);
}

/*
 * A fork bomb of posix_spawn: every process spawns this program again, for ever (libc uses clone3 or clone with
 * CLONE_VM | CLONE_VFORK for it).
 *
 * Arguments: SECONDS [NAP_US [CAP]] (see bounded.h)
 * Output, at the end: created=N failures=K first_errno=NAME
 */
#include "execbomb.h"

#include <spawn.h>

static int start_child(char **child_argv)
{
	pid_t child = 0;

	return posix_spawn(&child, SELF, NULL, NULL, child_argv, environment);
}

int main(int argc, char **argv)
{
	return exec_bomb(argc, argv);
}

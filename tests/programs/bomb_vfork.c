/*
 * A fork bomb of vfork and exec: every process makes children for ever, each of which executes this program again.
 *
 * Arguments: SECONDS [NAP_US [CAP]] (see bounded.h)
 * Output, at the end: created=N failures=K first_errno=NAME
 */
#include "execbomb.h"

static int start_child(char **child_argv)
{
	pid_t child = vfork();

	if (child == 0) {
		execve(SELF, child_argv, environment);
		_exit(127);
	}
	return child < 0 ? errno : 0;
}

int main(int argc, char **argv)
{
	return exec_bomb(argc, argv);
}

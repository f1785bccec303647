/* Every signal to every process it can see, its init above all, and forks between. Only in a box. */
#include "adversary.h"

static void siege(void)
{
	if (!is_boxed())
		return;
	for (int number = 1; number <= 64; number++)
		signal(number, SIG_IGN);
	for (int number = 1; one_more(); number = number % 64 + 1) {
		kill(1, number);
		if (number != SIGKILL && number != SIGSTOP)
			kill(-1, number);
		fork_lingerer();
	}
}

/* Serve three requests, and go on when one fails.  Planted: what it had opened stays open then. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int serve(int fixed)
{
	int ends[2];
	int log = open("/dev/null", O_WRONLY);

	if (log < 0)
		return -1;
	if (pipe(ends) < 0) {
		if (fixed)
			close(log);
		return -1;
	}
	close(ends[0]);
	close(ends[1]);
	close(log);
	return 0;
}

int main(int argc, char **argv)
{
	int failed = 0;

	(void)argv;
	for (int request = 0; request < 3; request++)
		failed += serve(argc > 1) < 0;
	fprintf(stderr, "%d failed\n", failed);
	return 0;
}

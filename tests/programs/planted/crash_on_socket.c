/* Talk to oneself over sockets.  Planted: the ends of sockets that were not had are used. */
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const int fixed = argc > 1;
	int ends[2] = { -1, -1 };
	int *volatile had = ends;	/* volatile: else a compiler may take for granted that it is not NULL */

	(void)argv;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0) {
		had = NULL;
		if (fixed) {
			perror("socketpair");
			return 1;
		}
	}
	return write(had[0], "hello\n", 6) != 6;
}

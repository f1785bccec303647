/* Talk to oneself over sockets, as a stream.  Planted: the stream of a failed socket is used. */
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	const int fixed = argc > 1;
	int ends[2] = { -1, -1 };
	FILE *stream;

	(void)argv;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0 && fixed) {
		perror("socketpair");
		return 1;
	}
	stream = fdopen(ends[0], "w");
	if (!stream && fixed) {
		perror("fdopen");
		return 1;
	}
	fputs("hello\n", stream);
	return fclose(stream) != 0;
}

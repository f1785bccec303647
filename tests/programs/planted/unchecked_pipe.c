/* Send a line through a pipe.  Planted: nobody asks whether there is a pipe. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const int fixed = argc > 1;
	int ends[2] = { -1, -1 };
	char line[16] = "";
	ssize_t count;

	(void)argv;
	if (pipe(ends) < 0 && fixed) {
		perror("pipe");
		return 1;
	}
	count = write(ends[1], "through\n", 8);
	if (count == 8)
		count = read(ends[0], line, sizeof(line) - 1);
	if (count > 0 && write(1, line, strlen(line)) < 0)
		return 1;
	return 0;
}

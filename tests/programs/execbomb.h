/*
 * The loop of the two bombs whose children execute the program again. The including program defines start_child.
 * Children are started as: PROGRAM --tally FD
 */
#ifndef EXECBOMB_H
#define EXECBOMB_H

#include "bounded.h"

#define SELF "/proc/self/exe"

static char *const environment[] = {NULL};

/* 0, or an errno. */
static int start_child(char **child_argv);

static void multiply(struct tally *tally, char **child_argv)
{
	while (!over(tally)) {
		int place = take_place(tally);
		int error = place ? start_child(child_argv) : 0;

		if (place && !error) {
			made(tally);
		} else {
			if (place)
				refused(tally, error);
			nap_after(tally, place);
		}
		reap(tally);
	}
}

static int exec_bomb(int argc, char **argv)
{
	int is_child = argc == 3 && strcmp(argv[1], "--tally") == 0;
	int fd = is_child ? (int)number(argv[2], "FD", 0, 1000000) : memfd_create("tally", 0);
	char fd_text[16];

	if (fd < 0 || (!is_child && ftruncate(fd, sizeof(struct tally)))) {
		perror("make the tally");
		return 1;
	}
	struct tally *tally = map_tally(fd);

	if (!is_child)
		start_tally(tally, argc - 1, argv + 1);
	snprintf(fd_text, sizeof fd_text, "%d", fd);
	multiply(tally, (char *[]){argv[0], "--tally", fd_text, NULL});
	if (!is_child)
		print_tally(tally);
	return 0;
}

#endif

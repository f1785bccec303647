/*
 * Execute a command the way a container engine does: along PATH, and without handing what is no
 * program to a shell, as execvp does in some libraries and not in others.
 */
#ifndef KMEM_COMMAND_H
#define KMEM_COMMAND_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_CANNOT_EXEC = 126, EXIT_NOT_FOUND = 127 };

static void put(const char *text)
{
	ssize_t unused = write(STDERR_FILENO, text, strlen(text));

	(void)unused;	/* there is nowhere left to complain to */
}

static void complain(const char *who, const char *step, int err)
{
	put(who);
	put(": ");
	put(step);
	put(": ");
	put(strerror(err));
	put("\n");
}

/* Returns only on failure, with errno of what was most worth telling. */
static void exec_along_path(char **argv)
{
	extern char **environ;
	const char *path = getenv("PATH");
	int worst = ENOENT;
	char file[4096];

	if (strchr(argv[0], '/')) {
		execve(argv[0], argv, environ);
		return;
	}
	for (path = path ? path : "/usr/local/bin:/bin:/usr/bin"; *path;) {
		size_t folder = strcspn(path, ":"), name = strlen(argv[0]);

		if (folder > 0 && folder + name + 2 <= sizeof(file)) {
			memcpy(file, path, folder);
			file[folder] = '/';
			memcpy(file + folder + 1, argv[0], name + 1);
			execve(file, argv, environ);
			if (errno != ENOENT && errno != ENOTDIR)
				worst = errno;
			if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
				break;
		}
		path += folder + (path[folder] == ':');
	}
	errno = worst;
}

/* Becomes the command, or says why not and gives the exit status a shell would. */
static int become(const char *who, char **argv)
{
	int err;

	exec_along_path(argv);
	err = errno;
	complain(who, argv[0], err);
	return err == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXEC;
}

#endif

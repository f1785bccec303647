/*
 * kmem-runtime, in the place of an engine's OCI runtime: runc's or crun's own command line.
 *
 * Before a container is created it has a standing controller (kmem-harness serve) write the
 * container's limit into its config.json, where one is asked for; then it becomes the runtime.
 * PROGRAM.conf beside it names both:
 *
 *	runtime=/usr/sbin/runc
 *	socket=/run/kmem-harness/serve.sock.runtime
 *
 * A container that asks for a limit is not created where nobody can give it one.  Errors go
 * where runc's go: to --log, in its form, and to standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	EXIT_OWN = 125,
	EXIT_REFUSED = 1,	/* as runc leaves */
	MAX_CONFIG = 64 << 20,
	MAX_LINE = 4096,
	ANSWER_TIMEOUT_S = 20,
};

static char runtime[MAX_LINE], door[MAX_LINE];

/* What an engine said of logging, of the bundle, and of what is to be done. */
struct request {
	const char *log, *log_format, *bundle, *command, *id;
};

static void put_json(FILE *to, const char *text)
{
	for (; *text; text++) {
		unsigned char byte = (unsigned char)*text;

		if (byte == '"' || byte == '\\')
			fprintf(to, "\\%c", byte);
		else if (byte < ' ')
			fprintf(to, "\\u%04x", byte);
		else
			fputc(byte, to);
	}
}

static int refuse(const struct request *request, const char *why)
{
	const char *format = request->log_format ? request->log_format : "text";
	time_t now = time(NULL);
	char stamp[32] = "";
	struct tm parts;
	FILE *log;

	fprintf(stderr, "kmem-runtime: %s\n", why);
	if (!request->log || !(log = fopen(request->log, "ae")))
		return EXIT_REFUSED;
	if (gmtime_r(&now, &parts))
		strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", &parts);
	if (!strcmp(format, "json")) {
		fputs("{\"level\":\"error\",\"msg\":\"kmem-harness: ", log);
		put_json(log, why);
		fprintf(log, "\",\"time\":\"%s\"}\n", stamp);
	} else {
		fprintf(log, "time=\"%s\" level=error msg=\"kmem-harness: ", stamp);
		put_json(log, why);
		fputs("\"\n", log);
	}
	fclose(log);
	return EXIT_REFUSED;
}

/* Reads PROGRAM.conf; returns the name of what is missing, or NULL. */
static const char *read_settings(void)
{
	char path[PATH_MAX], line[MAX_LINE];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof(".conf"));
	FILE *file;

	if (length < 0)
		return "/proc/self/exe is";
	strcpy(path + length, ".conf");
	file = fopen(path, "re");
	if (!file)
		return "install it with kmem-harness runtime install: the settings beside it are";
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "runtime=", 8))
			snprintf(runtime, sizeof(runtime), "%s", line + 8);
		else if (!strncmp(line, "socket=", 7))
			snprintf(door, sizeof(door), "%s", line + 7);
	}
	fclose(file);
	return *runtime ? (*door ? NULL : "socket= in the settings is") : "runtime= in the settings is";
}

/* The value of --NAME VALUE or --NAME=VALUE at argv[*at], which moves on; NULL if it is another. */
static const char *value_of(char **argv, int *at, const char *name)
{
	size_t length = strlen(name);
	const char *word = argv[*at];

	if (strncmp(word, name, length))
		return NULL;
	if (word[length] == '=')
		return word + length + 1;
	return word[length] || !argv[*at + 1] ? NULL : argv[++*at];
}

static struct request read_request(char **argv)
{
	struct request request = { .bundle = "." };
	const char *value;

	for (int at = 1; argv[at]; at++) {
		if ((value = value_of(argv, &at, "--log")))
			request.log = value;
		else if ((value = value_of(argv, &at, "--log-format")))
			request.log_format = value;
		else if ((value = value_of(argv, &at, "--bundle")) || (value = value_of(argv, &at, "-b")))
			request.bundle = value;
		else if (!request.command && (!strcmp(argv[at], "create") || !strcmp(argv[at], "run")))
			request.command = argv[at];
		else if (argv[at][0] != '-')
			request.id = argv[at];	/* the last word */
	}
	return request;
}

/* Whether a container's config.json says anything that only a controller understands. */
static int asks_for_limit(const char *bundle)
{
	static const char *const words[] = {
		"\"io.github.kmem-harness.", "\"KMEM_HARNESS_LIMIT=", "\"kernel\":", "\"kernel\" :",
	};
	char path[PATH_MAX];
	struct stat status;
	char *text = NULL;
	int fd, found = 1;	/* what cannot be read is not let through */

	if (snprintf(path, sizeof(path), "%s/config.json", bundle) >= (int)sizeof(path))
		return found;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;	/* the runtime will say so */
	if (!fstat(fd, &status) && status.st_size < MAX_CONFIG)
		text = malloc((size_t)status.st_size + 1);
	if (text) {
		size_t have = 0;
		ssize_t got = 1;

		while (got > 0 && have < (size_t)status.st_size) {
			got = read(fd, text + have, (size_t)status.st_size - have);
			have += got > 0 ? (size_t)got : 0;
		}
		text[have] = 0;
		found = 0;
		for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
			found |= memmem(text, have, words[i], strlen(words[i])) != NULL;
		free(text);
	}
	close(fd);
	return found;
}

/* Has the controller write the limit; gives its answer, or NULL with errno if nobody is there. */
static const char *ask(const char *id, const char *bundle)
{
	static char answer[MAX_LINE];
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = ANSWER_TIMEOUT_S };
	const char *const words[] = { "create", id, bundle, runtime };
	size_t have = 0;
	ssize_t got = 1;
	int fd;

	if (strlen(door) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	strcpy(address.sun_path, door);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return NULL;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		goto failed;
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		size_t length = strlen(words[i]) + 1;

		if (send(fd, words[i], length, MSG_NOSIGNAL) != (ssize_t)length)
			goto failed;
	}
	if (shutdown(fd, SHUT_WR) < 0)
		goto failed;
	while (got > 0 && have < sizeof(answer) - 1) {
		got = recv(fd, answer + have, sizeof(answer) - 1 - have, 0);
		have += got > 0 ? (size_t)got : 0;
	}
	if (got < 0)
		goto failed;
	answer[have] = 0;
	close(fd);
	return answer;
failed:
	got = errno;
	close(fd);
	errno = (int)got;
	return NULL;
}

int main(int argc, char **argv)
{
	const char *missing = read_settings(), *answer;
	char bundle[PATH_MAX], why[MAX_LINE * 2];
	struct request request;

	if (missing) {
		fprintf(stderr, "kmem-runtime: %s missing\n", missing);
		return EXIT_OWN;
	}
	request = read_request(argv);
	if (argc > 1 && request.command && request.id && realpath(request.bundle, bundle) &&
	    asks_for_limit(bundle)) {
		answer = ask(request.id, bundle);
		if (!answer) {
			snprintf(why, sizeof(why),
				 "the container asks for a kernel-memory limit, and nobody gives it one at %s "
				 "(%s): start kmem-harness serve", door, strerror(errno));
			return refuse(&request, why);
		}
		if (strcmp(answer, "ok\n"))
			return refuse(&request, *answer ? answer : "the controller hung up");
	}
	execv(runtime, argv);
	snprintf(why, sizeof(why), "%s: %s", runtime, strerror(errno));
	return refuse(&request, why);
}

/* What a preloaded library must bear: calls from a constructor, a signal handler, children of threads, and with
 * a library loaded by RTLD_DEEPBIND. Prints a line each; the same in a view as without one. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int client = -1, server = -1;
static struct sockaddr_in peer;

static int connected(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM, 0);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (l < 0 || bind(l, (void *)&a, sizeof a) || listen(l, 8) || getsockname(l, (void *)&a, &n))
		return -1;
	client = socket(AF_INET, SOCK_STREAM, 0);
	peer = a;
	if (connect(client, (void *)&a, sizeof a))
		return -1;
	server = accept(l, NULL, NULL);
	close(l);
	return 0;
}

/* Heap, stack and data: where the room is must not matter. */
static int same(int fd)
{
	static struct sockaddr_in data;
	static socklen_t n;
	struct sockaddr_in here, *heap = malloc(sizeof *heap);
	socklen_t m = sizeof here;
	n = sizeof data;
	int ok = !getpeername(fd, (void *)&data, &n) && !getpeername(fd, (void *)&here, &m) && m == n && n == sizeof data;
	n = sizeof data;
	ok = ok && !getpeername(fd, (void *)heap, &n) && n == sizeof data;
	ok = ok && !memcmp(&here, &peer, sizeof here) && !memcmp(&data, &peer, sizeof here) && !memcmp(heap, &peer, sizeof here);
	free(heap);
	return ok;
}

__attribute__((constructor)) static void early(void)
{
	int made = connected();
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("constructor: %s\n", !made && same(client) ? "ok" : "no");
}

/* Neither musl nor the sanitizer has it. */
static int deep(void)
{
#if defined RTLD_DEEPBIND && !defined __SANITIZE_ADDRESS__
	return dlopen("libm.so.6", RTLD_NOW | RTLD_DEEPBIND) != NULL;
#else
	return 1;
#endif
}

static volatile sig_atomic_t handled;
static void handler(int signal)
{
	(void)signal;
	struct sockaddr_in a;
	socklen_t n = sizeof a;
	handled += !getpeername(client, (void *)&a, &n) && a.sin_port == peer.sin_port;
}

static void *forks(void *unused)
{
	(void)unused;
	for (int i = 0; i < 20; i++) {
		int status;
		pid_t child = fork();
		if (!child)
			_exit(!same(client));
		if (waitpid(child, &status, 0) != child || status)
			return (void *)1;
	}
	return NULL;
}

static volatile int done;
static void *asks(void *unused)
{
	(void)unused;
	while (!done)
		if (!same(client))
			return (void *)1;
	return NULL;
}

int main(void)
{
	pthread_t forker, asker;
	void *failed, *too;
	signal(SIGALRM, handler);
	for (int i = 0; i < 100; i++)
		raise(SIGALRM);
	printf("handler: %d\n", (int)handled);
#ifdef __SANITIZE_ADDRESS__
	/* Its allocator does not bear fork while another thread allocates. */
	done = 1;
#endif
	pthread_create(&asker, NULL, asks, NULL);
	pthread_create(&forker, NULL, forks, NULL);
	pthread_join(forker, &failed);
	done = 1;
	pthread_join(asker, &too);
	printf("fork in threads: %s\n", failed || too ? "no" : "ok");
	printf("deepbind: %s\n", deep() && same(client) ? "ok" : "no");
	int other = dup2(server, client);
	struct sockaddr_in a;
	socklen_t n = sizeof a;
	getsockname(other, (void *)&a, &n);
	printf("another socket under its number: %s\n", a.sin_port == peer.sin_port ? "ok" : "no");
	close(server);
	n = sizeof a;
	int r = getpeername(server, (void *)&a, &n);
	printf("closed: %d\n", r);
	int pair[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	dup2(pair[0], client);
	n = sizeof a;
	printf("the machine's: %d %d\n", getpeername(client, (void *)&a, &n), (int)n);
	return 0;
}

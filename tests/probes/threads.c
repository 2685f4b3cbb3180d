/* 64 threads that each make 200 sockets; each must get descriptors of its own, and connections must work. */
#include "probe.h"

enum { THREADS = 64, EACH = 200 };
static int failures, connections, port;

static void *work(void *arg)
{
	(void)arg;
	struct sockaddr_in a = v4("127.0.0.1", port);
	for (int i = 0; i < EACH; i++) {
		static const int domains[] = { AF_INET, AF_INET6, AF_NETLINK, AF_UNIX };
		int fd = socket(domains[i & 3], SOCK_DGRAM | SOCK_CLOEXEC, 0), domain = -1;
		socklen_t len = 4;
		if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != domains[i & 3])
			__sync_fetch_and_add(&failures, 1);
		close(fd);
		if (i % 50 == 0) {
			int c = socket(AF_INET, SOCK_STREAM, 0);
			if (connect(c, SA(a)) == 0)
				__sync_fetch_and_add(&connections, 1);
			close(c);
		}
	}
	return NULL;
}

int main(void)
{
	pthread_t t[THREADS];
	int l = listener(&port, 1024), before = open_fds();
	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, work, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	say("threads: failures %d connections %d leaked %d", failures, connections, open_fds() - before);
	close(l);
	return 0;
}

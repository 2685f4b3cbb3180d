/* A closed socket is closed: its port can be bound again at once. */
#include "probe.h"

static int race(int type, int rounds)
{
	int inuse = 0;
	int fd = need(socket(AF_INET, type, 0));
	struct sockaddr_in a = v4("127.0.0.1", 0);
	need(bind(fd, SA(a)));
	a.sin_port = htons(port_of(fd));
	for (int i = 0; i < rounds; i++) {
		close(fd);
		fd = need(socket(AF_INET, type, 0));
		if (bind(fd, SA(a)) < 0)
			inuse++;
	}
	close(fd);
	return inuse;
}

int main(void)
{
	say("udp: EADDRINUSE %d of 2000", race(SOCK_DGRAM, 2000));
	say("tcp: EADDRINUSE %d of 2000", race(SOCK_STREAM, 2000));
	/* The last close() of a connected socket sends FIN at once. */
	int late = 0;
	for (int i = 0; i < 500; i++) {
		int s[2];
		tcp_pair(s);
		close(s[0]);
		late += !strstr(polled_for(s[1], POLLIN | POLLRDHUP, 0), "RDHUP");
		close(s[1]);
	}
	say("fin: %s", late ? "late at times" : "at once");
	return 0;
}

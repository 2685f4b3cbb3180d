/* connect(): accepted and refused, blocking and not, seen through poll, select and epoll. */
#include "probe.h"

static int epolled(int fd, int edge, int ms)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | (edge ? EPOLLET : 0) };
	int ep = need(epoll_create1(0));
	need(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
	int first = epoll_wait(ep, &e, 1, ms) > 0 ? (int)e.events : 0;
	int again = epoll_wait(ep, &e, 1, 30) > 0 ? (int)e.events : 0;
	close(ep);
	return (edge ? !again : again == first) ? first : -1;
}

static const char *selected(int fd)
{
	fd_set r, w, x;
	struct timeval tv = { 5, 0 };
	static char buf[32];
	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_ZERO(&x);
	FD_SET(fd, &r);
	FD_SET(fd, &w);
	FD_SET(fd, &x);
	need(select(fd + 1, &r, &w, &x, &tv));
	sprintf(buf, "%s%s%s", FD_ISSET(fd, &r) ? "r" : "", FD_ISSET(fd, &w) ? "w" : "", FD_ISSET(fd, &x) ? "x" : "");
	return buf;
}

static void blocking(struct sockaddr *sa, socklen_t len, const char *name)
{
	int fd = need(socket(sa->sa_family, SOCK_STREAM, 0));
	say("%s fresh: poll %s", name, polled(fd, 0));
	int rc = connect(fd, sa, len);
	say("%s blocking: %s poll %s so_error %s", name, en(rc), polled(fd, 1000), so_error(fd));
	rc = connect(fd, sa, len);
	say("%s blocking again: %s", name, en(rc));
	struct sockaddr_storage peer;
	socklen_t plen = sizeof(peer);
	rc = getpeername(fd, (struct sockaddr *)&peer, &plen);
	say("%s blocking peer: %s", name, rc < 0 ? en(rc) : addr_text((struct sockaddr *)&peer));
	plen = sizeof(peer);
	rc = getsockname(fd, (struct sockaddr *)&peer, &plen);
	say("%s blocking name: %s", name, rc < 0 ? en(rc) : addr_text((struct sockaddr *)&peer));
	close(fd);
}

static void waiting(struct sockaddr *sa, socklen_t len, const char *name)
{
	for (int how = 0; how < 4; how++) {
		static const char *hows[] = { "poll", "select", "epoll LT", "epoll ET" };
		int fd = need(socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0));
		int rc = connect(fd, sa, len);
		int events = 0;
		const char *seen;
		if (how == 0)
			seen = polled_for(fd, POLLIN | POLLOUT | POLLRDHUP, 5000);
		else if (how == 1)
			seen = selected(fd);
		else
			events = epolled(fd, how == 3, 5000), seen = events == -1 ? "wrong repetition" : mask(events);
		say("%s nonblocking %s: connect %s events %s so_error %s", name, hows[how], en(rc), seen, so_error(fd));
		say("%s nonblocking %s after: so_error %s poll %s", name, hows[how], so_error(fd), polled(fd, 0));
		rc = connect(fd, sa, len);
		say("%s nonblocking %s again: %s", name, hows[how], en(rc));
		char c;
		ssize_t n = recv(fd, &c, 1, 0);
		say("%s nonblocking %s recv: %s", name, hows[how], result(n));
		n = send(fd, "x", 1, MSG_NOSIGNAL);
		say("%s nonblocking %s send: %s", name, hows[how], result(n));
		close(fd);
	}
	/* The error as read() tells it, without asking SO_ERROR first. */
	int fd = need(socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0));
	int rc = connect(fd, sa, len);
	polled_for(fd, POLLOUT, 5000);
	char c;
	ssize_t n = read(fd, &c, 1);
	say("%s nonblocking read: connect %s read %s", name, en(rc < 0 ? 0 : 0), result(n));
	n = read(fd, &c, 1);
	say("%s nonblocking read again: %s", name, result(n));
	close(fd);
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* Blocking connects to a listener without room, which a signal or SO_SNDTIMEO ends: they go on without the call. */
static void given_up(void)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval soon = { { 0, 0 }, { 0, 50000 } };
	struct timeval tv = { 0, 50000 };
	sigaction(SIGALRM, &sa, NULL);
	for (int how = 0; how < 4; how++) {
		static const char *hows[] = { "timeout", "signal", "refused timeout", "refused signal" };
		int port, l = listener(&port, 0), first = need(socket(AF_INET, SOCK_STREAM, 0));
		struct sockaddr_in a = v4("127.0.0.1", port);
		need(connect(first, SA(a)));
		int fd = need(socket(AF_INET, SOCK_STREAM, 0));
		if (how % 2)
			setitimer(ITIMER_REAL, &soon, NULL);
		else
			need(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)));
		int rc = connect(fd, SA(a));
		say("given up by %s: connect %s poll %s so_error %s", hows[how], en(rc), polled(fd, 0), so_error(fd));
		if (how == 0) {
			rc = connect(fd, SA(a));
			say("given up by %s: again %s", hows[how], en(rc));
		}
		if (how < 2) {
			int accepted = need(accept(l, NULL, NULL));
			close(accepted);
		} else
			close(l);
		say("given up by %s: then %s", hows[how], polled_for(fd, POLLOUT | POLLIN, 5000));
		if (how < 2)
			say("given up by %s: write %s", hows[how], result(send(fd, "x", 1, MSG_NOSIGNAL)));
		else
			say("given up by %s: so_error %s", hows[how], so_error(fd));
		rc = connect(fd, SA(a));
		say("given up by %s: last %s", hows[how], en(rc));
		if (how < 2)
			close(l);
		close(first), close(fd);
	}
}

int main(void)
{
	int port, l = listener(&port, 64);
	struct sockaddr_in good = v4("127.0.0.1", port), bad = v4("127.0.0.1", closed_port(SOCK_STREAM));
	blocking(SA(good), "v4 good");
	blocking(SA(bad), "v4 refused");
	waiting(SA(good), "v4 good");
	waiting(SA(bad), "v4 refused");

	struct sockaddr_in6 a6 = v6("::1", 0);
	int l6 = need(socket(AF_INET6, SOCK_STREAM, 0));
	need(bind(l6, SA(a6)));
	need(listen(l6, 64));
	a6.sin6_port = htons(port_of(l6));
	struct sockaddr_in6 bad6 = v6("::1", closed_port(SOCK_STREAM));
	blocking(SA(a6), "v6 good");
	blocking(SA(bad6), "v6 refused");
	waiting(SA(a6), "v6 good");
	waiting(SA(bad6), "v6 refused");

	struct sockaddr_in6 mapped = v6("::ffff:127.0.0.1", port);
	blocking(SA(mapped), "mapped");

	int fd = need(socket(AF_INET, SOCK_STREAM, 0));
	struct sockaddr_in odd = v4("255.255.255.255", 9);
	say("broadcast: %s", en(connect(fd, SA(odd))));
	odd = v4("0.0.0.0", port);
	say("any address: %s", en(connect(fd, SA(odd))));
	close(fd);
	fd = need(socket(AF_INET, SOCK_STREAM, 0));
	odd = v4("224.0.0.1", 9);
	say("multicast: %s", en(connect(fd, SA(odd))));
	odd = v4("10.1.2.3", 9);
	say("no route: %s", en(connect(fd, SA(odd))));
	say("short address: %s", en(connect(fd, (struct sockaddr *)&good, 8)));
	say("long address: %s", en(connect(fd, (struct sockaddr *)&good, 4096)));
	say("v6 address on v4: %s", en(connect(fd, SA(a6))));
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	say("AF_UNSPEC unconnected: %s", en(connect(fd, &none, sizeof(none))));
	need(connect(fd, SA(good)));
	say("AF_UNSPEC connected: %s", en(connect(fd, &none, sizeof(none))));
	say("then: %s", en(connect(fd, SA(good))));
	close(fd);
	fd = need(socket(AF_INET6, SOCK_STREAM, 0));
	say("v4 address on v6: %s", en(connect(fd, SA(good))));
	struct sockaddr_in6 ll = v6("fe80::1", 9);
	say("link-local without scope: %s", en(connect(fd, SA(ll))));
	struct sockaddr_in6 doc = v6("2001:db8::1", 9);
	say("v6 no route: %s", en(connect(fd, SA(doc))));
	close(fd);

	fd = need(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	struct linger hard = { 1, 0 };
	need(setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)));
	connect(fd, SA(good));
	polled_for(fd, POLLOUT, 5000);
	int self = need(socket(AF_INET, SOCK_STREAM, 0));
	struct sockaddr_in me = v4("127.0.0.1", 0);
	need(bind(self, SA(me)));
	me.sin_port = htons(port_of(self));
	say("to itself: %s", en(connect(self, SA(me))));
	char c = 0;
	ssize_t n = send(self, "s", 1, 0), m = recv(self, &c, 1, 0);
	say("to itself data: %s %s %c", result(n), result(m), c);
	close(l), close(l6), close(fd), close(self);
	given_up();
	return 0;
}

/* bind, listen, accept: flags, backlog, address reuse, low ports, dual stack. */
#include "probe.h"

static void accepting(void)
{
	int port, l = listener(&port, 8);
	struct sockaddr_in a = v4("127.0.0.1", port), from;
	socklen_t len = sizeof(from);
	nonblocking(l, 1);
	say("empty accept: %s poll %s", en(accept(l, NULL, NULL)), polled(l, 0));
	for (int f = 0; f < 4; f++) {
		int flags = (f & 1 ? SOCK_NONBLOCK : 0) | (f & 2 ? SOCK_CLOEXEC : 0);
		int c = need(socket(AF_INET, SOCK_STREAM, 0));
		need(connect(c, SA(a)));
		polled_for(l, POLLIN, 2000);
		int s = accept4(l, (struct sockaddr *)&from, &len, flags);
		say("accept4 %d: %s length %u from %s nonblock %d cloexec %d", f, en(s), len, addr_text((void *)&from),
		    !!(fcntl(s, F_GETFL) & O_NONBLOCK), fcntl(s, F_GETFD) & FD_CLOEXEC);
		say("accept4 %d inherits: nodelay %s", f, en(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &f, 4)));
		close(c), close(s);
	}
	say("accept4 bad flags: %s", en(accept4(l, NULL, NULL, 0x10)));
	len = 3;
	int c = need(socket(AF_INET, SOCK_STREAM, 0));
	need(connect(c, SA(a)));
	polled_for(l, POLLIN, 2000);
	int s = accept(l, (struct sockaddr *)&from, &len);
	say("accept short: %s length %u", en(s), len);
	close(c), close(s);
	int on = 1;
	socklen_t olen = 4;
	getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &on, &olen);
	say("SO_ACCEPTCONN: %d", on);
	say("connect on listener: %s", en(connect(l, SA(a))));
	say("send on listener: %s", result(send(l, "x", 1, MSG_NOSIGNAL)));
	say("recv on listener: %s", result(recv(l, &on, 1, 0)));
	say("listen again: %s", en(listen(l, 1)));
	say("shutdown listener: %s", en(shutdown(l, SHUT_RD)));
	say("shutdown listener poll: %s", polled(l, 0));
	say("accept after shutdown: %s", en(accept(l, NULL, NULL)));
	c = need(socket(AF_INET, SOCK_STREAM, 0));
	say("connect after shutdown: %s", en(connect(c, SA(a))));
	say("listen after shutdown: %s", en(listen(l, 1)));
	close(c), close(l);
	c = need(socket(AF_INET, SOCK_STREAM, 0));
	say("accept unbound: %s", en(accept(c, NULL, NULL)));
	say("listen unbound: %s", en(listen(c, 1)));
	say("listen unbound address: %s", port_of(c) ? "a port" : "none");
	close(c);
	c = need(socket(AF_INET, SOCK_DGRAM, 0));
	say("listen udp: %s", en(listen(c, 1)));
	say("accept udp: %s", en(accept(c, NULL, NULL)));
	close(c);
	say("accept on file: %s", en(accept(1, NULL, NULL)));
	say("accept on closed: %s", en(accept(99, NULL, NULL)));
}

static void backlog(void)
{
	int port, l = listener(&port, 2), c[8], done = 0;
	struct sockaddr_in a = v4("127.0.0.1", port);
	for (int i = 0; i < 8; i++) {
		c[i] = need(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
		connect(c[i], SA(a));
	}
	usleep(50000);
	for (int i = 0; i < 8; i++)
		done += !!strstr(polled_for(c[i], POLLOUT, 0), "OUT");
	say("backlog 2: %d of 8 connected", done);
	int accepted = 0;
	nonblocking(l, 1);
	while (accept(l, NULL, NULL) >= 0)
		accepted++;
	say("backlog 2: %d accepted", accepted);
	for (int i = 0; i < 8; i++)
		close(c[i]);
	close(l);
}

static void reuse(void)
{
	struct sockaddr_in a = v4("127.0.0.1", 0), any = v4("0.0.0.0", 0), other = v4("127.0.0.2", 0);
	int on = 1;
	for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
		const char *t = type == SOCK_STREAM ? "tcp" : "udp";
		int one = need(socket(AF_INET, type, 0));
		need(bind(one, SA(a)));
		int port = port_of(one);
		a.sin_port = any.sin_port = other.sin_port = htons(port);
		int two = need(socket(AF_INET, type, 0));
		say("%s same: %s", t, en(bind(two, SA(a))));
		say("%s any after specific: %s", t, en(bind(two, SA(any))));
		say("%s other address: %s", t, en(bind(two, SA(other))));
		close(two);
		two = need(socket(AF_INET, type, 0));
		setsockopt(two, SOL_SOCKET, SO_REUSEADDR, &on, 4);
		say("%s reuseaddr on second: %s", t, en(bind(two, SA(a))));
		setsockopt(one, SOL_SOCKET, SO_REUSEADDR, &on, 4);
		say("%s reuseaddr on both: %s", t, en(bind(two, SA(a))));
		if (type == SOCK_STREAM) {
			say("%s listen one: %s", t, en(listen(one, 1)));
			say("%s listen two: %s", t, en(listen(two, 1)));
		}
		close(one), close(two);
		a.sin_port = any.sin_port = other.sin_port = 0;
		one = need(socket(AF_INET, type, 0)), two = need(socket(AF_INET, type, 0));
		setsockopt(one, SOL_SOCKET, SO_REUSEPORT, &on, 4);
		setsockopt(two, SOL_SOCKET, SO_REUSEPORT, &on, 4);
		need(bind(one, SA(a)));
		a.sin_port = htons(port_of(one));
		say("%s reuseport: %s", t, en(bind(two, SA(a))));
		int three = need(socket(AF_INET, type, 0));
		say("%s reuseport against none: %s", t, en(bind(three, SA(a))));
		close(one), close(two), close(three);
		a.sin_port = 0;
	}
	int s[2];
	tcp_pair(s);
	int port = port_of(s[1]);
	close(s[1]);
	usleep(10000);
	close(s[0]);
	a.sin_port = htons(port);
	int l = need(socket(AF_INET, SOCK_STREAM, 0));
	say("time-wait: %s", en(bind(l, SA(a))));
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, 4);
	say("time-wait reuseaddr: %s", en(bind(l, SA(a))));
	say("bind twice: %s", en(bind(l, SA(a))));
	close(l);
}

static void places(void)
{
	static const int ports[] = { 1, 22, 53, 80, 443, 1023, 1024, 65535 };
	for (size_t i = 0; i < sizeof(ports) / sizeof(*ports); i++) {
		struct sockaddr_in any = v4("0.0.0.0", ports[i]);
		int fd = need(socket(AF_INET, SOCK_STREAM, 0));
		int rc = bind(fd, SA(any));
		say("bind %d: %s %s", ports[i], en(rc), en(listen(fd, 1)));
		close(fd);
	}
	static const char *addrs[] = { "127.1.2.3", "192.0.2.1", "255.255.255.255", "224.0.0.1" };
	for (size_t i = 0; i < 4; i++) {
		struct sockaddr_in a = v4(addrs[i], 0);
		int fd = need(socket(AF_INET, SOCK_STREAM, 0));
		say("bind to %s: %s", addrs[i], en(bind(fd, SA(a))));
		close(fd);
		fd = need(socket(AF_INET, SOCK_DGRAM, 0));
		say("bind udp to %s: %s", addrs[i], en(bind(fd, SA(a))));
		close(fd);
	}
	struct sockaddr_in a = v4("127.0.0.1", 0);
	int fd = need(socket(AF_INET, SOCK_STREAM, 0));
	say("bind short: %s", en(bind(fd, (void *)&a, 4)));
	say("bind long: %s", en(bind(fd, (void *)&a, 1000)));
	a.sin_family = AF_UNIX;
	say("bind AF_UNIX: %s", en(bind(fd, SA(a))));
	a.sin_family = AF_UNSPEC;
	say("bind AF_UNSPEC: %s", en(bind(fd, SA(a))));
	struct sockaddr_in6 a6 = v6("::1", 0);
	say("bind v6 on v4: %s", en(bind(fd, SA(a6))));
	close(fd);
	int l = listener(&(int){ 0 }, 1);
	socklen_t n = 2;
	int rc = getsockname(l, (void *)&a, &n);
	say("getsockname short: %s %u", en(rc), n);
	close(l);
}

static void dual(void)
{
	int on = 1, off = 0;
	struct sockaddr_in6 any6 = v6("::", 0), from;
	int l = need(socket(AF_INET6, SOCK_STREAM, 0));
	socklen_t olen = 4;
	int v6only = -1;
	getsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, &olen);
	say("v6only default: %d", v6only);
	need(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &off, 4));
	need(bind(l, SA(any6)));
	need(listen(l, 4));
	int port = port_of(l);
	struct sockaddr_in a = v4("127.0.0.1", port), any = v4("0.0.0.0", port);
	int c = need(socket(AF_INET, SOCK_STREAM, 0));
	say("v4 to dual: %s", en(connect(c, SA(a))));
	socklen_t len = sizeof(from);
	int s = need(accept(l, (void *)&from, &len));
	say("v4 to dual seen from: %s length %u", addr_text((void *)&from), len);
	len = sizeof(from);
	getsockname(s, (void *)&from, &len);
	say("v4 to dual seen at: %s", addr_text((void *)&from));
	close(c), close(s);
	int four = need(socket(AF_INET, SOCK_STREAM, 0));
	say("v4 any beside dual: %s", en(bind(four, SA(any))));
	close(l);
	l = need(socket(AF_INET6, SOCK_STREAM, 0));
	need(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &on, 4));
	need(bind(l, SA(any6)));
	any.sin_port = a.sin_port = htons(port_of(l));
	need(listen(l, 4));
	close(four);
	four = need(socket(AF_INET, SOCK_STREAM, 0));
	say("v4 any beside v6only: %s", en(bind(four, SA(any))));
	close(four);
	c = need(socket(AF_INET, SOCK_STREAM, 0));
	say("v4 to v6only: %s", en(connect(c, SA(a))));
	say("v6only after bind: %s", en(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &off, 4)));
	close(c), close(l);
	struct sockaddr_in6 ll = v6("fe80::1", 0);
	l = need(socket(AF_INET6, SOCK_STREAM, 0));
	say("bind link-local without scope: %s", en(bind(l, SA(ll))));
	ll.sin6_scope_id = 1;
	say("bind link-local on lo: %s", en(bind(l, SA(ll))));
	close(l);
}

static void closing(void)
{
	int port, l, c[3], refused = 0;
	for (int i = 0; i < 200; i++) {
		l = listener(&port, 4);
		struct sockaddr_in a = v4("127.0.0.1", port);
		close(l);
		c[0] = need(socket(AF_INET, SOCK_STREAM, 0));
		refused += connect(c[0], SA(a)) < 0 && errno == ECONNREFUSED;
		close(c[0]);
	}
	say("closed listener: refused %d of 200", refused);
	l = listener(&port, 4);
	struct sockaddr_in a = v4("127.0.0.1", port);
	for (int i = 0; i < 3; i++) {
		c[i] = need(socket(AF_INET, SOCK_STREAM, 0));
		need(connect(c[i], SA(a)));
	}
	polled_for(l, POLLIN, 2000);
	close(l);
	for (int i = 0; i < 3; i++) {
		char b;
		const char *seen = polled_for(c[i], POLLIN, 2000);
		say("closed with connection %d waiting: poll %s recv %s", i, seen, result(recv(c[i], &b, 1, MSG_DONTWAIT)));
		close(c[i]);
	}
}

static void again(void)
{
	int port, l = listener(&port, 4);
	struct sockaddr_in a = v4("127.0.0.1", port);
	int c = need(socket(AF_INET, SOCK_STREAM, 0));
	char b;
	need(connect(c, SA(a)));
	polled_for(l, POLLIN, 2000);
	need(shutdown(l, SHUT_RD));
	const char *seen = polled_for(c, POLLIN, 2000);
	say("shut with a connection waiting: poll %s recv %s", seen, result(recv(c, &b, 1, MSG_DONTWAIT)));
	close(c), close(l);
	l = listener(&port, 4);
	a.sin_port = htons(port);
	c = need(socket(AF_INET, SOCK_STREAM, 0));
	need(connect(c, SA(a)));
	int s = need(accept(l, NULL, NULL));
	need(shutdown(s, SHUT_WR));
	polled_for(c, POLLIN, 2000);
	close(s);
	need(shutdown(c, SHUT_WR));
	usleep(20000);
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	say("dissolve what is over: %s", en(connect(c, &none, sizeof(none))));
	say("connect again: %s", en(connect(c, SA(a))));
	s = need(accept(l, NULL, NULL));
	ssize_t n = send(c, "x", 1, MSG_NOSIGNAL);
	say("connect again data: %s %s", result(n), result(recv(s, &b, 1, 0)));
	close(c), close(s), close(l);
}

/* A connection for which there is no descriptor waits for one. */
static void crowded(void)
{
	struct rlimit old, few;
	int port, l = listener(&port, 4), c = need(socket(AF_INET, SOCK_STREAM, 0)), last = l;
	struct sockaddr_in a = v4("127.0.0.1", port);
	need(connect(c, SA(a)));
	polled_for(l, POLLIN, 2000);
	need(getrlimit(RLIMIT_NOFILE, &old));
	few = (struct rlimit){ 32, old.rlim_max };
	need(setrlimit(RLIMIT_NOFILE, &few));
	for (int fd; (fd = dup(l)) >= 0;)
		last = fd;
	say("accept without room: %s", en(accept(l, NULL, NULL)));
	close(last);
	nonblocking(l, 1);
	say("accept with room: poll %s", polled_for(l, POLLIN, 2000));
	say("accept with room: %s", en(accept(l, NULL, NULL)));
	say("accept of nothing without room: %s", en(accept(l, NULL, NULL)));
	need(setrlimit(RLIMIT_NOFILE, &old));
	for (int fd = 3; fd < 32; fd++)
		close(fd);
}

/* Who closes while connecting sends no SYN any more. */
static void giving_up(void)
{
	int port, l = listener(&port, 0), c[3], accepted = 0;
	struct sockaddr_in a = v4("127.0.0.1", port);
	c[0] = need(socket(AF_INET, SOCK_STREAM, 0));
	need(connect(c[0], SA(a)));
	for (int i = 1; i < 3; i++) {
		c[i] = need(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
		say("connect %d to a full listener: %s", i, en(connect(c[i], SA(a))));
		usleep(20000);
		close(c[i]);
	}
	nonblocking(l, 1);
	for (int i = 0; i < 15; i++) {
		while (accept(l, NULL, NULL) >= 0)
			accepted++;
		usleep(100000);
	}
	say("full listener: %d accepted", accepted);
	close(c[0]), close(l);
}

static void *unblock(void *arg)
{
	usleep(50000);
	shutdown(*(int *)arg, SHUT_RDWR);
	return NULL;
}

int main(void)
{
	accepting();
	backlog();
	closing();
	giving_up();
	again();
	crowded();
	reuse();
	places();
	dual();
	int l = listener(&(int){ 0 }, 1);
	pthread_t t;
	pthread_create(&t, NULL, unblock, &l);
	say("blocked accept, shutdown elsewhere: %s", en(accept(l, NULL, NULL)));
	pthread_join(t, NULL);
	return 0;
}

/* UDP-Lite: coverage of the checksum, ports, errors. And MPTCP with a peer that has none. */
#include "probe.h"

#define LITE 136
#define SEND_CSCOV 10
#define RECV_CSCOV 11

static void option(int fd, const char *who, int level, int name, int value)
{
	int before = -1, after = -1;
	socklen_t len = 4;
	char got[40];
	snprintf(got, sizeof(got), "%s", en(getsockopt(fd, level, name, &before, &len)));
	const char *set = en(setsockopt(fd, level, name, &value, 4));
	len = 4;
	getsockopt(fd, level, name, &after, &len);
	say("%s level %d option %d=%d: get %s %d set %s get %d", who, level, name, value, got, before, set, after);
}

static unsigned sum(const unsigned char *p, int n)
{
	unsigned s = 0;
	for (int i = 0; i < n; i++)
		s += i & 1 ? p[i] : p[i] << 8;
	return s;
}

/* What a raw socket sees of a datagram: the coverage, and whether the sum over it is right. */
static void seen(int raw, const char *what)
{
	unsigned char p[256];
	polled_for(raw, POLLIN, 300);
	int n = recv(raw, p, sizeof(p), MSG_DONTWAIT);
	if (n < 28) {
		say("%s seen: nothing", what);
		return;
	}
	unsigned char *h = p + 20;
	int length = n - 20, field = h[4] << 8 | h[5], covered = field ? field : length;
	unsigned s = sum(p + 12, 8) + LITE + length + (covered <= length ? sum(h, covered) : 0);
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	say("%s seen: length %d covered %d sum %s", what, length, field, s == 0xffff ? "right" : "wrong");
}

static void lite(int family)
{
	char who[16];
	sprintf(who, "lite%d", family == AF_INET ? 4 : 6);
	int to = socket(family, SOCK_DGRAM, LITE), from = need(socket(family, SOCK_DGRAM, LITE)), raw = -1, number;
	struct sockaddr_in a = v4("127.0.0.1", 0);
	struct sockaddr_in6 a6 = v6("::1", 0);
	struct sockaddr *where = family == AF_INET ? (void *)&a : (void *)&a6;
	socklen_t length = family == AF_INET ? sizeof(a) : sizeof(a6);
	need(bind(to, where, length));
	a.sin_port = a6.sin6_port = htons(port_of(to));
	int udp = need(socket(family, SOCK_DGRAM, 0)), second = need(socket(family, SOCK_DGRAM, LITE));
	say("%s same port of UDP: %s", who, en(bind(udp, where, length)));
	say("%s same port again: %s", who, en(bind(second, where, length)));
	if (family == AF_INET)
		raw = need(socket(AF_INET, SOCK_RAW, LITE));
	static const int coverages[] = { 0, 8, 12, 20, 1000 };
	char data[64] = "0123456789abcdef", got[64], what[64];
	need(connect(from, where, length));
	say("%s plain: %s", who, result(send(from, data, 16, 0)));
	if (raw >= 0)
		seen(raw, who);
	polled_for(to, POLLIN, 300);
	say("%s plain arrives: %s", who, result(recv(to, got, sizeof(got), MSG_DONTWAIT)));
	for (int least = -1; least < 5; least++) {
		if (least >= 0)
			need(setsockopt(to, LITE, RECV_CSCOV, &coverages[least], 4));
		for (int c = 0; c < 5; c++) {
			need(setsockopt(from, LITE, SEND_CSCOV, &coverages[c], 4));
			need(send(from, data, 16, 0));
			sprintf(what, "%s covered %d wanted %d", who, coverages[c], least < 0 ? -1 : coverages[least]);
			if (raw >= 0)
				seen(raw, what);
			polled_for(to, POLLIN, 20);
			say("%s: %s", what, result(recv(to, got, sizeof(got), MSG_DONTWAIT)));
		}
	}
	static const int values[] = { 0, 4, 8, 100, 70000, -1 };
	for (int i = 0; i < 6; i++)
		option(second, who, LITE, SEND_CSCOV, values[i]), option(second, who, IPPROTO_UDP, RECV_CSCOV, values[i]);
	option(udp, "udp", LITE, SEND_CSCOV, 8), option(udp, "udp", IPPROTO_UDP, RECV_CSCOV, 8);
	option(udp, "udp", LITE, 103, 100), option(second, who, LITE, 103, 10);
	say("%s segments: %s", who, result(sendto(second, data, 30, 0, where, length)));
	number = 0;
	need(setsockopt(second, IPPROTO_UDP, 103, &number, 4));
	close(to);
	say("%s to nobody: %s", who, result(send(from, data, 16, 0)));
	polled_for(from, POLLIN, 100);
	say("%s to nobody error: %s", who, so_error(from));
	close(from), close(udp), close(second);
	if (raw >= 0)
		close(raw);
}

static void multipath(int family)
{
	char who[16];
	sprintf(who, "mptcp%d", family == AF_INET ? 4 : 6);
	int fd = socket(family, SOCK_STREAM, 262), l = need(socket(family, SOCK_STREAM, 0)), protocol = 0;
	struct sockaddr_in a = v4("127.0.0.1", 0);
	struct sockaddr_in6 a6 = v6("::1", 0);
	struct sockaddr *where = family == AF_INET ? (void *)&a : (void *)&a6;
	socklen_t length = family == AF_INET ? sizeof(a) : sizeof(a6), len = 4;
	need(bind(l, where, length)), need(listen(l, 1));
	a.sin_port = a6.sin6_port = htons(port_of(l));
	option(fd, who, IPPROTO_TCP, TCP_NODELAY, 1), option(fd, who, SOL_SOCKET, SO_KEEPALIVE, 1);
	say("%s connect: %s", who, en(connect(fd, where, length)));
	int peer = need(accept(l, NULL, NULL));
	getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len);
	say("%s protocol afterwards: %d", who, protocol);
	getsockopt(peer, SOL_SOCKET, SO_PROTOCOL, &protocol, &len);
	say("%s peer's protocol: %d", who, protocol);
	char got[8];
	say("%s send: %s", who, result(send(fd, "hello", 5, 0)));
	say("%s arrives: %s", who, result(recv(peer, got, sizeof(got), 0)));
	int is = -1;
	len = 4;
	const char *e = en(getsockopt(fd, IPPROTO_TCP, 43 /* TCP_IS_MPTCP */, &is, &len));
	say("%s is it: %s %d", who, e, is);
	e = en(getsockopt(peer, IPPROTO_TCP, 43, &is, &len));
	say("%s is the peer: %s %d", who, e, is);
	char info[256];
	len = sizeof(info);
	say("%s MPTCP_INFO: %s", who, en(getsockopt(fd, 284 /* SOL_MPTCP */, 1, info, &len)));
	len = sizeof(info);
	say("%s MPTCP_INFO of the peer: %s", who, en(getsockopt(peer, 284, 1, info, &len)));
	int before = 0, after = 1, wish = 1000;
	len = 4;
	getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &before, &len);
	e = en(setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &wish, 4));
	getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &after, &len);
	say("%s TCP_MAXSEG of a connection: %s %s", who, e, before == after ? "without effect" : "in effect");
	option(fd, who, IPPROTO_TCP, TCP_QUICKACK, 0);
	option(fd, who, IPPROTO_TCP, TCP_USER_TIMEOUT, 1000), option(fd, who, IPPROTO_TCP, 999, 0);
	close(peer);
	say("%s end: %s", who, result(recv(fd, got, sizeof(got), 0)));
	close(fd), close(l);
	/* Without a connection, and as a listener. */
	fd = need(socket(family, SOCK_STREAM, 262));
	a.sin_port = a6.sin6_port = 0;
	say("%s bind: %s", who, en(bind(fd, where, length)));
	say("%s listen: %s", who, en(listen(fd, 3)));
	a.sin_port = a6.sin6_port = htons(port_of(fd));
	int plain = need(socket(family, SOCK_STREAM, 0));
	say("%s plain connect: %s", who, en(connect(plain, where, length)));
	peer = accept(fd, NULL, NULL);
	len = 4;
	getsockopt(peer, SOL_SOCKET, SO_PROTOCOL, &protocol, &len);
	say("%s accepted: protocol %d", who, protocol);
	close(peer), close(plain), close(fd);
}

int main(void)
{
	/* These show the machine's kernel, in a view as well. */
	if (access("/proc/net/udplite", R_OK) == 0)
		lite(AF_INET), lite(AF_INET6);
	if (access("/proc/sys/net/mptcp/enabled", R_OK) == 0)
		multipath(AF_INET), multipath(AF_INET6);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

/* UDP: connected and not, truncation, errors, many at once, multicast on loopback, packet information. */
#include "probe.h"

static int bound(int family, int *port)
{
	int fd = need(socket(family, SOCK_DGRAM, 0));
	struct sockaddr_in a = v4("127.0.0.1", 0);
	struct sockaddr_in6 a6 = v6("::1", 0);
	if (family == AF_INET)
		need(bind(fd, SA(a)));
	else
		need(bind(fd, SA(a6)));
	*port = port_of(fd);
	return fd;
}

static void plain(void)
{
	int pa, pb, a = bound(AF_INET, &pa), b = bound(AF_INET, &pb), n = -1;
	struct sockaddr_in to = v4("127.0.0.1", pb), from;
	socklen_t len = sizeof(from);
	char buf[128];
	say("fresh poll: %s", polled(a, 0));
	say("send unconnected: %s", result(send(a, "x", 1, 0)));
	say("recv empty: %s", result(recv(a, buf, 1, MSG_DONTWAIT)));
	say("sendto: %s", result(sendto(a, "0123456789", 10, 0, SA(to))));
	say("zero length: %s", result(sendto(a, "", 0, 0, SA(to))));
	say("poll: %s", polled_for(b, POLLIN | POLLOUT, 1000));
	int rc = ioctl(b, FIONREAD, &n);
	say("FIONREAD: %s %d", en(rc), n);
	say("peek|trunc: %s", result(recv(b, buf, 2, MSG_PEEK | MSG_TRUNC)));
	struct iovec io = { buf, 4 };
	struct msghdr m = { &from, sizeof(from), &io, 1, NULL, 0, 0 };
	ssize_t r = recvmsg(b, &m, 0);
	say("recvmsg: %s flags %#x name %u from %s %s", result(r), m.msg_flags, m.msg_namelen,
	    addr_text((void *)&from), from.sin_port == htons(pa) ? "port right" : "port wrong");
	r = recvfrom(b, buf, 8, 0, (void *)&from, &len);
	say("zero length recv: %s from %s", result(r), addr_text((void *)&from));
	say("too long: %s", ({ static char big[70000]; result(sendto(a, big, 65508, 0, SA(to))); }));
	say("longest: %s", ({ static char big[70000]; result(sendto(a, big, 65507, 0, SA(to))); }));
	say("longest recv: %s", ({ static char big[70000]; polled_for(b, POLLIN, 1000); result(recv(b, big, 70000, MSG_DONTWAIT)); }));
	say("connect: %s", en(connect(a, SA(to))));
	say("send connected: %s", result(send(a, "c", 1, 0)));
	say("sendto other while connected: %s", result(sendto(a, "d", 1, 0, SA(to))));
	len = sizeof(from);
	say("getpeername: %s", en(getpeername(a, (void *)&from, &len)));
	/* A connected socket hears its peer only. */
	int pc, c = bound(AF_INET, &pc);
	struct sockaddr_in toa = v4("127.0.0.1", pa);
	need(sendto(c, "stranger", 8, 0, SA(toa)));
	need(sendto(b, "peer", 4, 0, SA(toa)));
	polled_for(a, POLLIN, 1000);
	say("connected hears: %s", result(recv(a, buf, 64, MSG_DONTWAIT)));
	say("connected hears more: %s", result(recv(a, buf, 64, MSG_DONTWAIT)));
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	say("disconnect: %s", en(connect(a, &none, sizeof(none))));
	say("getpeername after: %s", en(getpeername(a, (void *)&from, &len)));
	struct sockaddr_in bad = v4("255.255.255.255", 9);
	say("broadcast without permission: %s", result(sendto(c, "x", 1, 0, SA(bad))));
	bad = v4("10.1.2.3", 9);
	say("no route: %s", result(sendto(c, "x", 1, 0, SA(bad))));
	bad = v4("127.0.0.1", 0);
	say("port 0: %s", result(sendto(c, "x", 1, 0, SA(bad))));
	say("short address: %s", result(sendto(c, "x", 1, 0, (void *)&to, 5)));
	say("shutdown unconnected: %s", en(shutdown(c, SHUT_RDWR)));
	close(a), close(b), close(c);
}

static void refused(int family)
{
	int port = closed_port(SOCK_DGRAM), on = 1, fd = need(socket(family, SOCK_DGRAM, 0));
	struct sockaddr_in to = v4("127.0.0.1", port);
	struct sockaddr_in6 to6 = v6("::1", port);
	struct sockaddr *sa = family == AF_INET ? (void *)&to : (void *)&to6;
	socklen_t len = family == AF_INET ? sizeof(to) : sizeof(to6);
	const char *f = family == AF_INET ? "v4" : "v6";
	char buf[256], control[512];
	say("%s unconnected to closed port: %s", f, result(sendto(fd, "x", 1, 0, sa, len)));
	say("%s unconnected hears of it: %s", f, polled(fd, 50));
	need(connect(fd, sa, len));
	say("%s connected to closed port: %s", f, result(send(fd, "x", 1, 0)));
	say("%s connected poll: %s", f, polled_for(fd, POLLIN, 1000));
	say("%s connected recv: %s", f, result(recv(fd, buf, 1, MSG_DONTWAIT)));
	say("%s connected recv again: %s", f, result(recv(fd, buf, 1, MSG_DONTWAIT)));
	need(send(fd, "x", 1, 0));
	polled_for(fd, POLLIN, 1000);
	say("%s next send: %s", f, result(send(fd, "x", 1, 0)));
	polled_for(fd, POLLIN, 1000);
	say("%s so_error: %s", f, so_error(fd));
	need(family == AF_INET ? setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, 4) : setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, 4));
	need(send(fd, "errqueue", 8, 0));
	say("%s recverr poll: %s", f, polled_for(fd, POLLIN, 1000));
	struct sockaddr_storage name;
	struct iovec io = { buf, sizeof(buf) };
	struct msghdr m = { &name, sizeof(name), &io, 1, control, sizeof(control), 0 };
	ssize_t n = recvmsg(fd, &m, MSG_ERRQUEUE);
	struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
	if (c) {
		struct sock_extended_err *e = (void *)CMSG_DATA(c);
		say("%s recverr: %s flags %#x errno %s origin %d type %d code %d offender %s", f, result(n), m.msg_flags,
		    strerrorname_np(e->ee_errno), e->ee_origin, e->ee_type, e->ee_code, addr_text(SO_EE_OFFENDER(e)));
	} else
		say("%s recverr: %s", f, result(n));
	close(fd);
}

static void many(void)
{
	int pa, pb, a = bound(AF_INET, &pa), b = bound(AF_INET, &pb);
	struct sockaddr_in to = v4("127.0.0.1", pb);
	struct mmsghdr ms[32];
	struct iovec io[32];
	static char bufs[32][64];
	for (int i = 0; i < 32; i++) {
		io[i] = (struct iovec){ bufs[i], i + 1 };
		ms[i] = (struct mmsghdr){ { &to, sizeof(to), &io[i], 1, NULL, 0, 0 }, 0 };
	}
	say("sendmmsg: %d", sendmmsg(a, ms, 32, 0));
	for (int i = 0; i < 32; i++) {
		io[i].iov_len = 64;
		ms[i].msg_hdr.msg_name = NULL, ms[i].msg_hdr.msg_namelen = 0;
	}
	struct timespec ts = { 2, 0 };
	int got = recvmmsg(b, ms, 32, 0, &ts), right = 0;
	for (int i = 0; i < got; i++)
		right += ms[i].msg_len == (unsigned)i + 1;
	say("recvmmsg: %d, in order and length %d", got, right);
	say("recvmmsg dontwait: %s", result(recvmmsg(b, ms, 32, MSG_DONTWAIT, NULL)));
	int segment = 100;
	say("UDP_SEGMENT: %s", en(setsockopt(a, IPPROTO_UDP, 103, &segment, 4)));
	char big[350];
	memset(big, 'g', sizeof(big));
	say("gso send: %s", result(sendto(a, big, sizeof(big), 0, SA(to))));
	for (int i = 0; i < 4; i++) {
		polled_for(b, POLLIN, 500);
		say("gso part %d: %s", i, result(recv(b, bufs[0], 64, MSG_DONTWAIT | MSG_TRUNC)));
	}
	close(a), close(b);
}

/* A call that comes right behind a datagram. */
static void overtaken(void)
{
	int heard = 0, size, port, server = bound(AF_INET, &port), client = need(socket(AF_INET, SOCK_DGRAM, 0));
	struct sockaddr_in to = v4("127.0.0.1", port);
	socklen_t len = sizeof(size);
	char c;
	need(connect(client, SA(to)));
	for (int i = 0; i < 100; i++) {
		need(getsockopt(client, SOL_SOCKET, SO_RCVBUF, &size, &len));
		need(send(client, "x", 1, 0));
		need(getsockopt(client, SOL_SOCKET, SO_RCVBUF, &size, &len));
		polled_for(server, POLLIN, 100);
		heard += recv(server, &c, 1, MSG_DONTWAIT) == 1;
	}
	say("overtaken by calls: %d heard of 100", heard);
	close(client), close(server);
}

static void information(void)
{
	int pb, on = 1, b = need(socket(AF_INET, SOCK_DGRAM, 0)), a = need(socket(AF_INET, SOCK_DGRAM, 0));
	struct sockaddr_in any = v4("0.0.0.0", 0), to = v4("127.0.0.7", 0), from;
	need(bind(b, SA(any)));
	pb = port_of(b);
	to.sin_port = htons(pb);
	need(setsockopt(b, IPPROTO_IP, IP_PKTINFO, &on, 4));
	need(setsockopt(b, IPPROTO_IP, IP_RECVTTL, &on, 4));
	need(setsockopt(b, IPPROTO_IP, IP_RECVTOS, &on, 4));
	int tos = 0x48, ttl = 9;
	need(setsockopt(a, IPPROTO_IP, IP_TOS, &tos, 4));
	need(setsockopt(a, IPPROTO_IP, IP_TTL, &ttl, 4));
	need(sendto(a, "i", 1, 0, SA(to)));
	char buf[8], control[256];
	struct iovec io = { buf, 8 };
	struct msghdr m = { &from, sizeof(from), &io, 1, control, sizeof(control), 0 };
	need(recvmsg(b, &m, 0));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		struct in_pktinfo *p = (void *)CMSG_DATA(c);
		if (c->cmsg_type == IP_PKTINFO)
			say("pktinfo: interface %d to %s", p->ipi_ifindex, ({ struct sockaddr_in x = { .sin_family = AF_INET, .sin_addr = p->ipi_addr }; addr_text((void *)&x); }));
		else
			say("cmsg %d: %d", c->cmsg_type, *(unsigned char *)CMSG_DATA(c));
	}
	need(sendto(a, "j", 1, 0, SA(to)));
	m = (struct msghdr){ &from, sizeof(from), &io, 1, NULL, 0, 0 };
	ssize_t r = recvmsg(b, &m, 0);
	say("no room for control: %s flags %#x name %u", result(r), m.msg_flags, m.msg_namelen);
	/* Choosing the source with a control message. */
	struct { struct cmsghdr c; struct in_pktinfo p; } src = { { CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP, IP_PKTINFO }, { 0 } };
	src.p.ipi_spec_dst.s_addr = inet_addr("127.0.0.9");
	io = (struct iovec){ "s", 1 };
	m = (struct msghdr){ &to, sizeof(to), &io, 1, &src, sizeof(src), 0 };
	say("source by pktinfo: %s", result(sendmsg(a, &m, 0)));
	socklen_t len = sizeof(from);
	polled_for(b, POLLIN, 500);
	recvfrom(b, buf, 8, MSG_DONTWAIT, (void *)&from, &len);
	say("source seen: %s", addr_text((void *)&from));
	close(a), close(b);
}

static void multicast(void)
{
	int on = 1, b = need(socket(AF_INET, SOCK_DGRAM, 0)), a = need(socket(AF_INET, SOCK_DGRAM, 0));
	struct sockaddr_in any = v4("0.0.0.0", 0), to = v4("239.1.2.3", 0);
	need(setsockopt(b, SOL_SOCKET, SO_REUSEADDR, &on, 4));
	need(bind(b, SA(any)));
	to.sin_port = htons(port_of(b));
	struct ip_mreqn group = { .imr_multiaddr = to.sin_addr, .imr_ifindex = if_nametoindex("lo") };
	say("group send without route: %s", result(sendto(a, "m", 1, 0, SA(to))));
	say("join on lo: %s", en(setsockopt(b, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof(group))));
	say("join twice: %s", en(setsockopt(b, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof(group))));
	say("multicast interface: %s", en(setsockopt(a, IPPROTO_IP, IP_MULTICAST_IF, &group, sizeof(group))));
	say("group send on lo: %s", result(sendto(a, "m", 1, 0, SA(to))));
	char c;
	polled_for(b, POLLIN, 500);
	say("group recv: %s", result(recv(b, &c, 1, MSG_DONTWAIT)));
	int off = 0;
	need(setsockopt(a, IPPROTO_IP, IP_MULTICAST_LOOP, &off, 4));
	need(sendto(a, "m", 1, 0, SA(to)));
	say("group recv without loop: %s", polled_for(b, POLLIN, 50));
	say("leave: %s", en(setsockopt(b, IPPROTO_IP, IP_DROP_MEMBERSHIP, &group, sizeof(group))));
	say("leave twice: %s", en(setsockopt(b, IPPROTO_IP, IP_DROP_MEMBERSHIP, &group, sizeof(group))));
	close(a), close(b);
	struct ipv6_mreq group6 = { .ipv6mr_interface = if_nametoindex("lo") };
	inet_pton(AF_INET6, "ff01::1:2", &group6.ipv6mr_multiaddr);
	int p6, six = bound(AF_INET6, &p6);
	say("v6 join on lo: %s", en(setsockopt(six, IPPROTO_IPV6, IPV6_JOIN_GROUP, &group6, sizeof(group6))));
	close(six);
}

int main(void)
{
	plain();
	refused(AF_INET);
	refused(AF_INET6);
	many();
	overtaken();
	information();
	multicast();
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

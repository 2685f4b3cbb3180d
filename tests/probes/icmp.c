/* Ping sockets and raw sockets on loopback. */
#include "probe.h"

static unsigned short sum(const void *data, size_t len)
{
	const unsigned char *p = data;
	unsigned s = 0;
	for (size_t i = 0; i + 1 < len; i += 2)
		s += p[i] << 8 | p[i + 1];
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return htons(~s);
}

static void ping4(int type, const char *name)
{
	int fd = socket(AF_INET, type, IPPROTO_ICMP);
	say("%s v4 socket: %s", name, en(fd));
	if (fd < 0)
		return;
	struct sockaddr_in to = v4("127.0.0.1", 0), from;
	struct icmphdr h = { .type = ICMP_ECHO, .un.echo = { .id = htons(0x7e57), .sequence = htons(3) } };
	h.checksum = sum(&h, sizeof(h));
	say("%s v4 send: %s", name, result(sendto(fd, &h, sizeof(h), 0, SA(to))));
	char buf[256];
	for (int i = 0; i < (type == SOCK_RAW ? 2 : 1); i++) {
		socklen_t len = sizeof(from);
		say("%s v4 poll %d: %s", name, i, polled_for(fd, POLLIN, 1000));
		ssize_t n = recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &len);
		struct icmphdr *r = (void *)(type == SOCK_RAW ? buf + 20 : buf);
		say("%s v4 recv %d: %s type %d sequence %d from %s", name, i, result(n), r->type, ntohs(r->un.echo.sequence),
		    addr_text((void *)&from));
	}
	h.type = ICMP_REDIRECT;
	say("%s v4 redirect: %s", name, result(sendto(fd, &h, sizeof(h), 0, SA(to))));
	say("%s v4 short: %s", name, result(sendto(fd, &h, 4, 0, SA(to))));
	close(fd);
}

static void ping6(int type, const char *name)
{
	int fd = socket(AF_INET6, type, IPPROTO_ICMPV6);
	say("%s v6 socket: %s", name, en(fd));
	if (fd < 0)
		return;
	struct sockaddr_in6 to = v6("::1", 0), from;
	struct icmp6_filter only;
	ICMP6_FILTER_SETBLOCKALL(&only);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &only);
	say("%s v6 filter: %s", name, en(setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &only, sizeof(only))));
	struct icmp6_hdr h = { .icmp6_type = ICMP6_ECHO_REQUEST };
	h.icmp6_seq = htons(5);
	say("%s v6 send: %s", name, result(sendto(fd, &h, sizeof(h), 0, SA(to))));
	char buf[256];
	socklen_t len = sizeof(from);
	say("%s v6 poll: %s", name, polled_for(fd, POLLIN, 1000));
	ssize_t n = recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &len);
	say("%s v6 recv: %s type %d from %s", name, result(n), ((struct icmp6_hdr *)buf)->icmp6_type, addr_text((void *)&from));
	close(fd);
}

static void raw(void)
{
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW), on = 1;
	say("raw hdrincl socket: %s", en(fd));
	int in = socket(AF_INET, SOCK_RAW, 253);
	say("raw 253 socket: %s", en(in));
	if (fd < 0 || in < 0)
		return;
	struct { struct iphdr ip; char data[4]; } p = { { .version = 4, .ihl = 5, .ttl = 7, .protocol = 253 }, "raw" };
	p.ip.saddr = inet_addr("127.0.0.5");
	p.ip.daddr = inet_addr("127.0.0.1");
	struct sockaddr_in to = v4("127.0.0.1", 0), from;
	say("raw send: %s", result(sendto(fd, &p, sizeof(p), 0, SA(to))));
	char buf[128];
	socklen_t len = sizeof(from);
	polled_for(in, POLLIN, 1000);
	ssize_t n = recvfrom(in, buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &len);
	say("raw recv: %s from %s ttl %d", result(n), addr_text((void *)&from), ((struct iphdr *)buf)->ttl);
	say("raw without header: %s", result(sendto(in, "abcd", 4, 0, SA(to))));
	polled_for(in, POLLIN, 1000);
	say("raw without header recv: %s", result(recv(in, buf, sizeof(buf), MSG_DONTWAIT)));
	say("raw hdrincl option: %s", en(setsockopt(in, IPPROTO_IP, IP_HDRINCL, &on, 4)));
	say("raw connect: %s", en(connect(in, SA(to))));
	say("raw listen: %s", en(listen(in, 1)));
	int six = socket(AF_INET6, SOCK_RAW, 253);
	struct sockaddr_in6 to6 = v6("::1", 0);
	say("raw v6: %s %s", en(six), result(sendto(six, "six", 3, 0, SA(to6))));
	polled_for(six, POLLIN, 1000);
	say("raw v6 recv: %s", result(recv(six, buf, sizeof(buf), MSG_DONTWAIT)));
	close(fd), close(in), close(six);
}

int main(void)
{
	ping4(SOCK_DGRAM, "dgram");
	ping6(SOCK_DGRAM, "dgram");
	ping4(SOCK_RAW, "raw");
	ping6(SOCK_RAW, "raw");
	raw();
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

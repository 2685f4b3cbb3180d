/* Socket options: defaults, what set accepts, what get returns afterwards, and the errors. */
#include "probe.h"
#include <linux/filter.h>

struct option { int level, name; const char *text; int value; };
#define O(level, name, value) { level, name, #name, value }

static const struct option of_socket[] = {
	O(SOL_SOCKET, SO_DEBUG, 1), O(SOL_SOCKET, SO_REUSEADDR, 1), O(SOL_SOCKET, SO_TYPE, 1), O(SOL_SOCKET, SO_ERROR, 1),
	O(SOL_SOCKET, SO_DONTROUTE, 1), O(SOL_SOCKET, SO_BROADCAST, 1), O(SOL_SOCKET, SO_SNDBUF, 50000),
	O(SOL_SOCKET, SO_RCVBUF, 50000), O(SOL_SOCKET, SO_SNDBUFFORCE, 60000), O(SOL_SOCKET, SO_RCVBUFFORCE, 60000),
	O(SOL_SOCKET, SO_KEEPALIVE, 1), O(SOL_SOCKET, SO_OOBINLINE, 1), O(SOL_SOCKET, SO_NO_CHECK, 1),
	O(SOL_SOCKET, SO_PRIORITY, 3), O(SOL_SOCKET, SO_PRIORITY, 7), O(SOL_SOCKET, SO_BSDCOMPAT, 1),
	O(SOL_SOCKET, SO_REUSEPORT, 1), O(SOL_SOCKET, SO_PASSCRED, 1), O(SOL_SOCKET, SO_RCVLOWAT, 9),
	O(SOL_SOCKET, SO_SNDLOWAT, 9), O(SOL_SOCKET, SO_TIMESTAMP, 1), O(SOL_SOCKET, SO_ACCEPTCONN, 1),
	O(SOL_SOCKET, SO_PEERSEC, 1), O(SOL_SOCKET, SO_MARK, 5), O(SOL_SOCKET, SO_PROTOCOL, 1), O(SOL_SOCKET, SO_DOMAIN, 1),
	O(SOL_SOCKET, SO_RXQ_OVFL, 1), O(SOL_SOCKET, SO_WIFI_STATUS, 1), O(SOL_SOCKET, SO_PEEK_OFF, 2),
	O(SOL_SOCKET, SO_LOCK_FILTER, 0), O(SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1), O(SOL_SOCKET, SO_BUSY_POLL, 10),
	O(SOL_SOCKET, SO_MAX_PACING_RATE, 1000), O(SOL_SOCKET, SO_INCOMING_CPU, 0), O(SOL_SOCKET, SO_ZEROCOPY, 1),
	O(SOL_SOCKET, SO_BINDTOIFINDEX, 1), O(SOL_SOCKET, SO_DETACH_FILTER, 0), O(SOL_SOCKET, 9999, 1),
	O(SOL_SOCKET, 82 /* SO_RCVMARK */, 1), O(SOL_SOCKET, 70 /* SO_PREFER_BUSY_POLL */, 1), O(SOL_SOCKET, 73 /* SO_RESERVE_MEM */, 4096),
};
static const struct option of_ip[] = {
	O(IPPROTO_IP, IP_TOS, 0x10), O(IPPROTO_IP, IP_TTL, 33), O(IPPROTO_IP, IP_TTL, 0), O(IPPROTO_IP, IP_HDRINCL, 1),
	O(IPPROTO_IP, IP_ROUTER_ALERT, 0), O(IPPROTO_IP, IP_RECVOPTS, 1), O(IPPROTO_IP, IP_RETOPTS, 1), O(IPPROTO_IP, IP_PKTINFO, 1),
	O(IPPROTO_IP, IP_MTU_DISCOVER, 2), O(IPPROTO_IP, IP_MTU_DISCOVER, 9), O(IPPROTO_IP, IP_RECVERR, 1),
	O(IPPROTO_IP, IP_RECVTTL, 1), O(IPPROTO_IP, IP_RECVTOS, 1), O(IPPROTO_IP, IP_MTU, 1), O(IPPROTO_IP, IP_FREEBIND, 1),
	O(IPPROTO_IP, IP_TRANSPARENT, 1), O(IPPROTO_IP, IP_RECVORIGDSTADDR, 1), O(IPPROTO_IP, IP_MINTTL, 3),
	O(IPPROTO_IP, IP_NODEFRAG, 1), O(IPPROTO_IP, IP_CHECKSUM, 1), O(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1),
	O(IPPROTO_IP, IP_MULTICAST_TTL, 4), O(IPPROTO_IP, IP_MULTICAST_LOOP, 0), O(IPPROTO_IP, IP_MULTICAST_ALL, 0),
	O(IPPROTO_IP, IP_UNICAST_IF, 0), O(IPPROTO_IP, IP_PASSSEC, 1), O(IPPROTO_IP, 999, 1),
};
static const struct option of_ipv6[] = {
	O(IPPROTO_IPV6, IPV6_V6ONLY, 1), O(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 44), O(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 300),
	O(IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 4), O(IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0), O(IPPROTO_IPV6, IPV6_MULTICAST_IF, 1),
	O(IPPROTO_IPV6, IPV6_MTU_DISCOVER, 2), O(IPPROTO_IPV6, IPV6_MTU, 1400), O(IPPROTO_IPV6, IPV6_RECVERR, 1),
	O(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1), O(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1), O(IPPROTO_IPV6, IPV6_TCLASS, 0x20),
	O(IPPROTO_IPV6, IPV6_RECVTCLASS, 1), O(IPPROTO_IPV6, IPV6_DONTFRAG, 1), O(IPPROTO_IPV6, IPV6_CHECKSUM, 2),
	O(IPPROTO_IPV6, IPV6_TRANSPARENT, 1), O(IPPROTO_IPV6, IPV6_FREEBIND, 1), O(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 1),
	O(IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 1), O(IPPROTO_IPV6, IPV6_MINHOPCOUNT, 2), O(IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET),
	O(IPPROTO_IPV6, IPV6_UNICAST_IF, 0), O(IPPROTO_IPV6, 999, 1),
};
static const struct option of_tcp[] = {
	O(IPPROTO_TCP, TCP_NODELAY, 1), O(IPPROTO_TCP, TCP_MAXSEG, 1000), O(IPPROTO_TCP, TCP_MAXSEG, 4), O(IPPROTO_TCP, TCP_CORK, 1),
	O(IPPROTO_TCP, TCP_KEEPIDLE, 30), O(IPPROTO_TCP, TCP_KEEPINTVL, 5), O(IPPROTO_TCP, TCP_KEEPCNT, 4),
	O(IPPROTO_TCP, TCP_SYNCNT, 3), O(IPPROTO_TCP, TCP_LINGER2, 10), O(IPPROTO_TCP, TCP_DEFER_ACCEPT, 3),
	O(IPPROTO_TCP, TCP_WINDOW_CLAMP, 5000), O(IPPROTO_TCP, TCP_QUICKACK, 0), O(IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1),
	O(IPPROTO_TCP, TCP_USER_TIMEOUT, 1000), O(IPPROTO_TCP, TCP_REPAIR, 1), O(IPPROTO_TCP, TCP_REPAIR, 0),
	O(IPPROTO_TCP, TCP_FASTOPEN, 5), O(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096),
	O(IPPROTO_TCP, TCP_SAVE_SYN, 1), O(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1), O(IPPROTO_TCP, TCP_INQ, 1), O(IPPROTO_TCP, 999, 1),
};
static const struct option of_udp[] = {
	O(IPPROTO_UDP, 1 /* UDP_CORK */, 1), O(IPPROTO_UDP, 1 /* UDP_CORK off */, 0), O(IPPROTO_UDP, 100 /* UDP_ENCAP */, 2),
	O(IPPROTO_UDP, 101, 1), O(IPPROTO_UDP, 103 /* UDP_SEGMENT */, 1000), O(IPPROTO_UDP, 104 /* UDP_GRO */, 1), O(IPPROTO_UDP, 999, 1),
};
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

/* Buffer sizes depend on sysctls of the machine, which native and view share. */
static void each(int fd, const char *sock, const struct option *o, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int before = -1, after = -1;
		socklen_t len = 4;
		char b[40], s[40], a[40];
		int rc = getsockopt(fd, o[i].level, o[i].name, &before, &len);
		rc < 0 ? snprintf(b, 40, "%s", en(rc)) : snprintf(b, 40, "%d/%u", before, len);
		rc = setsockopt(fd, o[i].level, o[i].name, &o[i].value, 4);
		snprintf(s, 40, "%s", en(rc));
		len = 4;
		rc = getsockopt(fd, o[i].level, o[i].name, &after, &len);
		rc < 0 ? snprintf(a, 40, "%s", en(rc)) : snprintf(a, 40, "%d/%u", after, len);
		say("%s level %d %s=%d: get %s set %s get %s", sock, o[i].level, o[i].text, o[i].value, b, s, a);
	}
}

static void structures(int fd, const char *sock)
{
	struct linger l = { 1, 5 };
	struct timeval tv = { 1, 500000 };
	socklen_t len = sizeof(l);
	char buf[256];
	int rc = setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len);
	say("%s SO_LINGER: %s %d %d length %u", sock, en(rc), l.l_onoff, l.l_linger, len);
	rc = setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	len = sizeof(tv), tv.tv_sec = 0;
	getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &len);
	say("%s SO_RCVTIMEO: %s %ld length %u", sock, en(rc), (long)tv.tv_sec, len);
	tv.tv_usec = 2000000;
	say("%s SO_SNDTIMEO bad: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv))));
	say("%s SO_RCVTIMEO short: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, 3)));
	say("%s SO_BINDTODEVICE lo: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3)));
	say("%s SO_BINDTODEVICE nothing: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "eth9", 5)));
	len = 256;
	memset(buf, 0, sizeof(buf));
	rc = getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, buf, &len);
	say("%s SO_BINDTODEVICE get: %s '%s' length %u", sock, en(rc), buf, len);
	struct sock_filter all[] = { BPF_STMT(BPF_RET | BPF_K, 0xffff) };
	struct sock_fprog prog = { 1, all };
	say("%s SO_ATTACH_FILTER: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog))));
	prog.len = 0;
	say("%s SO_ATTACH_FILTER empty: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog))));
	int bpf = 99;
	say("%s SO_ATTACH_BPF: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &bpf, 4)));
	uint64_t cookie = 0;
	len = 8;
	rc = getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len);
	say("%s SO_COOKIE: %s %s", sock, en(rc), cookie ? "some" : "none");
	int one = 1;
	say("%s null value: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, NULL, 4)));
	say("%s short value: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, 1)));
	say("%s bad pointer: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, (void *)8, 4)));
	say("%s bad length pointer: %s", sock, en(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, (void *)8)));
	say("%s negative length: %s", sock, en(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, -4)));
	len = 2;
	rc = getsockopt(fd, SOL_SOCKET, SO_TYPE, &one, &len);
	say("%s get short: %s length %u", sock, en(rc), len);
	say("%s bad level: %s", sock, en(setsockopt(fd, 4242, 1, &one, 4)));
}

int main(void)
{
	static const struct { int family, type; const char *name; } socks[] = {
		{ AF_INET, SOCK_STREAM, "tcp" }, { AF_INET6, SOCK_STREAM, "tcp6" }, { AF_INET, SOCK_DGRAM, "udp" },
		{ AF_INET6, SOCK_DGRAM, "udp6" }, { AF_UNIX, SOCK_STREAM, "unix" },
	};
	for (size_t i = 0; i < COUNT(socks); i++) {
		int fd = need(socket(socks[i].family, socks[i].type, 0));
		each(fd, socks[i].name, of_socket, COUNT(of_socket));
		close(fd);
		fd = need(socket(socks[i].family, socks[i].type, 0));
		each(fd, socks[i].name, of_ip, COUNT(of_ip));
		each(fd, socks[i].name, of_ipv6, COUNT(of_ipv6));
		each(fd, socks[i].name, of_tcp, COUNT(of_tcp));
		each(fd, socks[i].name, of_udp, COUNT(of_udp));
		close(fd);
		fd = need(socket(socks[i].family, socks[i].type, 0));
		structures(fd, socks[i].name);
		close(fd);
	}
	int fd = need(socket(AF_INET, SOCK_STREAM, 0));
	char name[32] = { 0 };
	static const char *algorithms[] = { "reno", "cubic", "nonsense" };
	for (int i = 0; i < 3; i++) {
		socklen_t len = sizeof(name);
		int rc = setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, algorithms[i], strlen(algorithms[i]));
		const char *e = en(rc);
		getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len);
		say("congestion %s: %s then %s", algorithms[i], e, name);
	}
	int s[2];
	tcp_pair(s);
	struct tcp_info info;
	socklen_t len = sizeof(info);
	int rc = getsockopt(s[0], IPPROTO_TCP, TCP_INFO, &info, &len);
	say("TCP_INFO: %s state %d length %s mss %u", en(rc), info.tcpi_state, len == sizeof(info) ? "full" : "short", info.tcpi_snd_mss);
	int mtu = 0;
	len = 4;
	rc = getsockopt(s[0], IPPROTO_IP, IP_MTU, &mtu, &len);
	say("IP_MTU: %s %d", en(rc), mtu);
	say("ulp: %s", en(setsockopt(s[0], IPPROTO_TCP, TCP_ULP, "nonsense", 8)));
	return 0;
}

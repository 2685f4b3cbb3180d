/* Packet sockets on loopback. */
#include "probe.h"
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>

static void capture(int type, const char *name)
{
	int fd = socket(AF_PACKET, type, htons(ETH_P_ALL));
	say("%s socket: %s", name, en(fd));
	if (fd < 0)
		return;
	struct sockaddr_ll on = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex("lo") };
	say("%s bind lo: %s", name, en(bind(fd, SA(on))));
	int udp = need(socket(AF_INET, SOCK_DGRAM, 0));
	struct sockaddr_in me = v4("127.0.0.1", 0);
	need(bind(udp, SA(me)));
	me.sin_port = htons(port_of(udp));
	need(sendto(udp, "hello", 5, 0, SA(me)));
	for (int i = 0; i < 2; i++) {
		char buf[256];
		struct sockaddr_ll from = { 0 };
		socklen_t len = sizeof(from);
		polled_for(fd, POLLIN, 1000);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &len);
		say("%s frame %d: %s type %d protocol %#x hatype %d halen %d", name, i, result(n), from.sll_pkttype,
		    ntohs(from.sll_protocol), from.sll_hatype, from.sll_halen);
	}
	struct sock_filter none[] = { BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_fprog prog = { 1, none };
	say("%s filter: %s", name, en(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog))));
	need(sendto(udp, "again", 5, 0, SA(me)));
	say("%s filtered: %s", name, polled_for(fd, POLLIN, 50));
	struct tpacket_stats st = { 0 };
	socklen_t len = sizeof(st);
	say("%s statistics: %s dropped %u", name, en(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &st, &len)), st.tp_drops);
	int version = TPACKET_V3;
	say("%s version: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, 4)));
	struct tpacket_req3 req = { .tp_block_size = 1 << 16, .tp_block_nr = 2, .tp_frame_size = 2048, .tp_frame_nr = 64, .tp_retire_blk_tov = 10 };
	say("%s ring: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req))));
	void *map = mmap(NULL, 2 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	say("%s ring map: %s", name, map == MAP_FAILED ? strerrorname_np(errno) : "ok");
	struct packet_mreq mr = { .mr_ifindex = on.sll_ifindex, .mr_type = PACKET_MR_PROMISC };
	say("%s promiscuous: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mr, sizeof(mr))));
	close(fd), close(udp);
}

/* The type SOCK_PACKET, whose addresses name their interface. */
static void old(void)
{
	int fd = socket(AF_INET, SOCK_PACKET, htons(ETH_P_ALL)), stranger = 0;
	say("old socket: %s", en(fd));
	if (fd < 0)
		return;
	struct sockaddr on = { .sa_family = AF_INET, .sa_data = "lo" }, off = { .sa_family = AF_INET, .sa_data = "none0" };
	struct sockaddr_ll ll = { .sll_family = AF_PACKET };
	say("old bind none: %s", en(bind(fd, SA(off))));
	say("old bind sockaddr_ll: %s", en(bind(fd, SA(ll))));
	say("old bind lo: %s", en(bind(fd, SA(on))));
	struct { struct sockaddr_pkt pkt; char rest[40]; } from = { 0 };
	socklen_t len = sizeof(from);
	int rc = getsockname(fd, (void *)&from, &len);
	say("old name: %s family %d '%s' length %u", en(rc), from.pkt.spkt_family, from.pkt.spkt_device, len);
	say("old connect: %s", en(connect(fd, &on, sizeof(on))));
	say("old option: %s", en(setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &fd, 4)));
	len = 4;
	say("old statistics: %s", en(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &rc, &len)));
	int udp = need(socket(AF_INET, SOCK_DGRAM, 0));
	struct sockaddr_in me = v4("127.0.0.1", 0);
	need(bind(udp, SA(me)));
	me.sin_port = htons(port_of(udp));
	need(sendto(udp, "hello", 5, 0, SA(me)));
	for (int i = 0; i < 2; i++) {
		unsigned char buf[256];
		len = sizeof(from);
		memset(&from, 0, sizeof(from));
		polled_for(fd, POLLIN, 1000);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &len);
		say("old frame %d: %s family %d '%s' protocol %#x length %u ethertype %02x%02x", i, result(n), from.pkt.spkt_family,
		    from.pkt.spkt_device, ntohs(from.pkt.spkt_protocol), len, buf[12], buf[13]);
		stranger += n < 0;
	}
	say("old frames missing: %d", stranger);
	char frame[60] = { [12] = 0x88, [13] = 0xb5 };
	struct sockaddr_pkt to = { .spkt_family = AF_INET, .spkt_device = "lo", .spkt_protocol = htons(0x88b5) };
	say("old send: %s", result(send(fd, frame, sizeof(frame), MSG_NOSIGNAL)));
	say("old send to lo: %s", result(sendto(fd, frame, sizeof(frame), 0, SA(to))));
	say("old send short: %s", result(sendto(fd, frame, 3, 0, SA(to))));
	say("old send to half an address: %s", result(sendto(fd, frame, sizeof(frame), 0, (void *)&to, 8)));
	strcpy((char *)to.spkt_device, "none0");
	say("old send to none: %s", result(sendto(fd, frame, sizeof(frame), 0, SA(to))));
	close(fd), close(udp);
}

/* Raw sockets of protocol numbers that no packet has. */
static void wide(int family, int protocol)
{
	int fd = socket(family, SOCK_RAW, protocol);
	say("raw %d %d: %s", family, protocol, en(fd));
	if (fd < 0)
		return;
	struct sockaddr_in me = v4("127.0.0.1", 0), got;
	struct sockaddr_in6 me6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	socklen_t len = sizeof(got);
	getsockname(fd, (void *)&got, &len);
	say("raw %d %d name: port %d", family, protocol, ntohs(got.sin_port));
	if (family == AF_INET)
		say("raw %d %d send: %s", family, protocol, result(sendto(fd, "hello", 5, 0, SA(me))));
	else
		say("raw %d %d send: %s", family, protocol, result(sendto(fd, "hello", 5, 0, SA(me6))));
	say("raw %d %d poll: %s", family, protocol, polled_for(fd, POLLIN, 20));
	close(fd);
}

int main(void)
{
	capture(SOCK_RAW, "raw");
	capture(SOCK_DGRAM, "dgram");
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = 77, .sll_halen = 6 };
	char frame[60] = { 0 };
	say("send to no interface: %s", result(sendto(fd, frame, sizeof(frame), 0, SA(to))));
	to.sll_ifindex = if_nametoindex("lo");
	say("send on lo: %s", result(sendto(fd, frame, sizeof(frame), 0, SA(to))));
	say("connect: %s", en(connect(fd, SA(to))));
	old();
	wide(AF_INET, 256), wide(AF_INET, 262), wide(AF_INET6, 256), wide(AF_INET6, 262);
	close(fd);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

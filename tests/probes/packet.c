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
	close(fd);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

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
	struct packet_mreq mr = { .mr_ifindex = on.sll_ifindex, .mr_type = PACKET_MR_PROMISC };
	say("%s promiscuous: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mr, sizeof(mr))));
	close(fd), close(udp);
}

enum { BLOCK = 1 << 16, BLOCKS = 4, FRAME = 2048, SLOTS = BLOCK * BLOCKS / FRAME };

/* A frame in a ring: all but its time. */
static void show(const char *name, int version, int n, const char *slot)
{
	unsigned status, len, snap, mac, net, tci = 0;
	const struct sockaddr_ll *from;
	if (version == TPACKET_V1) {
		const struct tpacket_hdr *h = (void *)slot;
		status = h->tp_status, len = h->tp_len, snap = h->tp_snaplen, mac = h->tp_mac, net = h->tp_net;
		from = (void *)(slot + TPACKET_ALIGN(sizeof(*h)));
	} else if (version == TPACKET_V2) {
		const struct tpacket2_hdr *h = (void *)slot;
		status = h->tp_status, len = h->tp_len, snap = h->tp_snaplen, mac = h->tp_mac, net = h->tp_net, tci = h->tp_vlan_tci;
		from = (void *)(slot + TPACKET_ALIGN(sizeof(*h)));
	} else {
		const struct tpacket3_hdr *h = (void *)slot;
		status = h->tp_status, len = h->tp_len, snap = h->tp_snaplen, mac = h->tp_mac, net = h->tp_net, tci = h->hv1.tp_vlan_tci;
		from = (void *)(slot + TPACKET_ALIGN(sizeof(*h)));
	}
	status &= ~(TP_STATUS_TS_SOFTWARE | TP_STATUS_CSUM_VALID);
	say("%s frame %d: status %#x length %u of %u at %u and %u tag %u type %d protocol %#x hatype %d halen %d says %.*s", name, n,
	    status, snap, len, mac, net, tci, from->sll_pkttype, ntohs(from->sll_protocol), from->sll_hatype, from->sll_halen,
	    5, snap > 33 ? slot + net + 28 : "-");
}

/* Waits until poll says nothing more of the socket. */
static const char *quiet(int fd)
{
	for (int i = 0; i < 100; i++) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		if (poll(&p, 1, 0) == 0)
			return "yes";
		usleep(10000);
	}
	return "no";
}

static void speak(int udp, int n)
{
	struct sockaddr_in me = v4("127.0.0.1", port_of(udp));
	for (int i = 0; i < n; i++)
		need(sendto(udp, (char[]){ 'w', 'o', 'r', 'd', 'a' + i % 26 }, 5, 0, SA(me)));
}

static void statistics(int fd, const char *name)
{
	struct tpacket_stats_v3 st = { 0 };
	socklen_t len = sizeof(st);
	const char *got = en(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &st, &len));
	say("%s statistics: %s length %d packets %u drops %u freezes %u", name, got, len, st.tp_packets, st.tp_drops, st.tp_freeze_q_cnt);
}

static const char *mapped(void *map)
{
	return map == MAP_FAILED ? strerrorname_np(errno) : "ok";
}

static void ring(int type, int version, const char *name)
{
	int fd = need(socket(AF_PACKET, type, 0)), udp = need(socket(AF_INET, SOCK_DGRAM, 0)), reserve = 8, other = (version + 1) % 3;
	struct sockaddr_in me = v4("127.0.0.1", 0);
	need(bind(udp, SA(me)));
	struct tpacket_req3 req = { .tp_block_size = BLOCK, .tp_block_nr = BLOCKS, .tp_frame_size = FRAME, .tp_frame_nr = SLOTS,
		.tp_retire_blk_tov = 300 };
	socklen_t len = version == TPACKET_V3 ? sizeof(req) : sizeof(struct tpacket_req);
	say("%s version: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, 4)));
	say("%s map of none: %s", name, mapped(mmap(NULL, BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)));
	say("%s reserve: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RESERVE, &reserve, 4)));
	struct tpacket_req3 bad = req;
	bad.tp_frame_nr++;
	say("%s of a wrong number: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &bad, len)));
	bad = req, bad.tp_block_size = 5000;
	say("%s of a wrong size: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &bad, len)));
	bad = req, bad.tp_frame_size = 40;
	say("%s of small frames: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &bad, len)));
	say("%s too short: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, len - 1)));
	say("%s: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, len)));
	say("%s again: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, len)));
	say("%s other version: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &other, 4)));
	say("%s map of less: %s", name, mapped(mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)));
	say("%s map of what is behind: %s", name, mapped(mmap(NULL, BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096)));
	char *map = mmap(NULL, BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	say("%s map: %s", name, mapped(map));
	if (map == MAP_FAILED)
		goto out;
	struct sockaddr_ll on = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex("lo") };
	need(bind(fd, SA(on)));
	say("%s poll: %s", name, polled_for(fd, POLLIN, 50));
	speak(udp, 2);
	say("%s poll with frames: %s", name, polled_for(fd, POLLIN, 1000));
	say("%s recv: %s", name, result(recv(fd, &len, sizeof(len), MSG_DONTWAIT | MSG_TRUNC)));
	if (version == TPACKET_V3) {
		struct tpacket_block_desc *block = (void *)map;
		struct tpacket_hdr_v1 *h = &block->hdr.bh1;
		say("%s block: version %u private %u status %#x frames %u first %u length %u number %llu", name, block->version, block->offset_to_priv,
		    h->block_status, h->num_pkts, h->offset_to_first_pkt, h->blk_len, (unsigned long long)h->seq_num);
		char *slot = map + h->offset_to_first_pkt;
		for (unsigned i = 0; i < h->num_pkts; i++) {
			unsigned next = ((struct tpacket3_hdr *)slot)->tp_next_offset;
			show(name, version, i, slot);
			say("%s next: %u", name, next);
			slot += next;
		}
		h->block_status = TP_STATUS_KERNEL;
	} else {
		for (int i = 0; i < 4; i++) {
			show(name, version, i, map + i * FRAME);
			*(unsigned *)(map + i * FRAME) = TP_STATUS_KERNEL;
		}
		say("%s slot behind: status %u", name, *(unsigned *)(map + 4 * FRAME));
	}
	say("%s quiet again: %s", name, quiet(fd));
	statistics(fd, name);
	if (version != TPACKET_V3) {
		speak(udp, SLOTS / 2 + 5);
		say("%s poll when full: %s", name, polled_for(fd, POLLIN, 1000));
		int used = 0;
		for (int i = 0; i < SLOTS; i++)
			used += *(unsigned *)(map + i * FRAME) != TP_STATUS_KERNEL;
		say("%s slots used: %d of %d", name, used, SLOTS);
		for (int i = 0; i < SLOTS; i++)
			*(unsigned *)(map + i * FRAME) = TP_STATUS_KERNEL;
		speak(udp, 1);
		say("%s poll after loss: %s", name, polled_for(fd, POLLIN, 1000));
		show(name, version, 4, map + 4 * FRAME);
		statistics(fd, name);
	}
	say("%s gone while mapped: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &(struct tpacket_req3){ 0 }, len)));
	pid_t child = fork();
	if (!child)
		_exit(0);
	need(waitpid(child, NULL, 0));
	say("%s unmap: %s", name, en(munmap(map, BLOCK * BLOCKS)));
	say("%s gone: %s", name, en(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &(struct tpacket_req3){ 0 }, len)));
	say("%s map when gone: %s", name, mapped(mmap(NULL, BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)));
	speak(udp, 1);
	char buf[256];
	say("%s poll without: %s", name, polled_for(fd, POLLIN, 1000));
	say("%s recv without: %s", name, result(recv(fd, buf, sizeof(buf), MSG_DONTWAIT)));
out:
	close(fd), close(udp);
}

/* A ring of version 3 on loopback, mapped. */
static int capture_ring(unsigned blocks, unsigned ms, char **map)
{
	int fd = need(socket(AF_PACKET, SOCK_RAW, 0)), version = TPACKET_V3;
	struct tpacket_req3 req = { .tp_block_size = BLOCK, .tp_block_nr = blocks, .tp_frame_size = FRAME,
		.tp_frame_nr = blocks * (BLOCK / FRAME), .tp_retire_blk_tov = ms };
	sigset_t alarms;
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	/* To make it twice is EBUSY, and a signal may have a trapped call made twice. */
	pthread_sigmask(SIG_BLOCK, &alarms, NULL);
	need(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, 4));
	need(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req)));
	pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
	*map = mmap(NULL, (size_t)blocks * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*map == MAP_FAILED)
		need(-1);
	return fd;
}

/* Thousands of frames, none lost and none mixed up. */
static void flood(void)
{
	enum { MANY = 5000, MORE = 128 };
	char *map;
	int fd = capture_ring(MORE, 5, &map), udp = need(socket(AF_INET, SOCK_DGRAM, 0)), block = 0, seen = 0, wrong = 0;
	time_t end = time(NULL) + 20;
	struct sockaddr_in me = v4("127.0.0.1", 0);
	need(bind(udp, SA(me)));
	me.sin_port = htons(port_of(udp));
	struct sockaddr_ll on = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex("lo") };
	need(bind(fd, SA(on)));
	pid_t child = fork();
	if (!child) {
		char text[200] = { 0 };
		for (int i = 0; i < MANY; i++) {
			memcpy(text, &i, sizeof(i));
			sendto(udp, text, 4 + i % 190, 0, SA(me));
		}
		_exit(0);
	}
	while (seen < 2 * MANY && time(NULL) < end) {
		struct tpacket_hdr_v1 *h = &((struct tpacket_block_desc *)(map + block * BLOCK))->hdr.bh1;
		if (!(*(volatile unsigned *)&h->block_status & TP_STATUS_USER)) {
			polled_for(fd, POLLIN, 100);
			continue;
		}
		__sync_synchronize();
		char *slot = (char *)map + block * BLOCK + h->offset_to_first_pkt;
		for (unsigned i = 0; i < h->num_pkts; i++, seen++) {
			struct tpacket3_hdr *f = (void *)slot;
			int n;
			memcpy(&n, slot + f->tp_net + 28, sizeof(n));
			wrong += n != seen / 2 || f->tp_len != 14u + 28 + 4 + n % 190;
			slot += f->tp_next_offset;
		}
		__sync_synchronize();
		h->block_status = TP_STATUS_KERNEL;
		block = (block + 1) % MORE;
	}
	need(waitpid(child, NULL, 0));
	say("flood: %d frames, %d of them wrong", seen, wrong);
	statistics(fd, "flood");
	close(fd), close(udp), munmap(map, MORE * BLOCK);
}

static void nothing(int sig)
{
	(void)sig;
}

/* Maps and unmaps rings. */
static void *map_many(void *failed)
{
	for (int i = 0; i < 20; i++) {
		char *map;
		int fd = capture_ring(2, 5, &map);
		map[0] = map[2 * BLOCK - 1] = 1;
		*(int *)failed += munmap(map, 2 * BLOCK) < 0;
		close(fd);
	}
	return NULL;
}

/* Signals all the while, and other threads that do the same. */
static void disturbed(void)
{
	int failed[3] = { 0 };
	pthread_t threads[2];
	struct sigaction act = { .sa_handler = nothing, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 300 }, { 0, 300 } }, never = { 0 };
	need(sigaction(SIGALRM, &act, NULL));
	need(setitimer(ITIMER_REAL, &often, NULL));
	for (int i = 0; i < 2; i++)
		need(-pthread_create(&threads[i], NULL, map_many, &failed[i]));
	map_many(&failed[2]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	need(setitimer(ITIMER_REAL, &never, NULL));
	say("mapped under signals and by threads: %d failures", failed[0] + failed[1] + failed[2]);
}

/* A daemon: who made the ring has ended, and the socket has another number. */
static void inherited(void)
{
	int done[2], ended = 0;
	need(pipe(done));
	pid_t child = fork();
	if (!child) {
		char *map;
		int fd = capture_ring(2, 5, &map), udp = need(socket(AF_INET, SOCK_DGRAM, 0));
		struct sockaddr_in me = v4("127.0.0.1", 0);
		need(bind(udp, SA(me)));
		if (fork())
			_exit(0);
		while (getppid() == child)
			usleep(1000);
		struct sockaddr_ll on = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex("lo") };
		need(bind(fd, SA(on)));
		int moved = need(dup2(fd, 40));
		close(fd);
		usleep(10000);
		speak(udp, 1);
		const char *seen = polled_for(moved, POLLIN, 1000);
		for (int i = 0; i < 2; i++)
			((struct tpacket_block_desc *)(map + i * BLOCK))->hdr.bh1.block_status = TP_STATUS_KERNEL;
		say("inherited: poll %s quiet again %s", seen, quiet(moved));
		_exit(0);
	}
	need(waitpid(child, NULL, 0));
	close(done[1]);
	need(read(done[0], &ended, 1));
	close(done[0]);
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
	inherited();
	flood();
	disturbed();
	ring(SOCK_RAW, TPACKET_V1, "raw ring 1");
	ring(SOCK_RAW, TPACKET_V2, "raw ring 2");
	ring(SOCK_RAW, TPACKET_V3, "raw ring 3");
	ring(SOCK_DGRAM, TPACKET_V2, "dgram ring 2");
	ring(SOCK_DGRAM, TPACKET_V3, "dgram ring 3");
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

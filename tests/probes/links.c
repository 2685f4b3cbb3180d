/* Interfaces that a program makes: veth pairs and dummies. */
#include "probe.h"
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>

static char buf[1 << 16];
static struct { struct nlmsghdr h; struct ifinfomsg i; char space[512]; } req;
static int route;

static struct rtattr *put(int type, const void *data, int len)
{
	struct rtattr *a = (void *)((char *)&req + NLMSG_ALIGN(req.h.nlmsg_len));
	a->rta_type = type, a->rta_len = RTA_LENGTH(len);
	if (len)
		memcpy(RTA_DATA(a), data, len);
	req.h.nlmsg_len = NLMSG_ALIGN(req.h.nlmsg_len) + RTA_LENGTH(len);
	return a;
}

static void end(struct rtattr *nest)
{
	nest->rta_len = (char *)&req + NLMSG_ALIGN(req.h.nlmsg_len) - (char *)nest;
}

static void begin(int type, int flags, int index)
{
	memset(&req, 0, sizeof(req));
	req.h.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), req.h.nlmsg_type = type;
	req.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags, req.i.ifi_index = index;
}

static struct nlmsghdr *answer(void)
{
	need(send(route, &req, req.h.nlmsg_len, 0));
	need(recv(route, buf, sizeof(buf), 0));
	return (void *)buf;
}

static const char *sent(void)
{
	struct nlmsghdr *h = answer();
	struct nlmsgerr *e = NLMSG_DATA(h);
	return h->nlmsg_type != NLMSG_ERROR ? "no error message" : e->error ? strerrorname_np(-e->error) : "ok";
}

static const char *add(const char *kind, const char *name, const char *peer, int peer_mtu)
{
	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
	if (name)
		put(IFLA_IFNAME, name, strlen(name) + 1);
	struct rtattr *info = put(IFLA_LINKINFO, NULL, 0);
	put(IFLA_INFO_KIND, kind, strlen(kind));
	if (peer) {
		struct rtattr *data = put(IFLA_INFO_DATA, NULL, 0), *other = put(VETH_INFO_PEER, &(struct ifinfomsg){ 0 }, sizeof(struct ifinfomsg));
		put(IFLA_IFNAME, peer, strlen(peer) + 1);
		if (peer_mtu)
			put(IFLA_MTU, &peer_mtu, 4);
		end(other), end(data);
	}
	end(info);
	return sent();
}

static const char *delete(const char *name)
{
	begin(RTM_DELLINK, 0, if_nametoindex(name));
	return sent();
}

static const char *set_up(const char *name, int up)
{
	begin(RTM_NEWLINK, 0, if_nametoindex(name));
	req.i.ifi_flags = up ? IFF_UP : 0, req.i.ifi_change = IFF_UP;
	return sent();
}

static void show(const char *when, const char *name)
{
	int index = if_nametoindex(name);
	begin(RTM_GETLINK, 0, index);
	req.h.nlmsg_flags = NLM_F_REQUEST;
	struct nlmsghdr *h = answer();
	if (h->nlmsg_type != RTM_NEWLINK) {
		say("%s %s: none", when, name);
		return;
	}
	struct ifinfomsg *i = NLMSG_DATA(h);
	int left = IFLA_PAYLOAD(h), mtu = 0, state = -1, carrier = -1, other = 0, local = 0, zero = 1, length = 0;
	char kind[32] = "none", at[IF_NAMESIZE] = "nothing";
	for (struct rtattr *a = IFLA_RTA(i); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		unsigned char *value = RTA_DATA(a);
		switch (a->rta_type) {
		case IFLA_MTU: mtu = *(int *)value; break;
		case IFLA_TXQLEN: length = *(int *)value; break;
		case IFLA_OPERSTATE: state = *value; break;
		case IFLA_CARRIER: carrier = *value; break;
		case IFLA_LINK: other = *(int *)value; break;
		case IFLA_ADDRESS:
			local = value[0] & 2;
			for (unsigned n = 0; n < RTA_PAYLOAD(a); n++)
				zero &= !value[n];
			break;
		case IFLA_LINKINFO: {
			struct rtattr *k = (void *)value;
			if (k->rta_type == IFLA_INFO_KIND)
				snprintf(kind, sizeof(kind), "%.*s", (int)RTA_PAYLOAD(k), (char *)RTA_DATA(k));
		}
		}
	}
	if (other)
		if_indextoname(other, at);
	say("%s %s: type %d flags %#x mtu %d queue %d state %d carrier %d kind %s at %s address %s%s", when, name, i->ifi_type, i->ifi_flags,
	    mtu, length, state, carrier, kind, at, zero ? "zero" : "some", local ? " local" : "");
}

static int tap(const char *name, int protocol)
{
	int fd = need(socket(AF_PACKET, SOCK_RAW, 0));
	struct sockaddr_ll on = { .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = if_nametoindex(name) };
	need(bind(fd, SA(on)));
	return fd;
}

static void heard(int fd, const char *who)
{
	struct sockaddr_ll from;
	socklen_t len = sizeof(from);
	polled_for(fd, POLLIN, 200);
	ssize_t n = recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &len);
	if (n < 0)
		say("%s hears: %s", who, result(n));
	else
		say("%s hears: %zd bytes type %d protocol %#x", who, n, from.sll_pkttype, ntohs(from.sll_protocol));
}

static void pair(void)
{
	say("veth: %s", add("veth", "vp0", "vp1", 1400));
	say("veth again: %s", add("veth", "vp0", "vp9", 0));
	say("veth of the peer's name: %s", add("veth", "vp2", "vp1", 0));
	say("veth of one name: %s", add("veth", "vp3", "vp3", 0));
	say("veth with a bad name: %s", add("veth", "vp4", "a/b", 0));
	show("made", "vp0"), show("made", "vp1"), show("made", "vp2"), show("made", "vp3"), show("made", "vp4");
	say("order: %s", if_nametoindex("vp0") > if_nametoindex("vp1") ? "peer first" : "peer second");
	say("up: %s", set_up("vp0", 1));
	show("one up", "vp0"), show("one up", "vp1");
	say("peer up: %s", set_up("vp1", 1));
	show("both up", "vp0"), show("both up", "vp1");
	int in = tap("vp0", 0x88b5), out = tap("vp1", 0x88b5), all = tap("vp0", ETH_P_ALL);
	char frame[60] = { [12] = 0x88, [13] = 0xb5 };
	memset(frame, 0xff, 6);
	say("send: %s", result(send(in, frame, sizeof(frame), 0)));
	heard(out, "peer"), heard(in, "sender");
	say("send back: %s", result(send(out, frame, sizeof(frame), 0)));
	heard(in, "sender");
	while (polled_for(all, POLLIN, 10), recv(all, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
	frame[0] = 2;
	say("send to nobody: %s", result(send(out, frame, sizeof(frame), 0)));
	heard(in, "sender");
	say("down: %s", set_up("vp1", 0));
	show("one down", "vp0"), show("one down", "vp1");
	say("send to a peer that is down: %s", result(send(in, frame, sizeof(frame), 0)));
	struct sockaddr_ll on = { .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5), .sll_ifindex = if_nametoindex("vp1") };
	say("send down: %s", result(sendto(out, frame, sizeof(frame), 0, SA(on))));
	close(in), close(out), close(all);
	say("delete: %s", delete("vp1"));
	show("deleted", "vp0"), show("deleted", "vp1");
	say("veth without names: %s", add("veth", NULL, NULL, 0));
	show("unnamed", "veth0"), show("unnamed", "veth1");
	say("delete unnamed: %s", delete("veth0"));
}

static void dummy(void)
{
	say("dummy: %s", add("dummy", "dm0", NULL, 0));
	show("made", "dm0");
	say("dummy up: %s", set_up("dm0", 1));
	show("up", "dm0");
	struct ifreq r = { .ifr_name = "dm0" };
	int udp = need(socket(AF_INET, SOCK_DGRAM, 0)), all = tap("dm0", ETH_P_ALL);
	struct sockaddr_in a = v4("10.77.0.1", 0), mask = v4("255.255.255.0", 0), to = v4("10.77.0.2", 9);
	memcpy(&r.ifr_addr, &a, sizeof(a));
	say("dummy address: %s", en(ioctl(udp, SIOCSIFADDR, &r)));
	memcpy(&r.ifr_addr, &mask, sizeof(mask));
	say("dummy mask: %s", en(ioctl(udp, SIOCSIFNETMASK, &r)));
	say("send into it: %s", result(sendto(udp, "hello", 5, 0, SA(to))));
	for (int i = 0; i < 20; i++) {
		struct sockaddr_ll from;
		socklen_t len = sizeof(from);
		polled_for(all, POLLIN, 200);
		ssize_t n = recvfrom(all, buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &len);
		if (n < 0 || ntohs(from.sll_protocol) == ETH_P_IPV6)
			continue;
		say("dummy shows: %zd bytes type %d protocol %#x to %s", n, from.sll_pkttype, ntohs(from.sll_protocol),
		    memcmp(buf, buf + 6, 6) ? "another" : "itself");
		break;
	}
	say("unknown kind: %s", add("nonsense", "nk0", NULL, 0));
	close(udp), close(all);
	say("delete dummy: %s", delete("dm0"));
	show("deleted", "dm0");
	say("dummy without a name: %s", add("dummy", NULL, NULL, 0));
	show("unnamed", "dummy0");
	say("delete unnamed dummy: %s", delete("dummy0"));
}

int main(void)
{
	route = need(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	need(bind(route, SA(kernel)));
	pair();
	dummy();
	close(route);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

/* rtnetlink and sock_diag: what `ip` and `ss` ask, and changes the owner of a network may make. */
#include "probe.h"
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>

static char buf[1 << 16];

/* Sends one request and prints how each answer begins, sorted by nothing: the kernel's order counts. */
static void dump(int protocol, int type, int family, const char *name)
{
	struct { struct nlmsghdr h; char body[64]; } req = { .h = { NLMSG_LENGTH(20), type, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 } };
	req.body[0] = family;
	int fd = need(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)), count = 0;
	need(send(fd, &req, req.h.nlmsg_len, 0));
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		if (poll(&p, 1, 2000) != 1) {
			say("%s end: silence", name);
			break;
		}
		int n = need(recv(fd, buf, sizeof(buf), 0));
		for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, (unsigned)n); h = NLMSG_NEXT(h, n)) {
			if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
				struct nlmsgerr *e = NLMSG_DATA(h);
				say("%s end: %d messages, %s %s", name, count, h->nlmsg_type == NLMSG_DONE ? "done" : "error",
				    e->error ? strerrorname_np(-e->error) : "0");
				close(fd);
				return;
			}
			char key[64];
			sprintf(key, "%s %d", name, count++);
			if (type == RTM_GETLINK) {
				struct ifinfomsg *i = NLMSG_DATA(h);
				say("%s: index %d type %d flags %#x %s", key, i->ifi_index, i->ifi_type, i->ifi_flags,
				    h->nlmsg_flags & NLM_F_MULTI ? "multi" : "single");
			} else if (type == RTM_GETADDR) {
				struct ifaddrmsg *a = NLMSG_DATA(h);
				say("%s: family %d prefix %d scope %d index %d flags %#x", key, a->ifa_family, a->ifa_prefixlen,
				    a->ifa_scope, a->ifa_index, a->ifa_flags);
			} else if (type == RTM_GETROUTE) {
				struct rtmsg *r = NLMSG_DATA(h);
				say("%s: family %d to /%d table %d protocol %d type %d", key, r->rtm_family, r->rtm_dst_len, r->rtm_table,
				    r->rtm_protocol, r->rtm_type);
			} else
				say("%s: type %d", key, h->nlmsg_type);
		}
	}
	close(fd);
}

static const char *answer(int fd)
{
	int n = recv(fd, buf, sizeof(buf), 0);
	struct nlmsghdr *h = (void *)buf;
	if (n < 0)
		return strerrorname_np(errno);
	if (h->nlmsg_type != NLMSG_ERROR)
		return "no error message";
	struct nlmsgerr *e = NLMSG_DATA(h);
	return e->error ? strerrorname_np(-e->error) : "ok";
}

/* iproute2 always names the kernel as the destination: so does this. */
static int route_socket(void)
{
	int fd = need(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	need(bind(fd, SA(kernel)));
	return fd;
}

static void put(struct nlmsghdr *h, int type, const void *data, int len)
{
	struct rtattr *a = (void *)((char *)h + NLMSG_ALIGN(h->nlmsg_len));
	a->rta_type = type;
	a->rta_len = RTA_LENGTH(len);
	memcpy(RTA_DATA(a), data, len);
	h->nlmsg_len = NLMSG_ALIGN(h->nlmsg_len) + RTA_ALIGN(a->rta_len);
}

static const char *sent(int fd, struct nlmsghdr *h)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct iovec io = { h, h->nlmsg_len };
	struct msghdr m = { &kernel, sizeof(kernel), &io, 1, NULL, 0, 0 };
	if (sendmsg(fd, &m, 0) < 0)
		return strerrorname_np(errno);
	return answer(fd);
}

static void changes(void)
{
	int fd = route_socket();
	struct { struct nlmsghdr h; struct ifaddrmsg a; char space[128]; } addr = {
		.h = { NLMSG_LENGTH(sizeof(struct ifaddrmsg)), RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 1, 0 },
		.a = { AF_INET, 24, 0, 0, 1 },
	};
	in_addr_t ip = inet_addr("10.77.0.1");
	put(&addr.h, IFA_LOCAL, &ip, 4);
	put(&addr.h, IFA_ADDRESS, &ip, 4);
	say("new address: %s", sent(fd, &addr.h));
	say("new address again: %s", sent(fd, &addr.h));
	int t = need(socket(AF_INET, SOCK_STREAM, 0));
	struct sockaddr_in a = v4("10.77.0.1", 0);
	say("bind to it: %s", en(bind(t, SA(a))));
	close(t);
	addr.h.nlmsg_type = RTM_DELADDR;
	addr.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	say("delete address: %s", sent(fd, &addr.h));
	say("delete address again: %s", sent(fd, &addr.h));
	struct { struct nlmsghdr h; struct ifinfomsg i; char space[128]; } link = {
		.h = { NLMSG_LENGTH(sizeof(struct ifinfomsg)), RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0 },
		.i = { .ifi_index = 1 },
	};
	int mtu = 40000;
	put(&link.h, IFLA_MTU, &mtu, 4);
	say("set mtu: %s", sent(fd, &link.h));
	link.h.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg));
	link.h.nlmsg_flags |= NLM_F_CREATE | NLM_F_EXCL;
	link.i.ifi_index = 0;
	put(&link.h, IFLA_IFNAME, "vp0", 4);
	char kind[32] = { 0 };
	struct rtattr *k = (void *)kind;
	k->rta_type = IFLA_INFO_KIND, k->rta_len = RTA_LENGTH(4);
	memcpy(RTA_DATA(k), "veth", 4);
	put(&link.h, IFLA_LINKINFO, kind, k->rta_len);
	say("new veth: %s", sent(fd, &link.h));
	say("its index: %s", if_nametoindex("vp0") ? "some" : "none");
	link.h.nlmsg_type = RTM_DELLINK;
	link.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	link.h.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg));
	link.i.ifi_index = if_nametoindex("vp0");
	say("delete veth: %s", sent(fd, &link.h));
	mtu = 65536;
	link.h.nlmsg_type = RTM_NEWLINK;
	link.h.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg));
	link.i.ifi_index = 1;
	put(&link.h, IFLA_MTU, &mtu, 4);
	say("set mtu back: %s", sent(fd, &link.h));
	struct { struct nlmsghdr h; struct rtmsg r; char space[128]; } route = {
		.h = { NLMSG_LENGTH(sizeof(struct rtmsg)), RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0 },
		.r = { .rtm_family = AF_INET, .rtm_dst_len = 8, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC,
		       .rtm_scope = RT_SCOPE_HOST, .rtm_type = RTN_LOCAL },
	};
	ip = inet_addr("44.0.0.0");
	int lo = 1;
	put(&route.h, RTA_DST, &ip, 4);
	put(&route.h, RTA_OIF, &lo, 4);
	say("new local route: %s", sent(fd, &route.h));
	t = need(socket(AF_INET, SOCK_STREAM, 0));
	a = v4("44.1.2.3", 0);
	say("bind in it: %s", en(bind(t, SA(a))));
	close(t);
	route.h.nlmsg_type = RTM_DELROUTE;
	route.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	say("delete local route: %s", sent(fd, &route.h));
	close(fd);
}

static void watch(void)
{
	int fd = need(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)), port;
	struct sockaddr_nl groups = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_IFADDR };
	say("bind to groups: %s", en(bind(fd, SA(groups))));
	socklen_t len = sizeof(groups);
	getsockname(fd, (void *)&groups, &len);
	say("port id: %s", groups.nl_pid == (unsigned)getpid() ? "the process id" : groups.nl_pid ? "another" : "none");
	int second = need(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	struct sockaddr_nl none = { .nl_family = AF_NETLINK };
	need(bind(second, SA(none)));
	getsockname(second, (void *)&none, &len);
	say("second port id: %s", none.nl_pid == (unsigned)getpid() ? "the process id" : "another");
	none.nl_pid = groups.nl_pid;
	int third = need(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	say("third takes the first's: %s", en(bind(third, SA(none))));
	close(third), close(second);
	changes();
	int events = 0;
	while (polled_for(fd, POLLIN, 100), recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		events++;
	say("address events: %d", events);
	int group = RTNLGRP_LINK;
	say("membership: %s", en(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, 4)));
	close(fd);
	(void)port;
}

static void diag(void)
{
	struct { struct nlmsghdr h; struct inet_diag_req_v2 r; } req = {
		.h = { sizeof(req), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 },
		.r = { .sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0u },
	};
	int port, l = listener(&port, 7), listening = 0, others = 0;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
	say("diag socket: %s", en(fd));
	need(send(fd, &req, sizeof(req), 0));
	for (int done = 0; !done;) {
		int n = need(recv(fd, buf, sizeof(buf), 0));
		for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, (unsigned)n); h = NLMSG_NEXT(h, n)) {
			if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY) {
				done = 1;
				break;
			}
			struct inet_diag_msg *m = NLMSG_DATA(h);
			struct stat st;
			fstat(l, &st);
			if (m->idiag_state == 10 && ntohs(m->id.idiag_sport) == port)
				say("diag listener: backlog %u inode %s uid %s", m->idiag_wqueue, m->idiag_inode == st.st_ino ? "right" : "wrong",
				    m->idiag_uid == geteuid() ? "mine" : "other"), listening++;
			else
				others++;
		}
	}
	say("diag: %d listener, %d others", listening, others);
	close(fd), close(l);
}

int main(void)
{
	dump(NETLINK_ROUTE, RTM_GETLINK, AF_UNSPEC, "link");
	dump(NETLINK_ROUTE, RTM_GETADDR, AF_UNSPEC, "address");
	dump(NETLINK_ROUTE, RTM_GETADDR, AF_INET, "address v4");
	dump(NETLINK_ROUTE, RTM_GETROUTE, AF_INET, "route v4");
	dump(NETLINK_ROUTE, RTM_GETROUTE, AF_INET6, "route v6");
	dump(NETLINK_ROUTE, RTM_GETRULE, AF_INET, "rule v4");
	dump(NETLINK_ROUTE, RTM_GETNEIGH, AF_INET, "neighbour v4");
	dump(NETLINK_ROUTE, RTM_GETQDISC, AF_UNSPEC, "qdisc");
	diag();
	watch();
	struct { struct nlmsghdr h; char c[4]; } junk = { .h = { sizeof(junk), 4000, NLM_F_REQUEST | NLM_F_ACK, 1, 0 } };
	int fd = route_socket();
	need(send(fd, &junk, sizeof(junk), 0));
	say("unknown message: %s", answer(fd));
	close(fd);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

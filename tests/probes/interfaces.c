/* Interfaces by every road: getifaddrs, names and numbers, SIOC* on sockets of several families. */
#include "probe.h"
#include <linux/ethtool.h>
#include <linux/if_arp.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <linux/wireless.h>

static void addresses(void)
{
	struct ifaddrs *all, *i;
	int n = 0;
	need(getifaddrs(&all));
	for (i = all; i; i = i->ifa_next) {
		char mask[80] = "none", key[40];
		if (i->ifa_netmask)
			strcpy(mask, addr_text(i->ifa_netmask));
		sprintf(key, "getifaddrs %d", n++);
		say("%s: %s family %d flags %#x address %s mask %s", key, i->ifa_name, i->ifa_addr->sa_family, i->ifa_flags,
		    addr_text(i->ifa_addr), mask);
	}
	freeifaddrs(all);
	struct if_nameindex *names = if_nameindex();
	for (n = 0; names && names[n].if_name; n++)
		say("nameindex %d: %u %s", n, names[n].if_index, names[n].if_name);
	if_freenameindex(names);
	char name[IF_NAMESIZE];
	say("nametoindex lo: %u", if_nametoindex("lo"));
	say("nametoindex eth0: %u", if_nametoindex("eth0"));
	say("nametoindex nonsense: %u %s", if_nametoindex("nonsense0"), strerrorname_np(errno));
	const char *got = if_indextoname(1, name);
	say("indextoname 1: %s", got ? got : strerrorname_np(errno));
	got = if_indextoname(2, name);
	say("indextoname 2: %s", got ? got : strerrorname_np(errno));
	got = if_indextoname(4711, name);
	say("indextoname 4711: %s", got ? got : strerrorname_np(errno));
}

#define GET(req, shown, ...) do { \
	memset(&r.ifr_ifru, 0, sizeof(r.ifr_ifru)); \
	strcpy(r.ifr_name, ifname); \
	int rc_ = ioctl(fd, req, &r); \
	if (rc_ < 0) say("%s " #req " %s: %s", family, ifname, en(rc_)); \
	else say("%s " #req " %s: " shown, family, ifname, __VA_ARGS__); \
} while (0)

static void ioctls(int domain, int type, const char *family)
{
	int fd = socket(domain, type, 0);
	if (fd < 0) {
		say("%s socket: %s", family, en(fd));
		return;
	}
	struct ifreq r = { 0 };
	static const char *ifnames[] = { "lo", "lo:1", "eth0", "nonsense0", "" };
	for (int i = 0; i < 5; i++) {
		const char *ifname = ifnames[i];
		GET(SIOCGIFINDEX, "%d", r.ifr_ifindex);
		GET(SIOCGIFFLAGS, "%#x", r.ifr_flags);
		GET(SIOCGIFADDR, "%s", addr_text(&r.ifr_addr));
		GET(SIOCGIFNETMASK, "%s", addr_text(&r.ifr_addr));
		GET(SIOCGIFBRDADDR, "%s", addr_text(&r.ifr_addr));
		GET(SIOCGIFDSTADDR, "%s", addr_text(&r.ifr_addr));
		GET(SIOCGIFHWADDR, "family %d", r.ifr_hwaddr.sa_family);
		GET(SIOCGIFMTU, "%d", r.ifr_mtu);
		GET(SIOCGIFMETRIC, "%d", r.ifr_metric);
		GET(SIOCGIFTXQLEN, "%d", r.ifr_qlen);
		GET(SIOCGIFMAP, "%d", r.ifr_map.irq);
		GET(SIOCGIFPFLAGS, "%d", r.ifr_flags);
		GET(SIOCGIWNAME, "%s", "name");
	}
	r.ifr_ifindex = 1;
	int rc = ioctl(fd, SIOCGIFNAME, &r);
	say("%s SIOCGIFNAME 1: %s %s", family, en(rc), rc < 0 ? "" : r.ifr_name);
	r.ifr_ifindex = 2;
	rc = ioctl(fd, SIOCGIFNAME, &r);
	say("%s SIOCGIFNAME 2: %s %s", family, en(rc), rc < 0 ? "" : r.ifr_name);
	struct ifreq list[8];
	struct ifconf conf = { sizeof(list), { (void *)list } };
	rc = ioctl(fd, SIOCGIFCONF, &conf);
	say("%s SIOCGIFCONF: %s length %d %s %s", family, en(rc), conf.ifc_len, rc < 0 || !conf.ifc_len ? "" : list[0].ifr_name,
	    rc < 0 || !conf.ifc_len ? "" : addr_text(&list[0].ifr_addr));
	conf = (struct ifconf){ 0, { NULL } };
	rc = ioctl(fd, SIOCGIFCONF, &conf);
	say("%s SIOCGIFCONF size: %s %d", family, en(rc), conf.ifc_len);
	struct ethtool_value ev = { .cmd = ETHTOOL_GLINK };
	strcpy(r.ifr_name, "lo");
	r.ifr_data = (void *)&ev;
	rc = ioctl(fd, SIOCETHTOOL, &r);
	say("%s SIOCETHTOOL link: %s %u", family, en(rc), rc < 0 ? 0 : ev.data);
	struct arpreq arp = { 0 };
	struct sockaddr_in to = v4("127.0.0.9", 0);
	memcpy(&arp.arp_pa, &to, sizeof(to));
	strcpy(arp.arp_dev, "lo");
	say("%s SIOCGARP: %s", family, en(ioctl(fd, SIOCGARP, &arp)));
	strcpy(r.ifr_name, "lo");
	r.ifr_mtu = 30000;
	rc = ioctl(fd, SIOCSIFMTU, &r);
	say("%s SIOCSIFMTU: %s", family, en(rc));
	r.ifr_mtu = 0;
	rc = ioctl(fd, SIOCGIFMTU, &r);
	say("%s SIOCGIFMTU after: %s %d", family, en(rc), rc < 0 ? 0 : r.ifr_mtu);
	r.ifr_mtu = 65536;
	ioctl(fd, SIOCSIFMTU, &r);
	say("%s SIOCGIFINDEX bad pointer: %s", family, en(ioctl(fd, SIOCGIFINDEX, (void *)8)));
	say("%s private ioctl: %s", family, en(ioctl(fd, SIOCDEVPRIVATE, &r)));
	say("%s FIONREAD: %s", family, en(ioctl(fd, FIONREAD, &rc)));
	close(fd);
}

int main(void)
{
	addresses();
	ioctls(AF_INET, SOCK_DGRAM, "inet dgram");
	ioctls(AF_INET, SOCK_STREAM, "inet stream");
	ioctls(AF_INET6, SOCK_DGRAM, "inet6 dgram");
	ioctls(AF_UNIX, SOCK_DGRAM, "unix dgram");
	ioctls(AF_UNIX, SOCK_STREAM, "unix stream");
	ioctls(AF_PACKET, SOCK_DGRAM, "packet");
	ioctls(AF_NETLINK, SOCK_RAW, "netlink");
	int sv[2];
	struct ifreq r = { .ifr_name = "lo" };
	need(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	int rc = ioctl(sv[0], SIOCGIFINDEX, &r);
	say("socketpair SIOCGIFINDEX: %s %d", en(rc), r.ifr_ifindex);
	int p[2];
	need(pipe(p));
	say("pipe SIOCGIFINDEX: %s", en(ioctl(p[0], SIOCGIFINDEX, &r)));
	say("closed SIOCGIFINDEX: %s", en(ioctl(99, SIOCGIFINDEX, &r)));
	int null = need(open("/dev/null", O_RDWR));
	say("null SIOCGIFINDEX: %s", en(ioctl(null, SIOCGIFINDEX, &r)));
	close(null), close(p[0]), close(p[1]), close(sv[0]), close(sv[1]);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

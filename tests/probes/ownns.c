/* A program that makes network namespaces of its own finds them empty, and finds its way back. */
#include "probe.h"

static void look(const char *where)
{
	struct ifaddrs *all, *i;
	int n = 0;
	if (getifaddrs(&all) < 0) {
		say("%s getifaddrs: %s", where, en(-1));
		return;
	}
	for (i = all; i; i = i->ifa_next)
		say("%s interface %d: %s family %d flags %#x", where, n++, i->ifa_name, i->ifa_addr ? i->ifa_addr->sa_family : 0, i->ifa_flags);
	freeifaddrs(all);
	say("%s lo: %u", where, if_nametoindex("lo"));
	struct ifreq r = { .ifr_name = "lo" };
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0), rc = ioctl(fd, SIOCGIFFLAGS, &r);
	say("%s lo by unix ioctl: %s %#x", where, en(rc), r.ifr_flags);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = v4("127.0.0.1", 0);
	say("%s bind: %s", where, en(bind(fd, SA(a))));
	say("%s listen: %s", where, en(listen(fd, 1)));
	a.sin_port = htons(9);
	int c = socket(AF_INET, SOCK_STREAM, 0);
	say("%s connect: %s", where, en(connect(c, SA(a))));
	close(c), close(fd);
}

int main(void)
{
	int port, l = listener(&port, 4);
	struct sockaddr_in a = v4("127.0.0.1", port);
	look("home");
	pid_t pid = fork();
	if (pid == 0) {
		say("unshare user and net: %s", en(unshare(CLONE_NEWUSER | CLONE_NEWNET)));
		look("own");
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		say("own to home's listener: %s", en(connect(fd, SA(a))));
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
		say("own lo up: %s", en(ioctl(fd, SIOCSIFFLAGS, &r)));
		look("own up");
		fd = socket(AF_INET, SOCK_STREAM, 0);
		say("own up to home's listener: %s", en(connect(fd, SA(a))));
		_exit(0);
	}
	say("own child: %s", ended(pid));
	/* A thread that leaves, and its siblings that stay. */
	pid = fork();
	if (pid == 0) {
		int home = need(open("/proc/self/ns/net", O_RDONLY));
		if (unshare(CLONE_NEWUSER) < 0 || unshare(CLONE_NEWNET) < 0) {
			say("second unshare: %s", en(-1));
			_exit(1);
		}
		say("back by setns: %s", en(setns(home, CLONE_NEWNET)));
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		say("to home's listener then: %s", en(connect(fd, SA(a))));
		_exit(0);
	}
	say("setns child: %s", ended(pid));
	say("setns of a socket: %s", en(setns(l, CLONE_NEWNET)));
	look("home again");
	return 0;
}

/* System calls of other ABIs from a 64-bit program: int 0x80 and x32 numbers. */
#include "probe.h"

#ifdef __x86_64__
static long int80(long nr, long a, long b, long c)
{
	long ret;
	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

static const char *named(long rc)
{
	return rc < 0 ? strerrorname_np(-rc) : "ok";
}

static void view_of(int fd, const char *name)
{
	struct ifreq r = { .ifr_name = "lo" };
	if (fd < 0)
		return;
	int domain = -1;
	socklen_t len = 4;
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	int rc = ioctl(fd, SIOCGIFFLAGS, &r);
	say("%s: domain %d lo %s %#x", name, domain, en(rc), r.ifr_flags);
	struct sockaddr_in a = v4("127.0.0.1", 81);
	if (domain == AF_INET)
		say("%s bind 81: %s", name, en(bind(fd, SA(a))));
	close(fd);
}

int main(void)
{
	/* Arguments of the 32-bit call must lie below 4 GiB. */
	uint32_t *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	static const int families[] = { AF_INET, AF_INET6, AF_UNIX, AF_NETLINK, 1000 };
	for (int i = 0; i < 5; i++) {
		char name[64];
		sprintf(name, "socket family %d", families[i]);
		long fd = int80(359, families[i], SOCK_DGRAM, 0);
		say("%s: %s", name, named(fd));
		view_of(fd, ({ strcat(name, " by int 0x80"); name; }));
		low[0] = families[i], low[1] = SOCK_STREAM, low[2] = 0;
		fd = int80(102, 1, (long)low, 0);
		sprintf(name, "socketcall family %d", families[i]);
		say("%s: %s", name, named(fd));
		view_of(fd, ({ strcat(name, " by int 0x80"); name; }));
	}
	say("socketcall bad pointer: %s", named(int80(102, 1, 8, 0)));
	say("socketcall 0: %s", named(int80(102, 0, (long)low, 0)));
	say("socketcall 99: %s", named(int80(102, 99, (long)low, 0)));
	low[0] = AF_UNIX, low[1] = SOCK_STREAM, low[2] = 0, low[3] = (uint32_t)(uintptr_t)&low[8];
	say("socketcall socketpair: %s", named(int80(102, 8, (long)low, 0)));
	close(low[8]), close(low[9]);
	say("io_uring_setup by int 0x80: %s", named(int80(425, 0, 0, 0)) );
	int udp = need(socket(AF_UNIX, SOCK_DGRAM, 0));
	struct ifreq *r = (void *)&low[16];
	strcpy(r->ifr_name, "lo");
	long rc = int80(54, udp, SIOCGIFINDEX, (long)r);
	say("ioctl by int 0x80: %s %d", named(rc), r->ifr_ifindex);
	say("x32 socket: %s", en(syscall(0x40000000 | 41, AF_INET, SOCK_STREAM, 0)));
	say("x32 getpid: %s", en(syscall(0x40000000 | 39)));
	say("x32 ioctl: %s", en(syscall(0x40000000 | 514, udp, SIOCGIFINDEX, r)));
	say("no such call: %s", en(syscall(4000)));
	close(udp);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}
#else
int main(void)
{
	say("foreign calls: none on this machine");
	return 0;
}
#endif

/* Pointers that lead nowhere: EFAULT, and never a crash. */
#include "probe.h"

/* Volatile, or gcc sees through it and warns. */
static void *volatile bad = (void *)8;
#define BAD bad
static void *edge;

static void one(int family, int type, const char *name)
{
	int fd = need(socket(family, type, 0));
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);
	say("%s bind: %s", name, en(bind(fd, BAD, 16)));
	say("%s bind null: %s", name, en(bind(fd, NULL, 16)));
	say("%s bind edge: %s", name, en(bind(fd, (void *)((char *)edge - 4), 16)));
	say("%s bind huge: %s", name, en(bind(fd, BAD, 1u << 31)));
	say("%s bind zero: %s", name, en(bind(fd, BAD, 0)));
	say("%s connect: %s", name, en(connect(fd, BAD, 16)));
	say("%s connect edge: %s", name, en(connect(fd, (void *)((char *)edge - 4), 16)));
	say("%s connect negative: %s", name, en(connect(fd, BAD, -1)));
	say("%s connect zero: %s", name, en(connect(fd, BAD, 0)));
	say("%s getsockname: %s", name, en(getsockname(fd, BAD, &len)));
	say("%s getsockname length: %s", name, en(getsockname(fd, (void *)&a, BAD)));
	len = -1;
	say("%s getsockname negative: %s", name, en(getsockname(fd, (void *)&a, &len)));
	say("%s sendto: %s", name, en(sendto(fd, "x", 1, MSG_NOSIGNAL, BAD, 16)));
	say("%s send: %s", name, en(send(fd, BAD, 1, MSG_NOSIGNAL)));
	say("%s sendmsg: %s", name, en(sendmsg(fd, BAD, MSG_NOSIGNAL)));
	say("%s recvmsg: %s", name, en(recvmsg(fd, BAD, MSG_DONTWAIT)));
	say("%s ioctl FIONREAD: %s", name, en(ioctl(fd, FIONREAD, BAD)));
	say("%s ioctl SIOCGIFCONF: %s", name, en(ioctl(fd, SIOCGIFCONF, BAD)));
	say("%s ioctl SIOCGIFADDR: %s", name, en(ioctl(fd, SIOCGIFADDR, BAD)));
	say("%s ioctl SIOCGIFADDR edge: %s", name, en(ioctl(fd, SIOCGIFADDR, (char *)edge - 8)));
	struct ifconf conf = { 400, { BAD } };
	say("%s ioctl SIOCGIFCONF inner: %s", name, en(ioctl(fd, SIOCGIFCONF, &conf)));
	close(fd);
}

int main(void)
{
	long page = sysconf(_SC_PAGESIZE);
	char *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(map + page, page);
	edge = map + page;
	*(short *)((char *)edge - 4) = AF_INET;
	one(AF_INET, SOCK_STREAM, "tcp");
	one(AF_INET, SOCK_DGRAM, "udp");
	one(AF_INET6, SOCK_STREAM, "tcp6");
	*(short *)((char *)edge - 4) = AF_UNIX;
	one(AF_UNIX, SOCK_STREAM, "unix");
	one(AF_UNIX, SOCK_DGRAM, "unix dgram");
	say("socketpair: %s", en(socketpair(AF_UNIX, SOCK_STREAM, 0, BAD)));
	/* A path that ends where memory ends. */
	struct sockaddr_un *u = (void *)((char *)edge - 16);
	u->sun_family = AF_UNIX;
	memset(u->sun_path, 'p', 14);
	int fd = need(socket(AF_UNIX, SOCK_STREAM, 0));
	say("unix path at the edge: %s", en(connect(fd, (void *)u, 16)));
	say("unix path beyond the edge: %s", en(connect(fd, (void *)u, 17)));
	close(fd);
	say("accept4: %s", ({ int l = listener(&(int){ 0 }, 1); nonblocking(l, 1); const char *e = en(accept4(l, BAD, BAD, 0)); close(l); e; }));
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

/* socket() and socketpair(): which families, types, protocols and flags, and which errors. */
#include "probe.h"

static const struct { int family; const char *name; } families[] = {
	{ -1, "-1" }, { 0, "UNSPEC" }, { AF_UNIX, "UNIX" }, { AF_INET, "INET" }, { AF_INET6, "INET6" },
	{ AF_NETLINK, "NETLINK" }, { AF_PACKET, "PACKET" }, { AF_BLUETOOTH, "BLUETOOTH" }, { AF_ALG, "ALG" },
	{ AF_VSOCK, "VSOCK" }, { 1000, "1000" }, { 0x10002, "0x10002" },
};
static const struct { int type; const char *name; } types[] = {
	{ 0, "0" }, { SOCK_STREAM, "STREAM" }, { SOCK_DGRAM, "DGRAM" }, { SOCK_RAW, "RAW" }, { SOCK_RDM, "RDM" },
	{ SOCK_SEQPACKET, "SEQPACKET" }, { SOCK_DCCP, "DCCP" }, { SOCK_PACKET, "PACKET" }, { 11, "11" },
	{ -1, "-1" }, { SOCK_STREAM | 0x100, "STREAM|0x100" }, { SOCK_STREAM | SOCK_CLOEXEC, "STREAM|CLOEXEC" },
	{ SOCK_DGRAM | SOCK_NONBLOCK, "DGRAM|NONBLOCK" },
};
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static void one(int family, int type, int protocol, const char *name)
{
	int fd = socket(family, type, protocol);
	if (fd < 0) {
		say("%s: %s", name, en(fd));
		return;
	}
	int domain = 0, kind = 0, proto = 0;
	socklen_t len = sizeof(int);
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len);
	getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &proto, &len);
	say("%s: ok domain %d type %d protocol %d cloexec %d nonblock %d", name, domain, kind, proto,
	    fcntl(fd, F_GETFD) & FD_CLOEXEC, !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
	close(fd);
}

int main(void)
{
	char name[128];
	for (size_t f = 0; f < COUNT(families); f++)
		for (size_t t = 0; t < COUNT(types); t++) {
			sprintf(name, "family %s type %s", families[f].name, types[t].name);
			one(families[f].family, types[t].type, 0, name);
		}
	static const int protocols[] = { -1, 1, 2, 6, 17, 41, 47, 50, 58, 89, 103, 136, 255, 256, 262, 263, 1000 };
	for (size_t p = 0; p < COUNT(protocols); p++)
		for (int family = AF_INET; family <= AF_INET6; family += AF_INET6 - AF_INET)
			for (int type = SOCK_STREAM; type <= SOCK_RAW; type++) {
				sprintf(name, "family %d type %d protocol %d", family, type, protocols[p]);
				one(family, type, protocols[p], name);
			}
	for (int protocol = 0; protocol < 33; protocol++) {
		sprintf(name, "netlink protocol %d", protocol);
		one(AF_NETLINK, SOCK_RAW, protocol, name);
	}
	for (size_t f = 0; f < COUNT(families); f++)
		for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type++) {
			int sv[2] = { -7, -7 };
			int rc = socketpair(families[f].family, type, 0, sv);
			say("socketpair %s type %d: %s%s", families[f].name, type, en(rc), sv[0] == -7 ? " untouched" : "");
			if (rc == 0)
				close(sv[0]), close(sv[1]);
		}
	int sv[2];
	need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv));
	say("socketpair flags: cloexec %d nonblock %d", fcntl(sv[1], F_GETFD), !!(fcntl(sv[1], F_GETFL) & O_NONBLOCK));
	say("descriptors left: %d", open_fds() - 2 - 3);
	return 0;
}

/* AF_UNIX sockets: they are the machine's own, in a view as well. */
#include "probe.h"

static socklen_t path_addr(struct sockaddr_un *a, const char *name, int abstract)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	if (abstract)
		return offsetof(struct sockaddr_un, sun_path) + 1 + sprintf(a->sun_path + 1, "probe-%s-%d", name, getpid());
	return offsetof(struct sockaddr_un, sun_path) + 1 + sprintf(a->sun_path, "%s", name);
}

static void server(int type, int abstract)
{
	char name[64];
	sprintf(name, "%s type %d", abstract ? "abstract" : "path", type);
	struct sockaddr_un a, peer;
	socklen_t len = path_addr(&a, abstract ? "a" : "./probe.sock", abstract), plen = sizeof(peer);
	int l = need(socket(AF_UNIX, type, 0)), c = need(socket(AF_UNIX, type, 0)), s;
	say("%s connect to nobody: %s", name, en(connect(c, (void *)&a, len)));
	say("%s bind: %s", name, en(bind(l, (void *)&a, len)));
	say("%s bind again: %s", name, ({ int x = socket(AF_UNIX, type, 0); int rc = bind(x, (void *)&a, len); const char *e = en(rc); close(x); e; }));
	char buf[16];
	if (type == SOCK_DGRAM) {
		say("%s sendto: %s", name, result(sendto(c, "dgram", 5, 0, (void *)&a, len)));
		ssize_t n = recvfrom(l, buf, 16, 0, (void *)&peer, &plen);
		say("%s recvfrom: %s length %u", name, result(n), plen);
		close(l), close(c);
		unlink("./probe.sock");
		return;
	}
	say("%s connect before listen: %s", name, en(connect(c, (void *)&a, len)));
	need(listen(l, 2));
	say("%s connect: %s", name, en(connect(c, (void *)&a, len)));
	s = need(accept4(l, (void *)&peer, &plen, SOCK_CLOEXEC));
	say("%s accept: length %u", name, plen);
	struct ucred cred;
	socklen_t clen = sizeof(cred);
	int rc = getsockopt(s, SOL_SOCKET, SO_PEERCRED, &cred, &clen);
	say("%s peercred: %s pid %s uid %s", name, en(rc), cred.pid == getpid() ? "mine" : "other",
	    cred.uid == geteuid() ? "mine" : "other");
	int on = 1;
	need(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &on, 4));
	need(send(c, "data", 4, 0));
	char control[128];
	struct iovec io = { buf, 16 };
	struct msghdr m = { NULL, 0, &io, 1, control, sizeof(control), 0 };
	ssize_t n = recvmsg(s, &m, 0);
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	say("%s scm_credentials: %s %s", name, result(n), h && ((struct ucred *)CMSG_DATA(h))->pid == getpid() ? "mine" : "other");
	close(l), close(c), close(s);
	unlink("./probe.sock");
}

static void rights(void)
{
	int sv[2], t[2];
	need(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	tcp_pair(t);
	union { struct cmsghdr h; char space[CMSG_SPACE(sizeof(int))]; } u = { .h = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	memcpy(CMSG_DATA(&u.h), &t[0], sizeof(int));
	struct iovec io = { "f", 1 };
	struct msghdr m = { NULL, 0, &io, 1, &u, sizeof(u), 0 };
	pid_t child = fork();
	if (child == 0) {
		char b;
		io = (struct iovec){ &b, 1 };
		m = (struct msghdr){ NULL, 0, &io, 1, &u, sizeof(u), 0 };
		close(t[0]), close(t[1]);
		int fd;
		if (recvmsg(sv[1], &m, MSG_CMSG_CLOEXEC) != 1)
			_exit(1);
		memcpy(&fd, CMSG_DATA(&u.h), sizeof(int));
		_exit(send(fd, "passed", 6, 0) == 6 && fcntl(fd, F_GETFD) ? 0 : 2);
	}
	say("rights: send %s", result(sendmsg(sv[0], &m, 0)));
	close(t[0]);
	say("rights: child %s", ended(child));
	char buf[16];
	say("rights: data %s", result(recv(t[1], buf, 16, 0)));
	say("rights: then %s", result(recv(t[1], buf, 16, 0)));
	close(sv[0]), close(sv[1]), close(t[1]);
}

int main(void)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
	for (int i = 0; i < 3; i++)
		for (int abstract = 0; abstract < 2; abstract++)
			server(types[i], abstract);
	rights();
	struct sockaddr_un a;
	int s = need(socket(AF_UNIX, SOCK_STREAM, 0));
	socklen_t len = path_addr(&a, "/nonexistent/socket", 0);
	say("no such path: %s", en(connect(s, (void *)&a, len)));
	len = path_addr(&a, "/dev/null", 0);
	say("not a socket: %s", en(connect(s, (void *)&a, len)));
	memset(a.sun_path, 'x', sizeof(a.sun_path));
	say("longest path: %s", en(connect(s, SA(a))));
	say("family only: %s", en(connect(s, (void *)&a, 2)));
	say("too long: %s", en(connect(s, (void *)&a, sizeof(a) + 1)));
	a.sun_family = AF_INET;
	say("wrong family: %s", en(connect(s, SA(a))));
	say("autobind: %s", ({ a.sun_family = AF_UNIX; en(bind(s, (void *)&a, 2)); }));
	int n = -1;
	say("SIOCOUTQ: %s", en(ioctl(s, TIOCOUTQ, &n)));
	say("SIOCATMARK: %s", en(ioctl(s, SIOCATMARK, &n)));
	close(s);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

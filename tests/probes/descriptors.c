/* Descriptor numbers, limits and flags; sendfile and splice; fstat; what /proc shows of a socket. */
#include "probe.h"

int main(void)
{
	struct rlimit limit;
	say("first free: %d", ({ int fd = need(socket(AF_INET, SOCK_STREAM, 0)); close(fd); fd; }));
	int a = need(socket(AF_INET, SOCK_STREAM, 0)), b = need(socket(AF_INET6, SOCK_DGRAM, 0)), c = need(socket(AF_UNIX, SOCK_STREAM, 0));
	say("in a row: %d %d", b - a, c - a);
	close(b);
	b = need(socket(AF_NETLINK, SOCK_RAW, 0));
	say("lowest free: %d", b - a);
	close(a), close(b), close(c);
	for (int flags = 0; flags < 4; flags++) {
		int type = SOCK_STREAM | (flags & 1 ? SOCK_CLOEXEC : 0) | (flags & 2 ? SOCK_NONBLOCK : 0);
		a = need(socket(AF_INET, type, 0));
		say("flags %d: cloexec %d status %#x", flags, fcntl(a, F_GETFD), fcntl(a, F_GETFL));
		close(a);
	}
	getrlimit(RLIMIT_NOFILE, &limit);
	rlim_t soft = limit.rlim_cur;
	int used = open_fds();
	limit.rlim_cur = used + 4;
	setrlimit(RLIMIT_NOFILE, &limit);
	int got[8], n = 0;
	while (n < 8 && (got[n] = socket(AF_INET, SOCK_STREAM, 0)) >= 0)
		n++;
	say("limit: %d made then %s", n, n < 8 ? strerrorname_np(errno) : "more");
	say("limit unix: %s", en(socket(AF_UNIX, SOCK_STREAM, 0)));
	say("limit netlink: %s", en(socket(AF_NETLINK, SOCK_RAW, 0)));
	say("limit bad family: %s", en(socket(1000, SOCK_STREAM, 0)));
	say("limit nametoindex: %u", if_nametoindex("lo"));
	close(got[0]);
	say("limit, one closed: %s", en(got[0] = socket(AF_INET, SOCK_STREAM, 0)));
	while (n-- > 0)
		close(got[n]);
	limit.rlim_cur = 0;
	setrlimit(RLIMIT_NOFILE, &limit);
	say("limit 0: %s", en(socket(AF_INET, SOCK_STREAM, 0)));
	limit.rlim_cur = soft;
	setrlimit(RLIMIT_NOFILE, &limit);

	int s[2], p[2];
	char buf[1 << 16];
	tcp_pair(s);
	int file = need(open(".", O_RDWR | O_TMPFILE, 0600));
	memset(buf, 'f', sizeof(buf));
	need(write(file, buf, 20000));
	off_t at = 0;
	say("sendfile: %s", result(sendfile(s[0], file, &at, 20000)));
	size_t all = 0;
	while (all < 20000)
		all += need(recv(s[1], buf, sizeof(buf), 0));
	say("sendfile received: %zu", all);
	need(pipe(p));
	need(write(p[1], "through a pipe", 14));
	say("splice in: %s", result(splice(p[0], NULL, s[0], NULL, 14, 0)));
	polled_for(s[1], POLLIN, 1000);
	say("splice out: %s", result(splice(s[1], NULL, p[1], NULL, 100, 0)));
	say("splice data: %s", result(read(p[0], buf, 100)));
	struct iovec io = { buf, 100 };
	say("vmsplice, splice: %s", result(vmsplice(p[1], &io, 1, 0)));
	say("tee: %s", result(splice(p[0], NULL, s[0], NULL, 100, SPLICE_F_MORE)));
	say("preadv on socket: %s", en(preadv(s[0], &io, 1, 5)));
	say("lseek on socket: %s", en(lseek(s[0], 0, SEEK_CUR)));
	say("mmap on socket: %s", mmap(NULL, 4096, PROT_READ, MAP_SHARED, s[0], 0) == MAP_FAILED ? strerrorname_np(errno) : "ok");
	say("fsync on socket: %s", en(fsync(s[0])));
	say("ftruncate on socket: %s", en(ftruncate(s[0], 0)));
	struct stat st;
	need(fstat(s[0], &st));
	say("fstat: mode %o owner %s size %ld", st.st_mode, st.st_uid == geteuid() ? "mine" : "other", (long)st.st_size);
	char link[64], path[64];
	sprintf(path, "/proc/self/fd/%d", s[0]);
	ssize_t n2 = readlink(path, link, sizeof(link) - 1);
	link[n2 < 0 ? 0 : n2] = 0;
	char want[64];
	sprintf(want, "socket:[%lu]", (unsigned long)st.st_ino);
	say("proc link: %s", strcmp(link, want) ? link : "socket:[inode]");
	say("open proc link: %s", en(open(path, O_RDWR)));
	say("fchmod: %s", en(fchmod(s[0], 0600)));
	say("flock: %s", en(fcntl(s[0], F_GETOWN)));
	say("dup2 onto itself: %d", dup2(s[0], s[0]) - s[0]);
	say("dup3 cloexec: %s", ({ int d = dup3(s[0], 50, O_CLOEXEC); int f = fcntl(50, F_GETFD); close(50); d == 50 && f ? "ok" : "wrong"; }));
	close(s[0]);
	say("after close: %s", en(send(s[0], "x", 1, MSG_NOSIGNAL)));
	close(s[1]), close(p[0]), close(p[1]), close(file);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

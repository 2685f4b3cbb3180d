/* What all probes share: one line per observation, `name: value`, and never a number that differs
 * from run to run (pid, ephemeral port, time). A probe knows nothing of viewnet. */
#ifndef PROBE_H
#define PROBE_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* The value of a call: "ok" for anything but an error, else the error's name. */
static const char *en(long rc)
{
	return rc < 0 ? strerrorname_np(errno) : "ok";
}

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* A step the probe itself needs. */
static long need_(long rc, const char *what, int line)
{
	if (rc < 0) {
		printf("line %d %s: %s\n", line, what, strerrorname_np(errno));
		fflush(stdout);
		_exit(3);
	}
	return rc;
}
#define need(call) need_((call), #call, __LINE__)

static struct sockaddr_in v4(const char *addr, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, addr, &a.sin_addr);
	return a;
}

static struct sockaddr_in6 v6(const char *addr, int port)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	inet_pton(AF_INET6, addr, &a.sin6_addr);
	return a;
}

#define SA(a) (struct sockaddr *)&(a), sizeof(a)

static int port_of(int fd)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);
	need(getsockname(fd, (struct sockaddr *)&a, &len));
	return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

/* A TCP listener on loopback; its port in *port. */
static int listener(int *port, int backlog)
{
	struct sockaddr_in a = v4("127.0.0.1", 0);
	int fd = need(socket(AF_INET, SOCK_STREAM, 0));
	need(bind(fd, SA(a)));
	need(listen(fd, backlog));
	*port = port_of(fd);
	return fd;
}

/* A port nobody listens on: it was bound a moment ago. */
static int closed_port(int type)
{
	struct sockaddr_in a = v4("127.0.0.1", 0);
	int fd = need(socket(AF_INET, type, 0));
	need(bind(fd, SA(a)));
	int port = port_of(fd);
	close(fd);
	return port;
}

/* Both ends of a TCP connection over loopback. */
static void tcp_pair(int fds[2])
{
	int port, l = listener(&port, 4);
	struct sockaddr_in a = v4("127.0.0.1", port);
	fds[0] = need(socket(AF_INET, SOCK_STREAM, 0));
	need(connect(fds[0], SA(a)));
	fds[1] = need(accept(l, NULL, NULL));
	close(l);
}

static void nonblocking(int fd, int on)
{
	int flags = need(fcntl(fd, F_GETFL));
	need(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

static const char *mask(int events)
{
	static char buf[4][96];
	static int n;
	static const struct { int bit; const char *name; } bits[] = {
		{ POLLIN, "IN" }, { POLLOUT, "OUT" }, { POLLPRI, "PRI" }, { POLLERR, "ERR" },
		{ POLLHUP, "HUP" }, { POLLNVAL, "NVAL" }, { POLLRDHUP, "RDHUP" },
	};
	char *s = buf[n++ & 3];
	*s = 0;
	for (size_t i = 0; i < sizeof(bits) / sizeof(*bits); i++)
		if (events & bits[i].bit)
			sprintf(s + strlen(s), "%s%s", *s ? "|" : "", bits[i].name);
	return *s ? s : "none";
}

/* What poll says, waiting at most `ms` for anything. */
static const char *polled(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP };
	int rc = poll(&p, 1, ms);
	return rc < 0 ? strerrorname_np(errno) : mask(p.revents);
}

/* Waits until one of `events` shows. */
static const char *polled_for(int fd, int events, int ms)
{
	struct pollfd p = { .fd = fd, .events = events };
	int rc = poll(&p, 1, ms);
	return rc < 0 ? strerrorname_np(errno) : mask(p.revents);
}

static const char *so_error(int fd)
{
	int err = -1;
	socklen_t len = sizeof(err);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		return strerrorname_np(errno);
	return err ? strerrorname_np(err) : "0";
}

/* An address without its port, unless the port is one the probe chose. */
static const char *addr_text(const struct sockaddr *sa)
{
	static char buf[4][80];
	static int n;
	char *s = buf[n++ & 3];
	if (sa->sa_family == AF_INET)
		inet_ntop(AF_INET, &((struct sockaddr_in *)sa)->sin_addr, s, 80);
	else if (sa->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &((struct sockaddr_in6 *)sa)->sin6_addr, s, 80);
	else
		sprintf(s, "family %d", sa->sa_family);
	return s;
}

static const char *result(ssize_t n)
{
	static char buf[8][48];
	static int i;
	char *s = buf[i++ & 7];
	if (n < 0)
		snprintf(s, 48, "%s", strerrorname_np(errno));
	else
		snprintf(s, 48, "%zd", n);
	return s;
}

static volatile sig_atomic_t sigpipes;
static void on_sigpipe(int sig)
{
	(void)sig;
	sigpipes++;
}

static int open_fds(void)
{
	int count = 0;
	for (int fd = 0; fd < 4096; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* How a child ended, as text. */
static const char *ended(pid_t pid)
{
	static char buf[48];
	int status;
	if (waitpid(pid, &status, 0) < 0)
		return strerrorname_np(errno);
	if (WIFEXITED(status))
		sprintf(buf, "exit %d", WEXITSTATUS(status));
	else
		sprintf(buf, "signal %d", WTERMSIG(status));
	return buf;
}
#endif

/* socket() and connect() under a timer signal, with and without SA_RESTART: nothing may fail with anything
 * but EINTR, nothing may be lost, nothing leaked. How many EINTR there are is not observed. */
#include "probe.h"

static volatile sig_atomic_t ticks;
static void on_tick(int sig)
{
	(void)sig;
	ticks++;
}

static void storm(int flags, int usec, const char *name)
{
	struct sigaction sa = { .sa_handler = on_tick, .sa_flags = flags };
	struct itimerval on = { { 0, usec }, { 0, usec } }, off = { 0 };
	int before = open_fds(), good = 0, other = 0, connected = 0, twice = 0, refused = 0;
	int port, l = listener(&port, 128);
	nonblocking(l, 1);
	const char *what = "";
	struct sockaddr_in a = v4("127.0.0.1", port), bad = v4("127.0.0.1", closed_port(SOCK_STREAM));
	sigaction(SIGALRM, &sa, NULL);
	ticks = 0;
	setitimer(ITIMER_REAL, &on, NULL);
	for (int i = 0; i < 100000 && (ticks < 300 || i < 2000); i++) {
		int fd = socket(i & 1 ? AF_INET : AF_NETLINK, i & 1 ? SOCK_STREAM : SOCK_RAW, 0);
		if (fd >= 0) {
			good++;
			close(fd);
		} else if (errno != EINTR)
			other++, what = strerrorname_np(errno);
		struct ifreq r = { .ifr_name = "lo" };
		int u = socket(AF_UNIX, SOCK_DGRAM, 0);
		if ((u < 0 || ioctl(u, SIOCGIFINDEX, &r) < 0) && errno != EINTR)
			other++, what = strerrorname_np(errno);
		close(u);
		if (i % 16 == 0) {
			int c = socket(AF_INET, SOCK_STREAM, 0);
			if (c < 0)
				continue;
			int rc = connect(c, SA(a));
			if (rc == 0 || errno == EINTR)
				connected++;
			else if (errno == EISCONN)
				twice++;
			else
				other++, what = strerrorname_np(errno);
			close(c);
			/* An interrupted connect() may never have begun: nobody to wait for then. */
			while ((rc = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0 || errno == EINTR)
				if (rc >= 0)
					close(rc);
			c = socket(AF_INET, SOCK_STREAM, 0);
			if (c >= 0 && connect(c, SA(bad)) < 0 && (errno == ECONNREFUSED || errno == EINTR))
				refused++;
			close(c);
		}
	}
	setitimer(ITIMER_REAL, &off, NULL);
	close(l);
	say("%s: sockets %s, connections %s, refusals %s, other errors %d %s, leaked %d", name, good ? "made" : "NONE",
	    connected ? "made" : "NONE", refused ? "seen" : "NONE", other, what, open_fds() - before);
	say("%s: connect made anew after it succeeded %s", name, twice ? "at times" : "never");
}

/* A signal must not be lost, nor must a blocked call ignore it. */
static void interrupted(int flags, const char *name)
{
	struct sigaction sa = { .sa_handler = on_tick, .sa_flags = flags };
	struct itimerval once = { { 0, 0 }, { 0, 50000 } };
	sigaction(SIGALRM, &sa, NULL);
	int l = listener(&(int){ 0 }, 1);
	struct timeval tv = { 0, 300000 };
	setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	ticks = 0;
	setitimer(ITIMER_REAL, &once, NULL);
	int fd = accept(l, NULL, NULL);
	say("%s blocked accept: %s ticks %d", name, en(fd), ticks);
	close(l);
}

/* A connect() that need not wait is never interrupted: programs take EINTR for "under way". */
static void connecting(void)
{
	struct sigaction sa = { .sa_handler = on_tick };
	struct itimerval on = { { 0, 250 }, { 0, 250 } }, off = { 0 };
	int port, l = listener(&port, 128), interrupted = 0;
	struct sockaddr_in a = v4("127.0.0.1", port), here = v4("127.0.0.1", 0);
	int udp = need(socket(AF_INET, SOCK_DGRAM, 0));
	need(bind(udp, SA(here)));
	here.sin_port = htons(port_of(udp));
	nonblocking(l, 1);
	sigaction(SIGALRM, &sa, NULL);
	ticks = 0;
	setitimer(ITIMER_REAL, &on, NULL);
	for (int i = 0; i < 50000 && (ticks < 400 || i < 2000); i++) {
		interrupted += connect(udp, SA(here)) < 0 && errno == EINTR;
		int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (c < 0)
			continue;
		interrupted += connect(c, SA(a)) < 0 && errno == EINTR;
		close(c);
		int s = accept(l, NULL, NULL);
		if (s >= 0)
			close(s);
	}
	setitimer(ITIMER_REAL, &off, NULL);
	say("connect without waiting%s: interrupted %s", sizeof(long) == 4 ? " by socketcall" : "", interrupted ? "at times" : "never");
	close(l), close(udp);
}

int main(void)
{
	storm(0, 1000, "1 ms");
	storm(SA_RESTART, 1000, "1 ms restart");
	storm(0, 250, "250 us");
	storm(SA_RESTART, 250, "250 us restart");
	connecting();
	interrupted(0, "plain");
	interrupted(SA_RESTART, "restart");
	return 0;
}

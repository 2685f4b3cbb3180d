/* Data on an established TCP connection: flags, shutdown, resets, signals, timeouts, queues. */
#include "probe.h"

static void half_close(void)
{
	int s[2];
	char b[8];
	tcp_pair(s);
	need(send(s[0], "abc", 3, 0));
	say("half: shutdown WR %s", en(shutdown(s[0], SHUT_WR)));
	say("half: peer poll %s", polled_for(s[1], POLLIN | POLLRDHUP | POLLOUT, 2000));
	say("half: peer reads %s", result(recv(s[1], b, 8, MSG_WAITALL)));
	say("half: peer reads again %s", result(recv(s[1], b, 8, 0)));
	say("half: peer writes %s", result(send(s[1], "xy", 2, 0)));
	polled_for(s[0], POLLIN, 2000);
	say("half: own read %s", result(recv(s[0], b, 8, 0)));
	signal(SIGPIPE, on_sigpipe);
	ssize_t n = write(s[0], "z", 1);
	say("half: own write %s sigpipes %d", result(n), sigpipes);
	n = send(s[0], "z", 1, MSG_NOSIGNAL);
	say("half: own write NOSIGNAL %s sigpipes %d", result(n), sigpipes);
	say("half: shutdown twice %s", en(shutdown(s[0], SHUT_WR)));
	need(shutdown(s[1], SHUT_WR));
	polled_for(s[0], POLLRDHUP, 2000);
	usleep(20000);
	say("half: both closed poll %s %s", polled(s[0], 0), polled(s[1], 0));
	say("half: shutdown after both %s %s", en(shutdown(s[0], SHUT_RDWR)), en(shutdown(s[1], SHUT_RD)));
	say("half: bad how %s", en(shutdown(s[0], 7)));
	close(s[0]), close(s[1]);
	tcp_pair(s);
	need(shutdown(s[0], SHUT_RD));
	say("rd: read %s poll %s", result(recv(s[0], b, 8, 0)), polled(s[0], 0));
	need(send(s[1], "late", 4, 0));
	polled_for(s[0], POLLIN, 500);
	usleep(20000);
	say("rd: peer wrote, read %s", result(recv(s[0], b, 8, MSG_DONTWAIT)));
	close(s[0]), close(s[1]);
}

static void resets(void)
{
	struct linger hard = { 1, 0 };
	for (int how = 0; how < 4; how++) {
		static const char *hows[] = { "linger 0", "unread data", "data then linger 0", "after shutdown" };
		int s[2];
		char b[8];
		tcp_pair(s);
		sigpipes = 0;
		if (how == 1) {
			need(send(s[0], "unread", 6, 0));
			polled_for(s[1], POLLIN, 2000);
		} else {
			if (how == 2)
				need(send(s[1], "data", 4, 0));
			if (how == 3)
				need(shutdown(s[0], SHUT_WR));
			usleep(20000);
			setsockopt(s[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		}
		close(s[1]);
		struct pollfd p = { .fd = s[0], .events = 0 };
		poll(&p, 1, 2000);
		say("reset %s: poll %s", hows[how], polled(s[0], 0));
		say("reset %s: read %s", hows[how], result(recv(s[0], b, 8, 0)));
		say("reset %s: read again %s", hows[how], result(recv(s[0], b, 8, 0)));
		say("reset %s: so_error %s", hows[how], so_error(s[0]));
		ssize_t n = write(s[0], "x", 1);
		say("reset %s: write %s sigpipes %d", hows[how], result(n), sigpipes);
		say("reset %s: shutdown %s", hows[how], en(shutdown(s[0], SHUT_RDWR)));
		close(s[0]);
		tcp_pair(s);
		sigpipes = 0;
		setsockopt(s[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		close(s[1]);
		poll(&p, 0, 30);
		n = write(s[0], "x", 1);
		say("reset %s: first write %s sigpipes %d", hows[how], result(n), sigpipes);
		n = write(s[0], "x", 1);
		say("reset %s: second write %s sigpipes %d", hows[how], result(n), sigpipes);
		close(s[0]);
	}
	int s[2];
	tcp_pair(s);
	close(s[1]);
	polled_for(s[0], POLLIN, 2000);
	sigpipes = 0;
	ssize_t n = write(s[0], "x", 1);
	say("closed peer: first write %s sigpipes %d", result(n), sigpipes);
	usleep(30000);
	n = write(s[0], "x", 1);
	say("closed peer: second write %s sigpipes %d", result(n), sigpipes);
	say("closed peer: poll %s", polled(s[0], 0));
	close(s[0]);
}

static void flags(void)
{
	int s[2], n = -1;
	char b[32];
	tcp_pair(s);
	say("dontwait empty: %s", result(recv(s[1], b, 8, MSG_DONTWAIT)));
	say("zero send: %s", result(send(s[0], b, 0, 0)));
	need(send(s[0], "0123456789", 10, 0));
	polled_for(s[1], POLLIN, 2000);
	int rc = ioctl(s[1], FIONREAD, &n);
	say("FIONREAD: %s %d", en(rc), n);
	say("peek: %s", result(recv(s[1], b, 4, MSG_PEEK)));
	say("peek again: %s %.4s", result(recv(s[1], b, 4, MSG_PEEK)), b);
	say("trunc: %s", result(recv(s[1], b, 4, MSG_TRUNC)));
	say("after trunc: %s", result(recv(s[1], b, 3, 0)));
	struct sockaddr_in from;
	socklen_t len = sizeof(from);
	memset(&from, 7, sizeof(from));
	ssize_t r = recvfrom(s[1], b, 1, 0, (struct sockaddr *)&from, &len);
	say("recvfrom: %s address length %u", result(r), len);
	struct iovec io = { b, 1 };
	char control[64];
	struct msghdr m = { &from, sizeof(from), &io, 1, control, sizeof(control), 0 };
	r = recvmsg(s[1], &m, 0);
	say("recvmsg: %s name %u control %zu flags %#x", result(r), m.msg_namelen, m.msg_controllen, m.msg_flags);
	say("errqueue: %s", result(recv(s[1], b, 8, MSG_ERRQUEUE)));
	rc = ioctl(s[0], TIOCOUTQ, &n);
	say("SIOCOUTQ: %s %d", en(rc), n);
	struct sockaddr_in to = v4("127.0.0.1", 9);
	say("sendto connected: %s", result(sendto(s[0], "q", 1, 0, SA(to))));
	io.iov_base = "r";
	m = (struct msghdr){ &to, sizeof(to), &io, 1, NULL, 0, 0 };
	say("sendmsg named: %s", result(sendmsg(s[0], &m, 0)));
	int passed = 1;
	struct { struct cmsghdr c; int fd; } rights = { { CMSG_LEN(4), SOL_SOCKET, SCM_RIGHTS }, 1 };
	rights.fd = passed;
	m = (struct msghdr){ NULL, 0, &io, 1, &rights, sizeof(rights), 0 };
	say("sendmsg rights: %s", result(sendmsg(s[0], &m, 0)));
	usleep(20000);
	say("oob: %s", result(send(s[0], "ab!", 3, MSG_OOB)));
	say("oob poll: %s", polled_for(s[1], POLLPRI, 2000));
	n = -1;
	ioctl(s[1], SIOCATMARK, &n);
	say("oob at mark before: %d", n);
	r = recv(s[1], b, 1, MSG_OOB);
	say("oob recv: %s %c", result(r), r > 0 ? b[0] : '-');
	r = recv(s[1], b, sizeof(b), 0);
	say("oob stops read: %s", result(r));
	ioctl(s[1], SIOCATMARK, &n);
	say("oob at mark after: %d", n);
	say("oob recv again: %s", result(recv(s[1], b, 1, MSG_OOB)));
	int on = 1;
	say("zerocopy: %s", en(setsockopt(s[0], SOL_SOCKET, SO_ZEROCOPY, &on, 4)));
	say("zerocopy send: %s", result(send(s[0], "zc", 2, MSG_ZEROCOPY)));
	say("zerocopy completion: %s", polled_for(s[0], POLLERR, 2000));
	char big[256];
	m = (struct msghdr){ .msg_control = big, .msg_controllen = sizeof(big) };
	say("zerocopy errqueue: %s", result(recvmsg(s[0], &m, MSG_ERRQUEUE)));
	r = send(s[0], "a", 1, MSG_MORE);
	say("more then push: %s %s", result(r), result(send(s[0], "b", 1, 0)));
	polled_for(s[1], POLLIN, 2000);
	usleep(20000);
	say("all: %s", result(recv(s[1], b, sizeof(b), 0)));
	say("bad flag: %s", result(send(s[0], "a", 1, 0x10000000)));
	say("fastopen connected: %s", result(sendto(s[0], "a", 1, MSG_FASTOPEN, SA(to))));
	close(s[0]), close(s[1]);
}

static void timeouts(void)
{
	int s[2];
	char b[8];
	struct timeval tv = { 0, 30000 };
	tcp_pair(s);
	need(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	say("rcvtimeo: %s", result(recv(s[0], b, 8, 0)));
	need(send(s[1], "abc", 3, 0));
	say("rcvtimeo waitall: %s", result(recv(s[0], b, 8, MSG_WAITALL)));
	int low = 5;
	say("rcvlowat: %s", en(setsockopt(s[0], SOL_SOCKET, SO_RCVLOWAT, &low, 4)));
	need(send(s[1], "abc", 3, 0));
	say("rcvlowat poll 3 of 5: %s", polled_for(s[0], POLLIN, 100));
	need(send(s[1], "de", 2, 0));
	say("rcvlowat poll 5 of 5: %s", polled_for(s[0], POLLIN, 2000));
	need(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)));
	static char big[1 << 16];
	ssize_t n;
	do
		n = send(s[0], big, sizeof(big), 0);
	while (n > 0);
	say("sndtimeo: %s poll %s", result(n), polled_for(s[0], POLLOUT, 0));
	int l = listener(&(int){ 0 }, 1);
	need(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	say("accept timeout: %s", en(accept(l, NULL, NULL)));
	close(s[0]), close(s[1]), close(l);
}

static int at_mark(int fd)
{
	int n = -1;
	ioctl(fd, SIOCATMARK, &n);
	return n;
}

static void urgency(void)
{
	int s[2], on = 1;
	char b[8];
	struct iovec io = { b, 8 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };
	tcp_pair(s);
	say("urgent nothing: %s", result(send(s[0], "", 0, MSG_OOB)));
	say("urgent none: recv %s", result(recv(s[1], b, 1, MSG_OOB)));
	need(send(s[0], "!", 1, MSG_OOB));
	polled_for(s[1], POLLPRI, 2000);
	say("urgent alone: poll %s", polled(s[1], 0));
	say("urgent alone: at mark %d", at_mark(s[1]));
	ssize_t n = recvmsg(s[1], &m, MSG_OOB | MSG_PEEK);
	say("urgent alone: peek %s flags %#x", result(n), m.msg_flags);
	say("urgent alone: read %s", result(recv(s[1], b, 8, MSG_DONTWAIT)));
	say("urgent alone: passed %s", result(recv(s[1], b, 1, MSG_OOB)));
	need(send(s[0], "ab!", 3, MSG_OOB));
	polled_for(s[1], POLLPRI, 2000);
	need(send(s[0], "cd", 2, 0));
	usleep(20000);
	n = recv(s[1], b, 8, 0);
	say("urgent passed by: read %s at mark %d", result(n), at_mark(s[1]));
	n = recv(s[1], b, 8, 0);
	say("urgent passed by: read on %s at mark %d %.2s", result(n), at_mark(s[1]), b);
	say("urgent passed by: recv %s", result(recv(s[1], b, 1, MSG_OOB)));
	say("urgent inline: %s", en(setsockopt(s[1], SOL_SOCKET, SO_OOBINLINE, &on, 4)));
	need(send(s[0], "ab!", 3, MSG_OOB));
	polled_for(s[1], POLLPRI, 2000);
	need(send(s[0], "cd", 2, 0));
	usleep(20000);
	say("urgent inline: recv %s", result(recv(s[1], b, 1, MSG_OOB)));
	n = recv(s[1], b, 8, 0);
	say("urgent inline: read %s at mark %d", result(n), at_mark(s[1]));
	n = recv(s[1], b, 1, 0);
	say("urgent inline: read on %s at mark %d %c", result(n), at_mark(s[1]), b[0]);
	say("urgent inline: rest %s", result(recv(s[1], b, 8, 0)));
	need(shutdown(s[0], SHUT_WR));
	say("urgent after shutdown: %s", result(send(s[0], "!", 1, MSG_OOB | MSG_NOSIGNAL)));
	close(s[0]), close(s[1]);
	tcp_pair(s);
	need(setsockopt(s[1], SOL_SOCKET, SO_OOBINLINE, &on, 4));
	for (int i = 0; i < 500; i++)
		need(send(s[0], "!", 1, MSG_OOB));
	need(shutdown(s[0], SHUT_WR));
	int all = 0;
	while ((n = recv(s[1], b, 8, 0)) > 0)
		all += n;
	say("urgent many: %d then %s", all, result(n));
	close(s[0]), close(s[1]);
	int fd = need(socket(AF_INET, SOCK_STREAM, 0));
	say("urgent unconnected: send %s", result(send(fd, "!", 1, MSG_OOB | MSG_NOSIGNAL)));
	say("urgent unconnected: recv %s", result(recv(fd, b, 1, MSG_OOB)));
	say("urgent unconnected: at mark %d", at_mark(fd));
	close(fd);
	int port, l = listener(&port, 1), c = need(socket(AF_INET, SOCK_STREAM, 0));
	struct sockaddr_in a = v4("127.0.0.1", port);
	struct timeval tv = { 0, 30000 };
	need(setsockopt(l, SOL_SOCKET, SO_OOBINLINE, &on, 4));
	need(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	need(connect(c, SA(a)));
	int accepted = need(accept(l, NULL, NULL));
	need(send(c, "!", 1, MSG_OOB));
	polled_for(accepted, POLLPRI, 2000);
	say("urgent inherited: inline %s", result(recv(accepted, b, 8, 0)));
	say("urgent inherited: timeout %s", result(recv(accepted, b, 8, 0)));
	close(l), close(c), close(accepted);
}

static volatile sig_atomic_t urgent, io;
static void on_signal(int sig)
{
	if (sig == SIGURG)
		urgent++;
	else
		io++;
}

static void asynchronous(void)
{
	int s[2];
	signal(SIGIO, on_signal);
	signal(SIGURG, on_signal);
	tcp_pair(s);
	say("F_SETOWN: %s", en(fcntl(s[0], F_SETOWN, getpid())));
	need(fcntl(s[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	need(send(s[1], "x", 1, 0));
	for (int i = 0; i < 200 && !io; i++)
		usleep(5000);
	say("SIGIO: %s", io ? "came" : "never");
	int sent = send(s[1], "!", 1, MSG_OOB) == 1;
	for (int i = 0; i < 200 && sent && !urgent; i++)
		usleep(5000);
	say("SIGURG: %s", urgent ? "came" : "never");
	close(s[0]), close(s[1]);
}

int main(void)
{
	half_close();
	resets();
	flags();
	timeouts();
	urgency();
	asynchronous();
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

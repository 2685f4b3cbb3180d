/* Sockets in children: fork, vfork, posix_spawn, clone3, threads of children, exec, double fork, storms. */
#include "probe.h"
#include <linux/sched.h>
#include <spawn.h>

static char self[512];
static int port;

/* What every child does: its lo must be the parent's, its connection must reach the parent's listener. */
static int visit(void)
{
	struct sockaddr_in a = v4("127.0.0.1", port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, SA(a)) < 0)
		return 1;
	if (send(fd, "v", 1, MSG_NOSIGNAL) != 1)
		return 2;
	close(fd);
	return if_nametoindex("lo") == 1 ? 0 : 3;
}

static const char *visited(int l)
{
	int s = accept(l, NULL, NULL);
	char c;
	const char *r = result(recv(s, &c, 1, 0));
	close(s);
	return r;
}

static int thread_result;
static void *visiting(void *arg)
{
	thread_result = visit();
	return arg;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "visit")) {
		port = atoi(argv[2]);
		return visit();
	}
	if (argc > 2 && !strcmp(argv[1], "inherit")) {
		int fd = atoi(argv[2]);
		return send(fd, "inherited", 9, MSG_NOSIGNAL) == 9 ? 0 : 1;
	}
	need(readlink("/proc/self/exe", self, sizeof(self) - 1));
	int l = listener(&port, 1024);
	char text[16], fdtext[16];
	sprintf(text, "%d", port);
	char *args[] = { self, "visit", text, NULL };
	pid_t pid = fork();
	if (pid == 0)
		_exit(visit());
	say("fork: %s", ended(pid));
	say("fork data: %s", visited(l));
	pid = vfork();
	if (pid == 0) {
		execv(self, args);
		_exit(9);
	}
	say("vfork exec: %s", ended(pid));
	say("vfork data: %s", visited(l));
	extern char **environ;
	int rc = posix_spawn(&pid, self, NULL, NULL, args, environ);
	say("posix_spawn: %d %s", rc, ended(pid));
	say("posix_spawn data: %s", visited(l));
	struct clone_args ca = { .exit_signal = SIGCHLD };
	pid = syscall(SYS_clone3, &ca, sizeof(ca));
	if (pid == 0)
		_exit(visit());
	say("clone3: %s", ended(pid));
	say("clone3 data: %s", visited(l));
	ca = (struct clone_args){ .flags = CLONE_FILES, .exit_signal = SIGCHLD };
	pid = syscall(SYS_clone3, &ca, sizeof(ca));
	if (pid == 0) {
		int fd = socket(AF_INET, SOCK_DGRAM, 0);
		dup2(fd, 77);
		_exit(fd < 0);
	}
	const char *how = ended(pid);
	say("clone3 shared files: %s, descriptor %s here", how, en(fcntl(77, F_GETFD)));
	close(77), close(4);
	pid = fork();
	if (pid == 0) {
		pthread_t t;
		pthread_create(&t, NULL, visiting, NULL);
		pthread_join(t, NULL);
		_exit(thread_result);
	}
	say("thread of child: %s", ended(pid));
	say("thread of child data: %s", visited(l));
	pid = fork();
	if (pid == 0) {
		setsid();
		if (fork() == 0) {
			usleep(20000);
			_exit(visit());
		}
		_exit(0);
	}
	say("double fork: %s", ended(pid));
	say("double fork data: %s", visited(l));
	FILE *sh = popen(({ static char cmd[600]; sprintf(cmd, "'%s' visit %d; echo $?", self, port); cmd; }), "r");
	say("popen: %d", fgetc(sh) - '0');
	pclose(sh);
	say("popen data: %s", visited(l));

	int s[2];
	char buf[32];
	tcp_pair(s);
	sprintf(fdtext, "%d", s[0]);
	char *inherit[] = { self, "inherit", fdtext, NULL };
	rc = posix_spawn(&pid, self, NULL, NULL, inherit, environ);
	close(s[0]);
	say("inherited over exec: %d %s", rc, ended(pid));
	say("inherited data: %s", result(recv(s[1], buf, 32, 0)));
	say("inherited end: %s", result(recv(s[1], buf, 32, 0)));
	close(s[1]);

	tcp_pair(s);
	int copy = dup(s[0]), high = fcntl(s[0], F_DUPFD_CLOEXEC, 500);
	close(s[0]);
	pid = fork();
	if (pid == 0) {
		usleep(30000);
		_exit(send(copy, "child", 5, 0) != 5);
	}
	close(copy), close(high);
	say("last close is the child's: %s", result(recv(s[1], buf, 32, 0)));
	say("last close end: %s", result(recv(s[1], buf, 32, 0)));
	ended(pid);
	close(s[1]);

	/* Only a grandchild has the connection when it is reset. */
	struct linger hard = { 1, 0 };
	tcp_pair(s);
	int ready[2];
	need(pipe(ready));
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0) {
			close(s[1]);
			need(write(ready[1], "r", 1));
			_exit(recv(s[0], buf, 32, 0) < 0 ? errno == ECONNRESET ? 0 : 2 : 1);
		}
		close(s[0]), close(s[1]);
		int status;
		waitpid(pid, &status, 0);
		_exit(WEXITSTATUS(status));
	}
	close(s[0]);
	need(read(ready[0], buf, 1));
	usleep(30000);
	need(setsockopt(s[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)));
	close(s[1]);
	say("reset reaches the grandchild: %s", ended(pid));
	close(ready[0]), close(ready[1]);

	int bad = 0;
	enum { STORM = 200 };
	pid_t pids[STORM];
	for (int i = 0; i < STORM; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			int status = 0;
			for (int k = 0; k < 5 && !status; k++)
				status = visit();
			_exit(status);
		}
	}
	for (int i = 0; i < STORM * 5; i++)
		bad += strcmp(visited(l), "1") != 0;
	for (int i = 0; i < STORM; i++)
		bad += strcmp(ended(pids[i]), "exit 0") != 0;
	say("storm: %d bad", bad);
	close(l);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}

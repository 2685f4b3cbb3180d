/* Every road to a host resolver's socket: how a library or a careless program may spell connect(). Each line
 * says whether somebody answered. */
#include "probe.h"

static const char *reach(int type, const char *dir, const char *path)
{
	static char buf[32];
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int home = open(".", O_RDONLY | O_DIRECTORY);
	if (dir && chdir(dir) < 0)
		return "no such folder";
	strcpy(a.sun_path, path);
	int fd = need(socket(AF_UNIX, type, 0));
	int rc = connect(fd, SA(a));
	snprintf(buf, sizeof(buf), "%s", rc < 0 ? strerrorname_np(errno) : "REACHED");
	close(fd);
	if (dir && fchdir(home) < 0)
		_exit(4);
	close(home);
	return buf;
}

#ifdef __x86_64__
static long int80(long nr, long a, long b, long c)
{
	long ret;
	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}
#endif

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char path[128], dir[128], *slash;
		strcpy(dir, argv[i]);
		slash = strrchr(dir, '/');
		*slash = 0;
		say("%s plain: %s", argv[i], reach(SOCK_STREAM, NULL, argv[i]));
		say("%s nonblocking: %s", argv[i], reach(SOCK_STREAM | SOCK_NONBLOCK, NULL, argv[i]));
		say("%s relative: %s", argv[i], reach(SOCK_STREAM, dir, slash + 1));
		sprintf(path, "/run/..%s", argv[i]);
		say("%s dots: %s", argv[i], reach(SOCK_STREAM, NULL, path));
		sprintf(path, "//%s", argv[i]);
		say("%s slashes: %s", argv[i], reach(SOCK_STREAM, NULL, path));
		sprintf(path, "/var%s", argv[i]);
		say("%s by /var: %s", argv[i], reach(SOCK_STREAM, NULL, path));
		sprintf(path, "/proc/self/root%s", argv[i]);
		say("%s by /proc: %s", argv[i], reach(SOCK_STREAM, NULL, path));
		unlink("./link");
		need(symlink(argv[i], "./link"));
		say("%s by symlink: %s", argv[i], reach(SOCK_STREAM, NULL, "./link"));
		unlink("./link");
#ifdef __x86_64__
		uint32_t *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		struct sockaddr_un *a = (void *)&low[64];
		a->sun_family = AF_UNIX;
		strcpy(a->sun_path, argv[i]);
		int fd = need(socket(AF_UNIX, SOCK_STREAM, 0));
		long rc = int80(362, fd, (long)a, sizeof(*a));
		say("%s by int 0x80 connect: %s", argv[i], rc < 0 ? strerrorname_np(-rc) : "REACHED");
		close(fd);
		fd = need(socket(AF_UNIX, SOCK_STREAM, 0));
		low[0] = fd, low[1] = (uint32_t)(uintptr_t)a, low[2] = sizeof(*a);
		rc = int80(102, 3, (long)low, 0);
		say("%s by int 0x80 socketcall: %s", argv[i], rc < 0 ? strerrorname_np(-rc) : "REACHED");
		close(fd);
#endif
	}
	return 0;
}

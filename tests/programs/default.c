/* What makes a probe one that has its sockets from msocket(): its default stack, from the environment, and what its
 * socket(), if_nametoindex() and if_indextoname() are, which -D calls so. libc's know of no default. */
#include <errno.h>
#include <msocket.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#undef socket

__attribute__((constructor)) static void set_default(void)
{
	const char *path = getenv("PROBE_STACK");

	if (path && msocket(path, PF_UNSPEC, SOCK_DEFAULT, 0) < 0)
		abort();
	unsetenv("PROBE_STACK");
}

int default_socket(int domain, int type, int protocol)
{
	int socket(int, int, int);

	/* No socket has this type, and msocket() has another meaning for it. */
	if (type == SOCK_DEFAULT)
		return socket(domain, type, protocol);
	return msocket(NULL, domain, type, protocol);
}

unsigned default_if_nametoindex(const char *name)
{
	struct ifreq request = { 0 };
	int fd = default_socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), done;

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	done = ioctl(fd, SIOCGIFINDEX, &request);
	int error = errno;
	close(fd);
	errno = error;
	return done < 0 ? 0 : request.ifr_ifindex;
}

char *default_if_indextoname(unsigned index, char name[IF_NAMESIZE])
{
	struct ifreq request = { .ifr_ifindex = index };
	int fd = default_socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), done;

	done = ioctl(fd, SIOCGIFNAME, &request);
	if (done < 0 && errno == ENODEV)
		errno = ENXIO;
	int error = errno;
	close(fd);
	errno = error;
	return done < 0 ? NULL : strcpy(name, request.ifr_name);
}

/* What makes a probe one that has its sockets from msocket(): its default stack, from the environment, and socket()
 * with it. Linked with --wrap=socket. */
#include <msocket.h>
#include <stdlib.h>
#include <sys/socket.h>

int __wrap_socket(int domain, int type, int protocol);

__attribute__((constructor)) static void set_default(void)
{
	const char *path = getenv("PROBE_STACK");

	if (path && msocket(path, PF_UNSPEC, SOCK_DEFAULT, 0) < 0)
		abort();
	unsetenv("PROBE_STACK");
}

int __wrap_socket(int domain, int type, int protocol)
{
	return msocket(NULL, domain, type, protocol);
}

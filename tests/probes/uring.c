/* io_uring: a ring could make sockets nobody sees. */
#include "probe.h"
#include <linux/io_uring.h>

int main(void)
{
	struct io_uring_params p = { 0 };
	int fd = syscall(SYS_io_uring_setup, 4, &p);
	say("io_uring_setup: %s", en(fd));
	close(fd);
	fd = syscall(SYS_io_uring_setup, 0, &p);
	say("io_uring_setup nothing: %s", fd < 0 && errno == EPERM ? "EPERM" : "ok");
	return 0;
}

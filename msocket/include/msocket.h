/*
 * msocket.h - several network stacks in one program: msocket(3).
 *
 * Link with -lmsocket, or with what `pkg-config --libs [--static] msocket` says.
 */
#ifndef MSOCKET_H
#define MSOCKET_H

#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As type: make the stack the default of the family, or of all with PF_UNSPEC. */
#define SOCK_DEFAULT 0

/*
 * socket(2) on the stack at `path`: a path, or the name of one of the user's stacks. NULL: the family's
 * default stack. A descriptor, 0 for SOCK_DEFAULT, or -1 and errno.
 */
int msocket(const char *path, int domain, int type, int protocol);

/*
 * A stack inside this process, as a line says: "eth0=switch:lan,ip=10.0.0.2/24,gw=10.0.0.1". It ends with
 * msocket_stack_close(), or with the process. NULL and errno if it cannot be made.
 */
struct msocket_stack;
struct msocket_stack *msocket_stack_open(const char *config);

/* What to call it as the path of msocket(); valid until it is closed. */
const char *msocket_stack_path(const struct msocket_stack *stack);

/* Ends it: its sockets break. 0, or -1 and errno. NULL is EINVAL. */
int msocket_stack_close(struct msocket_stack *stack);

#ifdef __cplusplus
}
#endif

#endif

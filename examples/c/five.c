/*
 * five - one server on the same port of several networks: five PORT STACK...
 * Each client is told the name of the stack that it came by.
 */
#include <msocket.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 16

int main(int c, char **v) {
    struct pollfd all[MOST];
    struct sockaddr_in any = {.sin_family = AF_INET};
    int count = c - 2;
    if (count < 1 || count > MOST) return 2;
    any.sin_port = htons((unsigned short)atoi(v[1]));
    for (int i = 0; i < count; i++) {
        int fd = msocket(v[i + 2], AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) || listen(fd, 16)) {
            perror(v[i + 2]);
            return 1;
        }
        all[i] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    puts("listening");
    fflush(stdout);
    while (poll(all, (nfds_t)count, -1) > 0)
        for (int i = 0; i < count; i++) {
            if (!(all[i].revents & POLLIN)) continue;
            int fd = accept(all[i].fd, NULL, NULL);
            if (fd < 0) continue;
            dprintf(fd, "%s\n", v[i + 2]);
            close(fd);
        }
    return 1;
}

/*
 * proxy - one leg in each of two networks: proxy STACK PORT STACK ADDRESS PORT
 * What connects to the port in the first network speaks with the address in the second.
 */
#include <arpa/inet.h>
#include <msocket.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Copies what there is; passes an end on. 0 when this direction is over. */
static int pass(int from, int to) {
    char bytes[16384];
    ssize_t length = read(from, bytes, sizeof bytes);
    if (length > 0 && write(to, bytes, (size_t)length) == length) return 1;
    shutdown(to, SHUT_WR);
    return 0;
}

static void join(int a, int b) {
    struct pollfd both[] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
    while ((both[0].fd >= 0 || both[1].fd >= 0) && poll(both, 2, -1) > 0) {
        if (both[0].revents && !pass(a, b)) both[0].fd = -1;
        if (both[1].revents && !pass(b, a)) both[1].fd = -1;
    }
}

int main(int c, char **v) {
    struct sockaddr_in any = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    if (c != 6 || !inet_pton(AF_INET, v[4], &to.sin_addr)) return 2;
    any.sin_port = htons((unsigned short)atoi(v[2]));
    to.sin_port = htons((unsigned short)atoi(v[5]));
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    int listener = msocket(v[1], AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 16)) {
        perror(v[1]);
        return 1;
    }
    puts("listening");
    fflush(stdout);
    for (int near; (near = accept(listener, NULL, NULL)) >= 0; close(near)) {
        if (fork()) continue;
        int far = msocket(v[3], AF_INET, SOCK_STREAM, 0);
        if (far >= 0 && !connect(far, (struct sockaddr *)&to, sizeof to)) join(near, far);
        return 0;
    }
    return 1;
}

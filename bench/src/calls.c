/*
 * calls - what single system calls cost the caller.
 *
 *   calls socket COUNT     socket(AF_INET, SOCK_STREAM) and close; times socket()
 *   calls names COUNT      getpeername() and SO_ERROR of a connection to oneself
 *   calls options COUNT    TCP_NODELAY of such a connection: read, and set to what it is
 *   calls datagrams COUNT  recvfrom() and sendto(), both with addresses, to and from an echo, 8 under way
 *   calls bare COUNT       getppid() and write(/dev/null), which viewnet never traps
 * Prints "key p10 p50 min" lines in ns. Bare calls are timed in batches, as one takes
 * hardly longer than reading the clock.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BATCH 100
static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static int cmp(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static void report(const char *key, double *t, int n) {
    qsort(t, (size_t)n, sizeof *t, cmp);
    printf("%s %.1f %.1f %.1f\n", key, t[n / 10], t[n / 2], t[0]);
}
static struct sockaddr_in here = {.sin_family = AF_INET};
static int bound(int type) {
    socklen_t len = sizeof here;
    int fd = socket(AF_INET, type, 0);
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    here.sin_port = 0;
    if (fd < 0 || bind(fd, (void *)&here, sizeof here) || getsockname(fd, (void *)&here, &len)) { perror("bind"); exit(1); }
    return fd;
}
static int connection(void) {
    int l = bound(SOCK_STREAM), fd = socket(AF_INET, SOCK_STREAM, 0);
    if (listen(l, 1) || connect(fd, (void *)&here, sizeof here)) { perror("connect"); exit(1); }
    return fd;
}
static int options(double *t, double *u, int n) {
    int fd = connection(), on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)) { perror("TCP_NODELAY"); return 1; }
    for (int i = 0; i < n; i++) {
        int is;
        socklen_t len;
        double start = now_ns();
        for (int k = 0; k < BATCH; k++) { len = sizeof is; getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &is, &len); }
        double middle = now_ns();
        for (int k = 0; k < BATCH; k++) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        t[i] = (middle - start) / BATCH;
        u[i] = (now_ns() - middle) / BATCH;
    }
    report("getsockopt", t, n);
    report("setsockopt", u, n);
    return 0;
}
static int names(double *t, double *u, int n) {
    int fd = connection();
    for (int i = 0; i < n; i++) {
        struct sockaddr_in a;
        socklen_t len = sizeof a;
        int error;
        double start = now_ns();
        for (int k = 0; k < BATCH; k++) { len = sizeof a; getpeername(fd, (void *)&a, &len); }
        double middle = now_ns();
        for (int k = 0; k < BATCH; k++) { len = sizeof error; getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len); }
        t[i] = (middle - start) / BATCH;
        u[i] = (now_ns() - middle) / BATCH;
    }
    report("getpeername", t, n);
    report("so_error", u, n);
    return 0;
}
static int datagrams(double *t, int n) {
    enum { UNDER_WAY = 8, SIZE = 100 };
    char data[SIZE] = "";
    struct sockaddr_in from, to;
    socklen_t len = sizeof from;
    int echo = bound(SOCK_DGRAM), fd = socket(AF_INET, SOCK_DGRAM, 0);
    pid_t child = fork();
    while (!child) {
        len = sizeof from;
        ssize_t got = recvfrom(echo, data, SIZE, 0, (void *)&from, &len);
        sendto(echo, data, (size_t)got, 0, (void *)&from, len);
    }
    to = here;
    for (int i = 0; i < UNDER_WAY; i++) sendto(fd, data, SIZE, 0, (void *)&to, sizeof to);
    for (int i = 0; i < n; i++) {
        double start = now_ns();
        for (int k = 0; k < BATCH; k++) {
            len = sizeof from;
            if (recvfrom(fd, data, SIZE, 0, (void *)&from, &len) != SIZE) { perror("recvfrom"); return 1; }
            sendto(fd, data, SIZE, 0, (void *)&to, sizeof to);
        }
        t[i] = (now_ns() - start) / BATCH;
    }
    kill(child, SIGKILL);
    report("datagram", t, n);
    return 0;
}
int main(int c, char **v) {
    int n = c == 3 ? atoi(v[2]) : 0;
    if (n < 10) { fprintf(stderr, "usage: see the head of calls.c\n"); return 2; }
    double *t = calloc((size_t)n, sizeof *t), *u = calloc((size_t)n, sizeof *u);
    if (!strcmp(v[1], "socket")) {
        for (int i = 0; i < n; i++) {
            double a = now_ns();
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            t[i] = now_ns() - a;
            if (fd < 0) { perror("socket"); return 1; }
            close(fd);
        }
        report("socket", t, n);
        return 0;
    }
    if (!strcmp(v[1], "names")) return names(t, u, n);
    if (!strcmp(v[1], "options")) return options(t, u, n);
    if (!strcmp(v[1], "datagrams")) return datagrams(t, n);
    int null = open("/dev/null", O_WRONLY);
    for (int i = 0; i < n; i++) {
        double a = now_ns();
        for (int k = 0; k < BATCH; k++) syscall(SYS_getppid);
        double b = now_ns();
        for (int k = 0; k < BATCH; k++) if (write(null, "x", 1) != 1) return 1;
        t[i] = (b - a) / BATCH;
        u[i] = (now_ns() - b) / BATCH;
    }
    report("getppid", t, n);
    report("write", u, n);
    return 0;
}

/*
 * calls - what single system calls cost the caller.
 *
 *   calls socket COUNT     socket(AF_INET, SOCK_STREAM) and close; times socket()
 *   calls bare COUNT       getppid() and write(/dev/null), which viewnet never traps
 * Prints "key p10 p50 min" lines in ns. Bare calls are timed in batches, as one takes
 * hardly longer than reading the clock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/*
 * msock - what msocket() costs the caller: msock COUNT STACK
 * Prints a "msocket p10 p50 min" line in ns.
 */
#include <msocket.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static int cmp(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
int main(int c, char **v) {
    int n = c == 3 ? atoi(v[1]) : 0;
    if (n < 10) { fprintf(stderr, "usage: see the head of msock.c\n"); return 2; }
    double *t = calloc((size_t)n, sizeof *t);
    for (int i = 0; i < n; i++) {
        double a = now_ns();
        int fd = msocket(v[2], AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        t[i] = now_ns() - a;
        if (fd < 0) { perror("msocket"); return 1; }
        close(fd);
    }
    qsort(t, (size_t)n, sizeof *t, cmp);
    printf("msocket %.1f %.1f %.1f\n", t[n / 10], t[n / 2], t[0]);
    return 0;
}

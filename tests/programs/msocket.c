/*
 * msocket - what msocket(3) promises, one line each: "ok WHAT" or "bad WHAT: why". The arguments are a stack that
 * has 10.9.0.1 and 2001:db8::1, and a command that ends the stack.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <msocket.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8
#define ROUNDS 25

static const char *stack;

static void check(int good, const char *format, ...) {
    int error = errno;
    va_list list;
    va_start(list, format);
    printf(good ? "ok " : "bad ");
    vprintf(format, list);
    va_end(list);
    if (good) printf("\n"); else printf(": %s\n", strerror(error));
    fflush(stdout);
}

/* Whether a socket of that family can have the stack's address; 0 also where nobody can say. */
static int is_there(int fd, int family) {
    int good;
    if (family == AF_INET) {
        struct sockaddr_in a = {.sin_family = AF_INET};
        a.sin_addr.s_addr = inet_addr("10.9.0.1");
        good = !bind(fd, (struct sockaddr *)&a, sizeof a);
    } else {
        struct sockaddr_in6 a = {.sin6_family = AF_INET6};
        inet_pton(AF_INET6, "2001:db8::1", &a.sin6_addr);
        good = !bind(fd, (struct sockaddr *)&a, sizeof a);
    }
    close(fd);
    return good;
}

static void fails(const char *path, int domain, int type, int error, const char *what) {
    errno = 0;
    int fd = msocket(path, domain, type, 0);
    check(fd < 0 && errno == error, "%s", what);
    if (fd >= 0) close(fd);
}

static void flags(void) {
    int plain = msocket(stack, AF_INET, SOCK_STREAM, 0);
    check(plain >= 0 && fcntl(plain, F_GETFD) == 0 && !(fcntl(plain, F_GETFL) & O_NONBLOCK), "plain");
    int both = msocket(stack, AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    check(both >= 0 && fcntl(both, F_GETFD) == FD_CLOEXEC && fcntl(both, F_GETFL) & O_NONBLOCK, "flags");
    errno = 0;
    check(is_there(plain, AF_INET) && is_there(both, AF_INET6), "addresses");
    check(!is_there(socket(AF_INET, SOCK_STREAM, 0), AF_INET), "socket(2) is elsewhere");
}

static void *makes(void *bad) {
    for (int i = 0; i < ROUNDS; i++) {
        int fd = msocket(stack, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || !is_there(fd, AF_INET)) return bad;
        if (i % 8) continue;
        pid_t child = fork();
        if (!child) _exit(msocket(stack, AF_INET, SOCK_DGRAM, 0) < 0);
        int status = 1;
        if (waitpid(child, &status, 0) != child || status) return bad;
    }
    return NULL;
}

static void threads(void) {
    pthread_t all[THREADS];
    int bad = 0;
    for (int i = 0; i < THREADS; i++) pthread_create(&all[i], NULL, makes, &bad);
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        pthread_join(all[i], &failed);
        bad += failed != NULL;
    }
    check(!bad, "threads that fork");
}

static void limits(void) {
    close_range(3, ~0U, 0);
    int fd = msocket(stack, AF_INET, SOCK_STREAM, 0);
    check(fd >= 0, "after all descriptors were closed");
    close(fd);
    struct rlimit old, few = {3, 3};
    getrlimit(RLIMIT_NOFILE, &old);
    few.rlim_max = old.rlim_max;
    setrlimit(RLIMIT_NOFILE, &few);
    fails(stack, AF_INET, SOCK_STREAM, EMFILE, "EMFILE");
    setrlimit(RLIMIT_NOFILE, &old);
}

/* Whether the default of a family is the stack, in a child that was forked or has executed us. */
static int inherited(char **v, int family, int execs) {
    pid_t child = fork();
    if (!child) {
        char number[12];
        snprintf(number, sizeof number, "%d", family);
        if (execs) execl("/proc/self/exe", v[0], "--default", number, NULL);
        int fd = msocket(NULL, family, SOCK_STREAM, 0);
        _exit(fd < 0 || !is_there(fd, family));
    }
    int status = 1;
    return waitpid(child, &status, 0) == child && !status;
}

static void defaults(char **v) {
    check(msocket(NULL, AF_INET, SOCK_DEFAULT, 0) == 0, "the default of the default");
    fails("nosuch", AF_INET, SOCK_DEFAULT, ENOENT, "no such default");
    check(msocket(stack, AF_INET, SOCK_DEFAULT, 0) == 0, "set a default");
    fails(stack, AF_UNIX, SOCK_DEFAULT, EAFNOSUPPORT, "no default of that family");
    check(is_there(msocket(NULL, AF_INET, SOCK_STREAM, 0), AF_INET), "have a default");
    check(!is_there(msocket(NULL, AF_INET6, SOCK_STREAM, 0), AF_INET6), "another family has not");
    check(inherited(v, AF_INET, 0) && inherited(v, AF_INET, 1), "inherit a default");
    check(msocket(stack, PF_UNSPEC, SOCK_DEFAULT, 0) == 0, "set all defaults");
    check(inherited(v, AF_INET6, 0) && inherited(v, AF_INET6, 1), "inherit all defaults");
}

int main(int c, char **v) {
    if (c > 2 && !strcmp(v[1], "--default")) {
        int fd = msocket(NULL, atoi(v[2]), SOCK_STREAM, 0);
        return fd < 0 || !is_there(fd, atoi(v[2]));
    }
    if (c != 3) return 2;
    stack = v[1];
    fails("nosuch", AF_INET, SOCK_STREAM, ENOENT, "no such stack");
    fails("/nonexistent/stack", AF_INET, SOCK_STREAM, ENOENT, "no such path");
    fails("", AF_INET, SOCK_STREAM, ENOENT, "no path");
    fails(stack, AF_UNIX, SOCK_STREAM, EAFNOSUPPORT, "no such family");
    fails(stack, AF_INET, 15, EINVAL, "no such type");
    flags();
    threads();
    limits();
    defaults(v);
    int ended = system(v[2]);
    check(!ended, "the stack ends");
    fails(stack, AF_INET, SOCK_STREAM, ENOENT, "a stack that has gone");
    fails(NULL, AF_INET, SOCK_STREAM, ENETDOWN, "a default that has gone");
    return 0;
}

/* msocket_errno - what msocket(3) says of the stack that is named. */
#define _GNU_SOURCE
#include <errno.h>
#include <msocket.h>
#include <stdio.h>
#include <string.h>

int main(int c, char **v) {
    int fd = c > 1 ? msocket(v[1], AF_INET, SOCK_STREAM, 0) : -1;
    puts(fd < 0 ? strerrorname_np(errno) : "0");
    return 0;
}

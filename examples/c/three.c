/*
 * three - one program on several networks at once: three STACK ADDRESS PORT...
 * Connects by each stack to an address there and prints what it is told.
 */
#include <arpa/inet.h>
#include <msocket.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int c, char **v) {
    if (c < 4 || c % 3 != 1) return 2;
    for (int i = 1; i < c; i += 3) {
        struct sockaddr_in to = {.sin_family = AF_INET};
        char text[256];
        ssize_t length;
        int fd = msocket(v[i], AF_INET, SOCK_STREAM, 0);
        inet_pton(AF_INET, v[i + 1], &to.sin_addr);
        to.sin_port = htons((unsigned short)atoi(v[i + 2]));
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) {
            perror(v[i]);
            return 1;
        }
        printf("by %s: ", v[i]);
        while ((length = read(fd, text, sizeof text)) > 0) fwrite(text, 1, (size_t)length, stdout);
        close(fd);
    }
    return 0;
}

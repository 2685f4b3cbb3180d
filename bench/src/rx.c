// How frames are best taken from an interface by AF_PACKET: CPU time a frame, frames lost, and how late they come.
//
//     rx IFNAME MODE SIZE SECONDS PEER      MODE: one (recvmsg), batch (recvmmsg), v2, v3 (receive rings)
//
// All have PACKET_VNET_HDR. A child sends on PEER, the other end of the veth pair, by sendmmsg; with SECONDS 0 it sends one
// frame a millisecond instead, a thousand in all, that say when, and the delays are told. Prints one line.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, SLOT = 68 << 10, FRAMES = 2048, FRAME = 2048, BLOCKS = 16, BLOCK = 1 << 18 };
static char *room;
static struct mmsghdr msgs[BATCH];
static struct iovec parts[BATCH][2];
static struct virtio_net_hdr heads[BATCH];
static char aux[BATCH][64];
static long got, delays[100000], delay_count;
static int timed;

static void die(const char *what) { perror(what); exit(1); }

static long ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int packet(const char *name, int rings) {
    int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1;
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one);
    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one);
    if (!rings) setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one);
    int size = 8 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    if (rings) {
        int version = rings == 3 ? TPACKET_V3 : TPACKET_V2;
        if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version)) die("PACKET_VERSION");
        struct tpacket_req3 r = { .tp_block_size = BLOCK, .tp_block_nr = BLOCKS, .tp_frame_size = FRAME,
            .tp_frame_nr = BLOCKS * (BLOCK / FRAME), .tp_retire_blk_tov = 1 };
        size_t len = rings == 3 ? sizeof r : sizeof(struct tpacket_req);
        if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &r, len)) die("PACKET_RX_RING");
        room = mmap(0, BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (room == MAP_FAILED) die("mmap");
    }
    struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
        .sll_ifindex = if_nametoindex(name) };
    if (bind(fd, (void *)&to, sizeof to)) die("bind");
    return fd;
}

static void seen(const char *frame) {
    if (frame[12] != (char)0x88 || frame[13] != (char)0xB5) return;
    got++;
    if (timed && delay_count < 100000) {
        long at;
        memcpy(&at, frame + 14, sizeof at);
        delays[delay_count++] = ns(CLOCK_MONOTONIC) - at;
    }
}

static void take_messages(int fd, int limit) {
    for (;;) {
        for (int i = 0; i < limit; i++) {
            parts[i][0] = (struct iovec){ &heads[i], 10 };
            parts[i][1] = (struct iovec){ room + (size_t)i * SLOT, SLOT };
            msgs[i].msg_hdr = (struct msghdr){ .msg_iov = parts[i], .msg_iovlen = 2, .msg_control = aux[i],
                .msg_controllen = sizeof aux[i] };
        }
        int n = limit == 1 ? (recvmsg(fd, &msgs[0].msg_hdr, MSG_DONTWAIT) >= 0) : recvmmsg(fd, msgs, limit, MSG_DONTWAIT, 0);
        for (int i = 0; i < n; i++) seen(room + (size_t)i * SLOT);
        if (n < limit) return;
    }
}

static void take_v2(void) {
    static int at;
    for (;;) {
        char *slot = room + (size_t)(at / (BLOCK / FRAME)) * BLOCK + (size_t)(at % (BLOCK / FRAME)) * FRAME;
        struct tpacket2_hdr *h = (void *)slot;
        if (!(__atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) return;
        seen(slot + h->tp_mac);
        __atomic_store_n(&h->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        at = (at + 1) % (BLOCKS * (BLOCK / FRAME));
    }
}

static void take_v3(void) {
    static int at;
    for (;;) {
        struct tpacket_block_desc *b = (void *)(room + (size_t)at * BLOCK);
        if (!(__atomic_load_n(&b->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) return;
        char *slot = (char *)b + b->hdr.bh1.offset_to_first_pkt;
        for (unsigned i = 0; i < b->hdr.bh1.num_pkts; i++) {
            struct tpacket3_hdr *h = (void *)slot;
            seen(slot + h->tp_mac);
            slot += h->tp_next_offset;
        }
        __atomic_store_n(&b->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        at = (at + 1) % BLOCKS;
    }
}

static void send_frames(const char *peer, int size, double seconds) {
    int fd = packet(peer, 0);
    static char frame[10 + 65536];
    memset(frame + 10, 0xFF, 6);
    frame[10 + 6] = 2;
    frame[10 + 12] = (char)0x88;
    frame[10 + 13] = (char)0xB5;
    struct iovec part = { frame, 10 + size };
    struct mmsghdr all[BATCH];
    for (int i = 0; i < BATCH; i++) all[i].msg_hdr = (struct msghdr){ .msg_iov = &part, .msg_iovlen = 1 };
    usleep(100000);
    long end = ns(CLOCK_MONOTONIC) + (long)(seconds * 1e9), sent = 0;
    if (seconds > 0)
        while (ns(CLOCK_MONOTONIC) < end) {
            int n = sendmmsg(fd, all, BATCH, 0);
            sent += n > 0 ? n : 0;
        }
    else
        for (int i = 0; i < 1000; i++, usleep(1000)) {
            long now = ns(CLOCK_MONOTONIC);
            memcpy(frame + 10 + 14, &now, sizeof now);
            sent += sendmsg(fd, &all[0].msg_hdr, 0) > 0;
        }
    usleep(100000);
    printf("sent %ld ", sent);
    fflush(stdout);
    _exit(0);
}

static int ascending(const void *a, const void *b) { return (*(long *)a > *(long *)b) - (*(long *)a < *(long *)b); }

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "usage: rx IFNAME MODE SIZE SECONDS PEER\n"), 2;
    int rings = !strcmp(argv[2], "v3") ? 3 : !strcmp(argv[2], "v2") ? 2 : 0;
    int limit = !strcmp(argv[2], "one") ? 1 : BATCH;
    timed = atof(argv[4]) == 0;
    if (!rings) room = mmap(0, (size_t)BATCH * SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = packet(argv[1], rings);
    pid_t child = fork();
    if (!child) send_frames(argv[5], atoi(argv[3]), atof(argv[4]));
    struct pollfd wait = { fd, POLLIN, 0 };
    long cpu = ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int over = 0; !over;) {
        int n = poll(&wait, 1, 300);
        if (rings == 3) take_v3();
        else if (rings == 2) take_v2();
        else take_messages(fd, limit);
        if (!n) over = waitpid(child, 0, WNOHANG) == child;
    }
    cpu = ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("got %ld cpu_ns %.0f", got, got ? (double)cpu / got : 0.0);
    if (timed && delay_count) {
        qsort(delays, delay_count, sizeof *delays, ascending);
        printf(" p50_us %.1f p99_us %.1f", delays[delay_count / 2] / 1e3, delays[delay_count * 99 / 100] / 1e3);
    }
    putchar('\n');
    return 0;
}

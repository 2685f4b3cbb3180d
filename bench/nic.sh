#!/bin/sh
# How frames are taken from an interface: a system call each, a batch of them, and receive rings. Root, for namespaces; nothing
# outside of them is touched. Prints one line per mode, size and round; the median of the rounds is to be looked at.
set -eu
cd "$(dirname "$0")"
make -s rx
exec unshare -n sh -eu -c '
    ip link add a0 type veth peer name a1
    for end in a0 a1; do
        sysctl -qw net.ipv6.conf.$end.disable_ipv6=1
        ip link set $end mtu 9000 up
    done
    for round in $(seq "${ROUNDS:-5}"); do
        for size in 64 1514; do
            for mode in one batch v2 v3; do
                printf "%s %s round %s: " $mode $size $round
                ./rx a0 $mode $size ${T:-1} a1
            done
        done
        for mode in one batch v2 v3; do
            printf "%s delay round %s: " $mode $round
            ./rx a0 $mode 64 0 a1
        done
    done'

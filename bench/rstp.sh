#!/bin/bash
# How long a ring of five switches with RSTP is interrupted when a link or the root goes: real processes, joined by
# veth pairs, in namespaces of its own. One host pings another every 5 ms; the longest time between two answers is
# the outage.
# Usage: bench/rstp.sh [VIEWNET]; needs user namespaces, iproute2 and ping.
set -eu
VIEWNET=$(realpath "${1:-${VIEWNET:-$(dirname "$0")/../target/release/viewnet}}")
if [ "${VIEWNET_RSTP_INNER:-}" = "" ]; then
    export VIEWNET_RSTP_INNER=1
    exec unshare --map-root-user --net --mount --pid --fork --kill-child "$0" "$VIEWNET"
fi
mount -t tmpfs none /run
mkdir -p /run/netns
XDG_RUNTIME_DIR=$(mktemp -d -p /run)
export XDG_RUNTIME_DIR
ip link set lo up

for n in 0 1 2 3 4; do
    "$VIEWNET" switch up s$n
    "$VIEWNET" switch set s$n --stp on --priority $((n * 4096))
done
for n in 0 1 2 3 4; do
    m=$(((n + 1) % 5))
    ip link add l$n type veth peer name r$n
    ip link set l$n up
    ip link set r$n up
    "$VIEWNET" switch port add s$n next --nic l$n
    "$VIEWNET" switch port add s$m prev --nic r$n
done
for n in 1 3; do
    ip netns add h$n
    ip link add w$n type veth peer name eth0 netns h$n
    ip link set w$n up
    ip -n h$n addr add 10.0.0.$n/24 dev eth0
    ip -n h$n link set eth0 up
    "$VIEWNET" switch port add s$n host --nic w$n
    "$VIEWNET" switch port set s$n host --edge on
done
until ip netns exec h1 ping -c 1 -W 1 10.0.0.3 > /dev/null; do :; done
sleep 5

outage() { # what is done, command, for how many seconds to look
    ip netns exec h1 ping -D -n -i 0.005 -w "$3" 10.0.0.3 > /run/ping || true &
    sleep 1
    eval "$2"
    wait $!
    tr -d '[]' < /run/ping | awk -v what="$1" '
        /icmp_seq/ && /time=/ { if (last && $1 - last > most) most = $1 - last; last = $1 }
        END { printf "%-32s %5d ms\n", what, most * 1000 }'
    sleep 3
}
for n in 0 1 2 3 4; do
    outage "link $n-$(((n + 1) % 5)) down (carrier)" "ip link set r$n down" 4
    outage "link $n-$(((n + 1) % 5)) up again" "ip link set r$n up" 4
done
for n in 1 2; do
    outage "port of link $n-$((n + 1)) removed" "'$VIEWNET' switch port rm s$n next" 4
    "$VIEWNET" switch port add s$n next --nic l$n
    sleep 3
done
pid=$("$VIEWNET" switch show s0 | awk '/^process/ { print $2 + 0 }')
outage "the root killed" "kill -9 $pid" 30
for n in 1 2 3 4; do "$VIEWNET" switch down s$n; done

#!/bin/bash
# How long a ring of five switches with RSTP is interrupted when a link or the root goes: real processes, joined by
# veth pairs, in namespaces of its own. One host pings another every 5 ms; the longest time between two answers is
# the outage. The second figure is how long the switches went on changing their minds: from the first root or port state
# that changed to the last one. Ends with 1 if a lost link, or a root that went with its links, was missed for LIMIT milliseconds (1,000)
# or longer.
# Usage: bench/rstp.sh [VIEWNET]; needs user namespaces, iproute2 and ping. Two to three minutes.
set -eu
LIMIT=${LIMIT:-1000}
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
    "$VIEWNET" switch set s$n --stp on --priority $(((n + 1) * 4096))
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
settled() { # no port is on its way to forwarding, and each switch knows the same root
    local n
    for n in 0 1 2 3 4; do "$VIEWNET" switch stp s$n --json || return 1; done > /run/trees
    ! grep -qE '"(listening|learning)"' /run/trees &&
        [ "$(grep -c '"role": *"alternate"' /run/trees)" = "$1" ] &&
        ip netns exec h1 ping -q -c 1 -W 1 10.0.0.3 > /dev/null
}
await() { # until the ring is whole again, with so many ports that discard
    tries=0
    until settled "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "rstp.sh: the ring does not settle:" >&2; cat /run/trees >&2; exit 1; }
        sleep 0.1
    done
    sleep 1 # for the hosts' own caches
}
await 1

WORST=0
outage() { # what is done, command, for how many seconds to look, most milliseconds
    "$VIEWNET" events --json > /run/events &
    listening=$!
    ip netns exec h1 ping -D -n -i 0.005 -w "$3" 10.0.0.3 > /run/ping || true &
    pinging=$!
    sleep 1
    eval "$2"
    wait $pinging
    kill $listening
    wait $listening || true
    # From the last answer on to the end of looking counts, too: it may never have come back.
    MS=$(tr -d '[]' < /run/ping | awk '
        /icmp_seq/ && /time=/ { if (last && $1 - last > most) most = $1 - last; if (!first) first = $1; last = $1 }
        END { rest = first + '"$3"' - last; if (rest - 0.1 > most) most = rest; printf "%d", (first ? most : '"$3"') * 1000 }')
    BUSY=$(sed -n '/"event":"\(root_changed\|port_state\)"/s/.*"time_ms":\([0-9]*\).*/\1/p' /run/events | sort -n |
        awk '{ if (!first) first = $1; last = $1 } END { printf "%d", last - first }')
    printf '%-32s %5d ms, the tree moved for %5d ms\n' "$1" "$MS" "$BUSY"
    [ "$MS" -lt "${4:-$LIMIT}" ] || WORST=1
}
for n in 0 1 2 3 4; do
    outage "link $n-$(((n + 1) % 5)) down (carrier)" "ip link set r$n down" 4
    await 0
    outage "link $n-$(((n + 1) % 5)) up again" "ip link set r$n up" 4
    await 1
done
for n in 1 2; do
    # The other end does not see it: three hellos have to be missed.
    outage "port of link $n-$((n + 1)) removed" "'$VIEWNET' switch port rm s$n next" 12 8000
    "$VIEWNET" switch port add s$n next --nic l$n
    await 1
done
# A root beside the ring: what the ring remembers of it must not go round there when it is gone.
"$VIEWNET" switch up crown
"$VIEWNET" switch set crown --stp on --priority 0
ip link add c0 type veth peer name c1
ip link set c0 up
ip link set c1 up
"$VIEWNET" switch port add crown ring --nic c0
"$VIEWNET" switch port add s0 crown --nic c1
root() { "$VIEWNET" switch stp s"$1" --json | grep '"root":' | sort -u; }
tries=0
until [ "$(root 3)" = "$("$VIEWNET" switch stp crown --json | grep '"root":')" ]; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { echo "rstp.sh: the ring does not see the new root" >&2; exit 1; }
    sleep 0.1
done
await 1
outage "the root beside the ring dies" "ip link set c0 down" 8
await 1
outage "the root in the ring dies" "ip link set l0 down; ip link set r4 down" 8
ip link set l0 up
ip link set r4 up
await 1
pid=$("$VIEWNET" switch show s0 --json | awk '/"pid"/ { gsub(/[^0-9]/, "", $2); print $2 }')
# Its links stay up: three hellos have to be missed.
outage "the root killed, its links up" "kill -9 $pid" 30 30000
for n in 1 2 3 4; do "$VIEWNET" switch down s$n; done
"$VIEWNET" switch down crown
exit $WORST

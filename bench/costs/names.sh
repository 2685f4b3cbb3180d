#!/bin/sh
# costs/names.sh [ROUNDS]: how long until a program has a name's address: on the machine itself, in a view when nothing
# of viewnet runs yet (switch, gateway and all are started for it), and in a view when they do. Round by round in turn, in
# a network of its own with a nameserver on the loopback; one TSV line per figure, as run.py's.
ROUNDS=${1:-15}
VIEWNET=$(realpath "${VIEWNET:-$(dirname "$0")/../../target/release/viewnet}")
export ROUNDS VIEWNET
exec unshare --net --mount sh -eu -c '
S=$(mktemp -d)
trap "kill $(cat "$S/dns.pid" 2>/dev/null) 2>/dev/null; rm -rf \"$S\"" EXIT
ip link set lo up
ip link add up0 type veth peer name up1 && ip link set up1 up && ip addr add 192.0.2.2/24 dev up0 && ip link set up0 up && ip route add default via 192.0.2.1
echo nameserver 127.0.0.1 >"$S/resolv.conf"
mount --bind "$S/resolv.conf" /etc/resolv.conf
dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --listen-address=127.0.0.1 --bind-interfaces \
    --address=/host.test/192.0.2.9 --pid-file="$S/dns.pid" --user=root
took() { # took ROUND PEER COMMAND...: one line
    r=$1 p=$2; shift 2
    b=$(date +%s%N); "$@" >"$S/said" || { cat "$S/said" >&2; exit 1; }; e=$(date +%s%N)
    grep -q 192.0.2.9 "$S/said"
    printf "%s\t%s\tname\t%s\tus\n" "$r" "$p" $(((e - b) / 1000))
}
for r in $(seq "$ROUNDS"); do
    took "$r" native getent ahostsv4 host.test
    XDG_RUNTIME_DIR=$S/run.$r; export XDG_RUNTIME_DIR
    mkdir -m 700 "$XDG_RUNTIME_DIR"
    took "$r" cold "$VIEWNET" run -- getent ahostsv4 host.test
    took "$r" warm "$VIEWNET" run -- getent ahostsv4 host.test
    took "$r" cold_smol env XDG_RUNTIME_DIR="$(mktemp -d -p "$S")" "$VIEWNET" run --kind smol -- getent ahostsv4 host.test
    sleep 1
done'

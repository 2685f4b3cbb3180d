#!/bin/sh
# tunnels.sh [COUNT] (100): memory of kept WireGuard tunnels with a stack each, in lines "what<TAB>KiB<TAB>unit".
# Needs root for the namespace it runs in.
. "$(dirname "$0")/../lib.sh"
N=${1:-100}
PEER=tunnels S=$STATE/tunnels
rm -rf "$S"; mkdir -p "$S"; chmod 755 "$STATE" "$S"
peer_stop() { for i in $(seq 1 "$N"); do $HOST $VN vpn down "t$i"; done >/dev/null 2>&1; ns_del host; rm -rf "$S"; }
trap peer_stop EXIT
trap "exit 1" INT TERM
ns_add host; viewnet_user 0666; wg_keys
HOST="ip netns exec $(ns host)"
pss() { # of all processes of viewnet with this name
    for _p in $(pgrep -u "$BENCH_UID" -f "^$1"); do awk '/^Pss:/{s+=$2}END{print s+0}' /proc/$_p/smaps_rollup; done |
        awk '{s+=$1}END{print s+0}'
}
for i in $(seq 1 "$N"); do
    cat >"$S/t$i.conf" <<EOF
[Interface]
PrivateKey = $(wg genkey)
Address = 10.9.0.2/32
[Peer]
PublicKey = $(wg pubkey <"$S/key1")
AllowedIPs = 0.0.0.0/0
Endpoint = 127.0.0.1:9
EOF
    chown "$BENCH_UID" "$S/t$i.conf"; chmod 600 "$S/t$i.conf"
    $HOST $VN vpn up "$S/t$i.conf" || die "tunnel $i"
done
printf 'tunnel\t%s\tKiB/tunnel\n' $(($(pss viewnet-vpn) / N))
printf 'eye\t%s\tKiB/tunnel\n' $(($(pss viewnet-eye) / N))

#!/bin/sh
# tunnels.sh [COUNT] (100): memory (PSS) of kept WireGuard tunnels with a stack each, in lines "what<TAB>KiB<TAB>unit": of a
# tunnel's process, of the eye that watches it, of its stack in the keeper; when it is up, and some seconds after 4 MB
# have passed each way. KIND=smol has stacks of that kind. Needs root for the namespace it runs in.
. "$(dirname "$0")/../lib.sh"
N=${1:-100}
PEER=tunnels S=$STATE/tunnels
rm -rf "$S"; mkdir -p "$S"; chmod 755 "$STATE" "$S"
peer_stop() {
    for i in $(seq 1 "$N") hub; do $HOST $VN vpn down --force "$i"; done >/dev/null 2>&1
    kill_all; ns_del host; rm -rf "$S"
}
trap peer_stop EXIT
trap "exit 1" INT TERM
ns_add host; viewnet_user 0666; wg_keys
HOST="ip netns exec $(ns host)"
pids() { # of our processes of viewnet with this name, but for the other end
    for _p in $(pgrep -u "$BENCH_UID" -f "^$1"); do
        [ "$_p" = "$HUB" ] || ! grep -q "$S/run" /proc/$_p/environ || echo "$_p"
    done
}
figures() {
    printf 'tunnel, %s\t%s\tKiB/tunnel\n' "$1" $(($(pss_now $(pids viewnet-vpn)) / N))
    printf 'eye, %s\t%s\tKiB/tunnel\n' "$1" $(($(pss_now $(pids viewnet-eye)) / N))
    printf 'stack, %s\t%s\tKiB/tunnel\n' "$1" $(($(pss_now $(pids viewnet-keeper)) / N))
}
interface() { # interface ADDRESS: the section of the key on standard input
    printf '[Interface]\nPrivateKey = %s\nAddress = %s\nMTU = 1420\nDNS = 10.9.0.1\n' "$(cat)" "$1"
}
up() { # up FILE
    chown "$BENCH_UID" "$1"; chmod 600 "$1"
    $HOST $VN vpn up --kind "${KIND:-kernel}" "$1" || die "$1"
}
HUB=
{ interface 10.9.0.1/16 <"$S/key1"; echo "ListenPort = 51820"; } >"$S/hub.conf"
for i in $(seq 1 "$N"); do
    at=10.9.$((i / 200 + 1)).$((i % 200 + 1))/32
    (umask 077; wg genkey >"$S/key")
    printf '[Peer]\nPublicKey = %s\nAllowedIPs = %s\n' "$(wg pubkey <"$S/key")" "$at" >>"$S/hub.conf"
    {
        interface "$at" <"$S/key"
        printf '[Peer]\nPublicKey = %s\nAllowedIPs = 0.0.0.0/0\nEndpoint = 127.0.0.1:51820\n' "$(wg pubkey <"$S/key1")"
    } >"$S/$i.conf"
done
rm "$S/key"
up "$S/hub.conf"
HUB=$($HOST $VN0 vpn show hub --json | awk '/"pid"/{gsub(/[^0-9]/,"",$2);print $2}')
for i in $(seq 1 "$N"); do up "$S/$i.conf"; done
figures up
bg iperf $HOST $VN0 run --stack hub -- iperf3 -s
for i in $(seq 1 "$N"); do
    for way in "" -R; do
        until_ok 20 $HOST $VN0 run --stack "$i" -- iperf3 -c 10.9.0.1 -n 4M $way || die "nothing passes through $i"
    done
done
sleep 5
figures quiet

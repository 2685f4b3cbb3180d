#!/bin/sh
# WireGuard, Debian's wireguard-go at both ends, across a veth (as root: it needs CAP_NET_ADMIN)
. "$(dirname "$0")/../lib.sh"
end() { # end PREFIX NAME OTHER: a tunnel at this end
    bg "go$2" $1 wireguard-go -f nbwg$2
    until_ok 50 $1 wg show nbwg$2 || return 1
    $1 wg set nbwg$2 private-key $S/key$2 listen-port 5182$2 peer "$(wg pubkey <$S/key$3)" \
        allowed-ips 10.9.0.$3/32 endpoint 10.77.0.$3:5182$3 || return 1
    $1 ip addr add 10.9.0.$2/24 dev nbwg$2; $1 ip link set nbwg$2 mtu 1420 up
}
peer_start() {
    beyond; wg_keys
    UP=$SRV
    end "$UP" 1 2 && end "$HOST" 2 1 || return 1
    SRV=$UP; CLI=$HOST; ADDR=10.9.0.1
}
peer_stop() { ns_del host up; }
main "$@"

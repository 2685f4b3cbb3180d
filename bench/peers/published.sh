#!/bin/sh
# a client beyond the host, to published ports of a view on a kernel stack (all of viewnet as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
STACK=${STACK:-kernel}
peer_start() {
    beyond
    viewnet_user 0666
    VN="$HOST $VN"; VN0="$HOST $VN0"; save VN VN0
    $VN switch up bench && $VN gateway up --switch bench || return 1
    $VN stack up b --kind "$STACK" --link switch:bench,ip=10.0.2.2/24,gw=10.0.2.1 || return 1
    $VN publish add b $PORT $PORT/udp $IPORT $IPORT/udp || return 1
    CLI="$SRV"; SRV="$VN0 run --stack b --"; ADDR=10.77.0.2
}
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

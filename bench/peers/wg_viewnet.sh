#!/bin/sh
# WireGuard, views on kernel stacks at both ends, across a veth (all as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
KIND=${KIND:-kernel}
peer_start() {
    beyond; viewnet_user 0666; wg_keys; wg_files
    UP=$SRV
    wg_view 1 "$UP" && wg_view 2 "$HOST" || return 1
    SRV="$VN0 run --stack v1 --"; CLI="$VN0 run --stack v2 --"; ADDR=10.9.0.1
}
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

#!/bin/sh
# WireGuard, views on kernel stacks at both ends, across a veth (all as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
KIND=${KIND:-kernel}
peer_start() {
    beyond; viewnet_user 0666; wg_keys; wg_files
    UP=$SRV
    for _n in 1 2; do
        [ $_n = 1 ] && _at=$UP || _at=$HOST
        bg "view$_n" $_at $VN run --name v$_n --kind $KIND --vpn $S/end$_n.conf -- sleep infinity
        until_ok 50 $VN0 stack show v$_n || return 1
    done
    SRV="$VN0 run --stack v1 --"; CLI="$VN0 run --stack v2 --"; ADDR=10.9.0.1
}
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

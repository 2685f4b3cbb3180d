#!/bin/sh
# viewnet: server and client in one view on a smol stack, over its loopback
. "$(dirname "$0")/../lib.sh"
peer_start() {
    viewnet_user || return 1
    $VN0 stack up a --kind smol || return 1
    SRV="$VN0 run --stack a --"; CLI=$SRV; ADDR=127.0.0.1
}
peer_stop() { viewnet_down; }
main "$@"

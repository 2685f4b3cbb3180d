#!/bin/sh
# one core of a viewnet switch: frames from ring to ring
. "$(dirname "$0")/../lib.sh"
METRICS=$SW_METRICS
RINGS=${RINGS:-$(dirname "$VIEWNET")/examples/rings}
peer_start() {
    [ -x "$RINGS" ] || die "no $RINGS: cargo build --release -p switch --example rings"
    viewnet_user && $VN0 switch up bench || return 1
    L2TOOL=$RINGS L2A=$S/run/viewnet/switches/bench L2B=$L2A SWPIDS=$(viewnet_switch_pid)
}
peer_stop() { viewnet_down; }
main "$@"

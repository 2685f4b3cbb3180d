#!/bin/sh
# a view on a kernel stack, our switch and gateway, to a server beyond the host (all as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
STACK=${STACK:-kernel}
METRICS="$DEFAULT_METRICS flows"
peer_start() {
    beyond
    viewnet_user 0666
    VN="$HOST $VN"; VN0="$HOST $VN0"; save VN VN0
    $VN switch up bench && $VN gateway up --switch bench ${APART:-} || return 1
    $VN stack up b --kind "$STACK" --link switch:bench,ip=10.0.2.2/24,gw=10.0.2.1 || return 1
    CLI="$VN0 run --stack b --"
    GWPIDS="$(viewnet_switch_pid) $($VN0 gateway show --switch bench --json | awk '/"pid"/{gsub(/[^0-9]/,"",$2);print $2}')"
}
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

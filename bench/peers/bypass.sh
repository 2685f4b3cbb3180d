#!/bin/sh
# a view whose rule sends what is for the server past its own stack, by the host's sockets (all as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
STACK=${STACK:-kernel}
peer_start() {
    beyond
    viewnet_user 0666
    VN="$HOST $VN"; VN0="$HOST $VN0"; save VN VN0
    echo 'rules = ["to 10.77.0.0/24 via host"]' >"$S/view.toml"; chmod 644 "$S/view.toml"
    CLI="$VN0 run --kind $STACK --config $S/view.toml --"
}
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

#!/bin/sh
# a client beyond the host, to forwarded ports of a namespace of pasta's (as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
PASTA=${PASTA:-pasta}
peer_start() {
    beyond
    bg pasta $HOST $(rootless) $PASTA -q -f -4 --config-net --no-map-gw -t $PORT,$IPORT -u $PORT,$IPORT -- sleep infinity
    until_ok 50 inside || return 1
    CLI="$SRV"; SRV="nsenter -t $(inside) -n"; ADDR=10.77.0.2
}
inside() { pgrep -s "$(cat "$S/pasta.pid")" -x sleep; }
peer_stop() { ns_del host up; }
main "$@"

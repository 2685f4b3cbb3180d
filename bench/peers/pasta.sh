#!/bin/sh
# pasta, to a server beyond the host (as an unprivileged uid); the server is the host's router, which pasta would take for the host
. "$(dirname "$0")/../lib.sh"
PASTA=${PASTA:-pasta}
METRICS="$DEFAULT_METRICS flows"
peer_start() {
    beyond
    bg pasta $HOST $(rootless) $PASTA -q -f -4 --config-net --no-map-gw -- sleep infinity
    until_ok 50 inside || return 1
    GWPIDS=$(cat "$S/pasta.pid")
    CLI="nsenter -t $(inside) -n"
}
inside() { pgrep -s "$(cat "$S/pasta.pid")" -x sleep; }
peer_stop() { ns_del host up; }
main "$@"

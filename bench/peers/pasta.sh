#!/bin/sh
# pasta at its defaults, to a server beyond the host (as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
PASTA=${PASTA:-pasta}
peer_start() {
    beyond
    bg pasta $HOST $(rootless) $PASTA -q -f -4 --config-net -- sleep infinity
    until_ok 50 inside || return 1
    CLI="nsenter -t $(inside) -n"
}
inside() { pgrep -s "$(cat "$S/pasta.pid")" -x sleep; }
peer_stop() { ns_del host up; }
main "$@"

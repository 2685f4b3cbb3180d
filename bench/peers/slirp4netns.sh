#!/bin/sh
# slirp4netns at its defaults, to a server beyond the host (as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
METRICS="$DEFAULT_METRICS flows"
peer_start() {
    beyond
    user_ns inside "$HOST"
    bg slirp $HOST $(rootless) slirp4netns --configure --userns-path=/proc/$NSPID/ns/user $NSPID tap0
    until_ok 50 nsenter -t $NSPID -n ip link show tap0 || return 1
    GWPIDS=$(cat "$S/slirp.pid")
    CLI="nsenter -t $NSPID -n"
}
peer_stop() { ns_del host up; }
main "$@"

#!/bin/sh
# a program on the host itself, to a server beyond it (as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
peer_start() { beyond; CLI="$HOST setpriv --reuid $BENCH_UID --regid $BENCH_UID --clear-groups"; }
peer_stop() { ns_del host up; }
main "$@"

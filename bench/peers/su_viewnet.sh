#!/bin/sh
# startup: viewnet run --link lo -- true (a view with a loopback)
. "$(dirname "$0")/../lib.sh"
METRICS=$SU_METRICS
peer_start() { viewnet_user; PRE="$(rootless 0) env XDG_RUNTIME_DIR=$S/run"; save PRE; }
su_cold() { $PRE $HERE/spawn -u $BENCH_UID 40 $VIEWNET run --link lo -- true; }
su_keep() { $PRE $HERE/spawn -u $BENCH_UID -k -w -c viewnet- $1 $VIEWNET run --link lo -- sh -c "$PAYLOAD"; }
peer_stop() { viewnet_down; }
main "$@"

#!/bin/sh
# startup: viewnet run --ip ADDR -- true (plugged into a switch that runs already)
. "$(dirname "$0")/../lib.sh"
METRICS=$SU_METRICS
IP="--link switch:bench --ip 10.9.0.1/24"
peer_start() { viewnet_user; PRE="$(rootless 0) env XDG_RUNTIME_DIR=$S/run"; save PRE; $VN switch up bench; }
su_cold() { $PRE $HERE/spawn -u $BENCH_UID 20 $VIEWNET run $IP -- true; }
su_keep() { $PRE $HERE/spawn -u $BENCH_UID -k -w -c viewnet- $1 $VIEWNET run $IP -- sh -c "$PAYLOAD"; }
peer_stop() { viewnet_down; }
main "$@"

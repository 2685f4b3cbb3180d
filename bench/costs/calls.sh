#!/bin/sh
# costs/calls.sh [ROUNDS]: trapped socket(), msocket(), untrapped calls, names and datagrams on a smol stack with the
# preloaded library and without, and notifications while data flows.
# Native and in a view in turn, by the same uid; one TSV line per figure:
# "round<TAB>peer<TAB>metric<TAB>value<TAB>unit", as run.py's.
ROUNDS=${1:-7}
. "$(dirname "$0")/../lib.sh"
PEER=calls
S=$STATE/$PEER
peer_stop() { viewnet_down; }
finish() { kill_all; peer_stop; rm -rf "$S"; }
trap finish EXIT
trap 'exit 1' INT TERM
rm -rf "$S"; mkdir -p "$S"; chmod 755 "$STATE" "$S"
viewnet_user || exit 1
$VN stack up a || exit 1
AS="setpriv --reuid $BENCH_UID --regid $BENCH_UID --clear-groups env -i"
IN="$VN0 run --stack a --"
# msocket() on another stack than the view's, in a view and outside of any.
$VN stack up b || exit 1
OUT="$AS XDG_RUNTIME_DIR=$S/run"
figures() { # figures ROUND PEER MODE COUNT PREFIX...: lines of one run
    _r=$1 _p=$2 _m=$3 _n=$4; shift 4
    if [ "$_m" = msocket ]; then set -- "$@" "$HERE/msock" "$_n" b; else set -- "$@" "$HERE/calls" "$_m" "$_n"; fi
    "$@" | while read -r key p10 p50 min; do
        printf '%s\t%s\t%s\t%s\tns\n' "$_r" "$_p" "$key.p10" "$p10" "$_r" "$_p" "$key.p50" "$p50" "$_r" "$_p" "$key.min" "$min"
    done
}
for r in $(seq "$ROUNDS"); do
    figures "$r" native socket 5000 $AS; figures "$r" viewnet socket 5000 $IN
    figures "$r" outside msocket 5000 $OUT; figures "$r" viewnet msocket 5000 $IN
    figures "$r" native bare 2000 $AS; figures "$r" viewnet bare 2000 $IN
    for m in names options datagrams; do
        figures "$r" native $m 100 $AS
        figures "$r" smol $m 100 $VN0 run --stack smol --
        figures "$r" smol_traps $m 50 $VN0 run --no-shim --stack smol --
    done
done
# A view that makes one connection and then sends for 1 or 4 seconds: as many notifications.
notified() { $VN0 stack show flow --json | awk '/"notifications"/{on=1;next} on&&/}/{exit} on{gsub(/[^0-9]/,"",$2);n+=$2} END{print n+0}'; }
flow="'$NB' serve $PORT & sleep 0.5; '$NB' stream 127.0.0.1 $PORT \$1 1; exec sleep 1000"
for secs in 1 4; do
    bg flow $VN0 run --name flow -- sh -c "$flow" flow "$secs"
    until_ok 100 grep -q bytes "$S/flow.log" || die "no flow"
    printf '1\tviewnet\tnotified_%ss\t%s\tcalls\n' "$secs" "$(notified)"
    printf '1\tviewnet\tstream_%ss\t%s\tbytes\n' "$secs" "$(awk '$1=="bytes"{print $2}' "$S/flow.log")"
    kill -s KILL -- "-$(cat "$S/flow.pid")"; sleep 1
done

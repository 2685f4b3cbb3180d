#!/bin/sh
# switch.sh [OUT [ROUNDS]]: what a switch is worth, beside vde_switch, Open vSwitch and loopback, in one run; rounds
# interleaved, medians and ratios printed, samples in OUT.tsv and medians in OUT.json. Some ten minutes with
# nine rounds. As root, on a quiet machine.
#
#   one core   frames through the switch kept on one CPU, its ports' other ends on another
#   TAP to TAP bulk TCP between two views, CPU time of everything, beside loopback's
#   curve      nanoseconds for a frame in the switch's core, by ports and by stations
#   ring       of five switches with RSTP: how long a lost link is missed
set -eu
cd "$(dirname "$0")"
OUT=${1:-switch} ROUNDS=${2:-9}
RELEASE=$(dirname "${VIEWNET:-../target/release/viewnet}")
rm -f "$OUT.tsv"
D=${D:-0.5} ./run.py -o "$OUT.tsv" -r sw_vde_switch -m sw_64w,sw_64f,sw_1514w,sw_1514f -n "$ROUNDS" -x $((ROUNDS * 2)) \
    -q "${QUIET:-20}" -w 0.5 sw_vde_switch sw_ring sw_viewnet_vde sw_ovs sw_ovs_tap sw_ovs_afxdp
T=${T:-2} ./run.py -o "$OUT.tsv" -r lo -m tcp1,tcp1r -n "$ROUNDS" -x $((ROUNDS * 2)) -q "${QUIET:-20}" -w 0.5 lo viewnet
./report.py -q "${QUIET:-20}" -r sw_vde_switch -m sw_64w,sw_64f,sw_1514w,sw_1514f,sw_64f.switch,sw_1514f.switch --json "$OUT.json" "$OUT.tsv"
./report.py -q "${QUIET:-20}" -r lo -m tcp1,tcp1.cpu,tcp1r,tcp1r.cpu "$OUT.tsv"
echo; echo "The best that each did, by median:"
./best.py sw_64=sw_64w,sw_64f sw_1514=sw_1514w,sw_1514f -p sw_ring -j "$OUT.json"
echo; "$RELEASE/examples/core" curve
echo; ./rstp.sh

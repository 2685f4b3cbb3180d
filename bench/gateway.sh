#!/bin/sh
# gateway.sh [OUT [ROUNDS]]: the way out, beside pasta and slirp4netns, in one run; rounds interleaved, medians and ratios
# printed, samples in OUT.tsv and medians in OUT.json. Some fifteen minutes with seven rounds. As root, on a
# quiet machine.
#
#   tcp1, tcp1r        bulk, out and in; CPU time of everything per GB
#   crr1, crr8, cc1    connections per second: a request each, eight at a time, nothing said
#   udp1400w, udp1400f packets of 1400 bytes per second, 64 under way, and flooded
#   tcprr, udprr       round trips of a byte
#   flows              memory for 10,000 connections at once
set -eu
cd "$(dirname "$0")"
OUT=${1:-gateway} ROUNDS=${2:-7}
rm -f "$OUT.tsv"
METRICS=tcp1,tcp1r,crr1,crr8,cc1,udp1400w,udp1400f,tcprr,udprr
PEERS=${PEERS:-pasta gateway slirp4netns}
T=${T:-2} D=${D:-0.7} ./run.py -o "$OUT.tsv" -r pasta -m $METRICS -n "$ROUNDS" -x $((ROUNDS * 2)) -q "${QUIET:-20}" -w 0.5 $PEERS
./run.py -o "$OUT.tsv" -r pasta -m flows -n 1 -x 2 -q 1000 -w 0.5 $PEERS
./report.py -q "${QUIET:-20}" -r pasta -m $METRICS,tcp1.cpu,tcp1r.cpu,crr1.cpu,cc1.cpu,udp1400w.cpu,tcprr.p50,tcprr.cpu,udprr.p50,flows,flows.pss,flows.kernel,flows.each \
    --json "$OUT.json" "$OUT.tsv"

#!/bin/sh
# costs/stacks.sh [COUNT [ROUNDS]]: COUNT kernel stacks by `viewnet stack up`: time, the kernel's memory
# and ours, each. TSV lines as run.py's.
COUNT=${1:-1000}
ROUNDS=${2:-3}
. "$(dirname "$0")/../lib.sh"
PEER=stacks
S=$STATE/$PEER
peer_stop() { viewnet_down; }
finish() { kill_all; peer_stop; rm -rf "$S"; }
trap finish EXIT
trap 'exit 1' INT TERM
rm -rf "$S"; mkdir -p "$S"; chmod 755 "$STATE" "$S"
viewnet_user || exit 1
kernel_kib() { awk '/^(Slab|PageTables|Percpu|VmallocUsed|KernelStack):/{n+=$2} END{print n}' /proc/meminfo; }
all_kib() { awk '/^(MemFree|Buffers|Cached):/{n-=$2} END{print n}' /proc/meminfo; }
ours_kib() { # Pss of every process of BENCH_UID named viewnet-…
    for _p in $(pgrep -u "$BENCH_UID" '^viewnet'); do cat /proc/$_p/smaps_rollup; done 2>/dev/null | awk '/^Pss:/{n+=$2} END{print n+0}'
}
line() { printf '%s\tviewnet\t%s\t%s\t%s\n' "$r" "$1" "$2" "$3"; }
each() { awk -v a="$1" -v b="$2" -v n="$COUNT" 'BEGIN{printf "%.1f",(b-a)/n}'; }
for r in $(seq "$ROUNDS"); do
    $VN0 stack up first || exit 1 # the keeper itself is not what grows
    sleep 1
    k0=$(kernel_kib) a0=$(all_kib) o0=$(ours_kib) t0=$(date +%s%N)
    # one shell of the user's starts them one after the other, as a script would
    ${VN0%" $VIEWNET"} sh -c "i=0; while [ \$i -lt $COUNT ]; do '$VIEWNET' stack up s\$i || exit 1; i=\$((i + 1)); done" || exit 1
    t1=$(date +%s%N)
    sleep 0.3
    k1=$(kernel_kib) a1=$(all_kib) o1=$(ours_kib)
    line "stacks$COUNT" "$(awk -v t=$((t1 - t0)) 'BEGIN{printf "%.2f",t/1e9}')" s
    line "stacks$COUNT.kernel" "$(each "$k0" "$k1")" KiB/stack
    line "stacks$COUNT.all" "$(each "$a0" "$a1")" KiB/stack
    line "stacks$COUNT.ours" "$(each "$o0" "$o1")" KiB/stack
    line "stacks$COUNT.keeper" "$o1" KiB
    [ "$($VN0 stack ls | wc -l)" -ge "$COUNT" ] || die "not $COUNT stacks"
    t0=$(date +%s%N)
    ${VN0%" $VIEWNET"} sh -c "for n in \$(ls '$S/run/viewnet/stacks'); do '$VIEWNET' stack down \$n; done" || exit 1
    line "stacks$COUNT.down" "$(awk -v t=$(($(date +%s%N) - t0)) 'BEGIN{printf "%.2f",t/1e9}')" s
    sleep 4 # the kernel cleans namespaces in the background
done

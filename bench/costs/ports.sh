#!/bin/sh
# costs/ports.sh [ROUNDS [COUNT...]]: what a forwarded frame costs the switch process when COUNT ports are
# plugged in, two of which carry frames (src/l2.c). One switch per COUNT, measured in turn. TSV lines
# as run.py's.
ROUNDS=${1:-5}
[ $# -gt 0 ] && shift
COUNTS=${*:-2 10 100 1000}
. "$(dirname "$0")/../lib.sh"
PEER=ports
S=$STATE/$PEER
# Namespaces first: they take their TAPs along, while closing a TAP costs 30 ms.
clean() { for _n in $COUNTS; do ns_del a$_n b$_n idle$_n; done; sleep 1; viewnet_down; rm -rf "$S"; }
trap clean EXIT
trap 'exit 1' INT TERM
clean; mkdir -p "$S"; chmod 755 "$STATE" "$S"
BENCH_UID=0 # its TAPs are in namespaces that root made
viewnet_user || exit 1
port() { # port SWITCH NAMESPACE NAME: a port whose TAP is up
    inns $2 $VN0 switch port add $1 $3 --tap $3 >/dev/null && ip -n "$(ns $2)" link set $3 up || die "port $3"
}
for n in $COUNTS; do
    $VN0 switch up s$n || exit 1
    ns_add a$n b$n idle$n
    for i in a$n b$n idle$n; do inns $i sysctl -qw net.ipv6.conf.default.disable_ipv6=1; done
    port s$n a$n t0; port s$n b$n t1
    for i in $(seq 3 $n); do port s$n idle$n i$i; done
done
pid_of() { $VN0 switch show $1 --json | awk '/"pid"/{gsub(/[^0-9]/,"",$2);print $2}'; }
cpu_of() { cut -d' ' -f1 "/proc/$1/schedstat"; }
frames() { $VN0 switch port ls $1 --json | awk '/"rx_frames"/{gsub(/[^0-9]/,"",$2);n+=$2} END{print n}'; }
for r in $(seq $ROUNDS); do
    for n in $COUNTS; do
        pid=$(pid_of s$n) f0=$(frames s$n) c0=$(cpu_of $pid)
        pps=$("$HERE/l2" rate pkt:$(ns a$n):t0 pkt:$(ns b$n):t1 $D 1400 64 | awk '$1=="rx_pps"{print $2}')
        c1=$(cpu_of $pid) f1=$(frames s$n)
        printf '%s\tviewnet\tports%s\t%s\tframe/s\n' $r $n "$pps"
        awk -v r=$r -v n=$n -v c=$((c1 - c0)) -v f=$((f1 - f0)) 'BEGIN{printf "%s\tviewnet\tports%s.switch\t%.0f\tns/frame\n",r,n,c/f}'
    done
done

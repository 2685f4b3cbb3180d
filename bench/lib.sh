# Framework of the bench; every file in peers/ sources it. POSIX sh.
#
# A peer file sets
#     peer_start   bring the link up; set and `save` these:
#                    SRV   command prefix that runs a program on the server's side
#                    CLI   command prefix that runs a program on the client's side
#                    ADDR  IPv4 address at which the client reaches the server
#                    GWPIDS  processes that are the way out, if METRICS has `flows`
#                  a stack that runs no plain programs sets instead of SRV, CLI:
#                    NBS, NBC  commands that speak as `nb` (server's, client's side)
#                    TCPTOOL=nb (its `stream` mode instead of iperf3)
#                  a layer-2 peer sets L2A and L2B (endpoints of src/l2.c) and
#                  METRICS=$L2_METRICS
#                  a peer that shows what one core of a switch is worth sets besides SWPIDS (the
#                  switch's processes, kept on CPU 0 while everybody else is on CPU 1), perhaps
#                  L2TOOL (speaks as l2), and METRICS=$SW_METRICS
#                  a startup peer sets METRICS=$SU_METRICS and defines
#                    su_cold: run `spawn COUNT CMD`, su_keep N: run `spawn -k N CMD`
#     peer_stop    remove what `stop` does not remove by itself
#     METRICS      the metrics it takes part in (default: all of DEFAULT_METRICS)
# and ends with `main "$@"`.  Programs started with `bg` are stopped by main.
#
#     peers/X.sh start           set up, start `nb serve` and `iperf3 -s`
#     peers/X.sh run [METRIC..]  print "peer<TAB>metric<TAB>value<TAB>unit" lines
#     peers/X.sh stop
#
# Environment: T seconds per TCP throughput run (3), D seconds per other run (1),
# BENCH_STATE state folder (/tmp/nb.state), VIEWNET the program (../target/release/viewnet).
set -u
HERE=$(cd "$(dirname "$0")/.." && pwd)
PEER=$(basename "$0" .sh)
STATE=${BENCH_STATE:-/tmp/nb.state}
S=$STATE/$PEER
NB=$HERE/nb
VIEWNET=${VIEWNET:-$HERE/../target/release/viewnet}
PORT=7000
IPORT=5201
T=${T:-3}
D=${D:-1}
DEFAULT_METRICS="tcp1 tcp4 tcp1r tcprr udprr udp64f udp64w udp1400f udp1400w cc1 crr1 crr8"
L2_METRICS="l2_64w l2_64f l2_1514w l2_1514f l2_rr"
FLOWS=${FLOWS:-10000}
SW_METRICS="sw_64w sw_64f sw_1514w sw_1514f"
SU_METRICS="start mem10 mem100"
PAYLOAD='echo >$SPAWN_READY; exec sleep 1000' # payload of the startup peers, for spawn -w
METRICS=$DEFAULT_METRICS
BENCH_UID=${BENCH_UID:-1999}      # unprivileged id used by the rootless peers
CG=/sys/fs/cgroup/cpuacct/nbbench # v1; on a v2 machine /sys/fs/cgroup/nbbench
[ -d /sys/fs/cgroup/cpuacct ] || CG=/sys/fs/cgroup/nbbench

die() { echo "$PEER: $*" >&2; exit 1; }
emit() { printf '%s\t%s\t%s\t%s\n' "$PEER" "$1" "$2" "$3"; }

# --- processes and state -------------------------------------------------
cg_enter() { mkdir -p $CG 2>/dev/null && echo $$ >$CG/cgroup.procs 2>/dev/null || CG=; }
save() { for v in "$@"; do eval "printf '%s=\"%s\"\n' $v \"\$$v\""; done >>"$S/vars"; }
load() { [ -r "$S/vars" ] || die "not started"; . "$S/vars"; }
bg() { # bg TAG CMD...: background, own session, recorded for stop
    _tag=$1; shift
    setsid "$@" >"$S/$_tag.log" 2>&1 </dev/null &
    echo $! >>"$S/pgids"
    echo $! >"$S/$_tag.pid"
}
adopt() { echo "$1" >>"$S/pids"; } # a daemon that left our session
until_ok() { # until_ok TENTHS CMD...
    _n=$1; shift
    while ! "$@" >/dev/null 2>&1; do
        _n=$((_n - 1)); [ $_n -gt 0 ] || return 1; sleep 0.1
    done
}
kill_all() {
    for sig in TERM KILL; do
        [ -r "$S/pgids" ] && for p in $(cat "$S/pgids"); do kill -s $sig -- "-$p" 2>/dev/null; done
        [ -r "$S/pids" ] && for p in $(cat "$S/pids"); do kill -s $sig "$p" 2>/dev/null; done
        sleep 0.2
    done
}
# --- namespaces -------------------------------------------------------------
ns() { echo "nb.$PEER.$1"; }
ns_add() { for _i in "$@"; do
    ip netns add "$(ns $_i)" || die "netns"
    ip -n "$(ns $_i)" link set lo up
    ip netns exec "$(ns $_i)" sysctl -qw net.ipv4.ip_local_port_range="1024 65000" net.ipv4.tcp_tw_reuse=1 2>/dev/null
done; }
ns_del() { for _i in "$@"; do ip netns del "$(ns $_i)" 2>/dev/null; done; }
inns() { _i=$1; shift; ip netns exec "$(ns $_i)" "$@"; }
# veth pair inside/between our namespaces: veth_pair NS1 IF1 NS2 IF2
veth_pair() {
    ip -n "$(ns $1)" link add "$2" type veth peer name "$4" netns "$(ns $3)" || die veth
    ip -n "$(ns $1)" link set "$2" up; ip -n "$(ns $3)" link set "$4" up
}
addr() { ip -n "$(ns $1)" addr add "$3" dev "$2"; }
# prefix that runs a program as BENCH_UID, with a /dev/net/tun it may open
# (it is 0600 on some machines) - in a private mount namespace
rootless() {
    mkdir -p "$S"; [ -e "$S/tun" ] || { mknod "$S/tun" c 10 200 && chmod 666 "$S/tun"; }
    echo "$HERE/rootless.sh $S ${1:-$BENCH_UID}"
}
# a netns owned by BENCH_UID (user + net namespace): sets NSPID; $1 = tag, $2 = prefix
user_ns() {
    bg "$1" $2 $(rootless) unshare -rn sh -c "ip link set lo up; exec sleep infinity"
    NSPID=$(cat "$S/$1.pid")
    until_ok 50 sh -c "[ \"\$(cat /proc/$NSPID/comm)\" = sleep ]" || die "user_ns"
    nsenter -t "$NSPID" -n sysctl -qw net.ipv4.ip_local_port_range="1024 65000" net.ipv4.tcp_tw_reuse=1 2>/dev/null
}
# a host and a server beyond it; sets HOST, the prefix of what runs on the host, SRV, ADDR
beyond() {
    ns_add host up; veth_pair host e0 up e0
    addr host e0 10.77.0.2/24; addr up e0 10.77.0.1/24
    ip -n "$(ns host)" route add default via 10.77.0.1
    HOST="ip netns exec $(ns host)"; SRV="ip netns exec $(ns up)"; ADDR=10.77.0.1
    save HOST
}
# Open vSwitch of our own in namespace sw, all its files in our state folder
ovs_up() {
    OVS="ip netns exec $(ns sw) env OVS_RUNDIR=$S OVS_LOGDIR=$S OVS_DBDIR=$S OVS_SYSCONFDIR=$S"
    $OVS ovsdb-tool create "$S/conf.db" /usr/share/openvswitch/vswitch.ovsschema >/dev/null || return 1
    bg ovsdb $OVS ovsdb-server "$S/conf.db" --remote=punix:"$S/db.sock" --unixctl="$S/ovsdb.ctl"
    until_ok 50 test -S "$S/db.sock"
    $OVS ovs-vsctl --db=unix:"$S/db.sock" --no-wait init
    bg vswitchd $OVS ovs-vswitchd unix:"$S/db.sock" --unixctl="$S/vswitchd.ctl"
}
ovs_vsctl() { timeout 20 $OVS ovs-vsctl --db=unix:"$S/db.sock" -- "$@"; }
# --- viewnet ------------------------------------------------------------------
# VN: prefix that runs viewnet's commands as BENCH_UID, its sockets in our state folder.
# $1: mode of its /dev/net/tun (0666; 0600 closes it). VN0: the same as it is, without mount namespace
viewnet_user() {
    [ -x "$VIEWNET" ] || die "no $VIEWNET: cargo build --release, or set VIEWNET"
    mkdir -m 700 "$S/run" && chown "$BENCH_UID:$BENCH_UID" "$S/run"
    mknod -m "${1:-0666}" "$S/tun" c 10 200; chmod "${1:-0666}" "$S/tun"
    VN="$(rootless) env -i PATH=$PATH XDG_RUNTIME_DIR=$S/run $VIEWNET"
    VN0="setpriv --reuid $BENCH_UID --regid $BENCH_UID --clear-groups env -i PATH=$PATH XDG_RUNTIME_DIR=$S/run $VIEWNET"
    save VN VN0
}
# pid of the switch `bench`
viewnet_switch_pid() { $VN0 switch show bench --json | awk '/"pid"/{gsub(/[^0-9]/,"",$2);print $2}'; }
# two views on one switch; sets SRV, CLI, ADDR. $1: options of their stacks; $2: their MTU
viewnet_pair() {
    $VN switch up bench || return 1
    $VN stack up a ${1:-} --link "switch:bench,mtu=${2:-1500},ip=10.9.0.1/24" || return 1
    $VN stack up b ${1:-} --link "switch:bench,mtu=${2:-1500},ip=10.9.0.2/24" || return 1
    SRV="$VN0 run --stack a --"; CLI="$VN0 run --stack b --"; ADDR=10.9.0.1
}
# two views on smol stacks, a supervisor each, on one switch; $1: MTU; sets SRV, CLI, ADDR
smol_pair() {
    $VN0 switch up bench || return 1
    for _n in 1 2; do
        bg "view$_n" $VN0 run --name v$_n --kind smol --link "switch:bench,mtu=$1,ip=10.9.0.$_n/24" -- sleep infinity
        until_ok 50 $VN0 stack show v$_n || return 1
    done
    SRV="$VN0 run --stack v1 --"; CLI="$VN0 run --stack v2 --"; ADDR=10.9.0.1
}
viewnet_down() { # all of viewnet_user's stacks and switches
    for _n in $(ls "$S/run/viewnet/stacks" 2>/dev/null); do $VN0 stack down --force "$_n"; done
    for _n in $(ls "$S/run/viewnet/switches" 2>/dev/null); do $VN0 switch down "$_n"; done
} >/dev/null 2>&1

# --- WireGuard ------------------------------------------------------------------
wg_keys() { (umask 077; for _n in 1 2; do wg genkey >"$S/key$_n"; done); } # of both ends
# end1.conf, end2.conf: files of wg-quick for the ends at 10.77.0.1 and 10.77.0.2
wg_files() {
    for _n in 1 2; do
        _o=$((3 - _n))
        cat >"$S/end$_n.conf" <<EOF
[Interface]
PrivateKey = $(cat "$S/key$_n")
ListenPort = 5182$_n
Address = 10.9.0.$_n/24
[Peer]
PublicKey = $(wg pubkey <"$S/key$_o")
AllowedIPs = 10.9.0.$_o/32
Endpoint = 10.77.0.$_o:5182$_o
EOF
        chown "$BENCH_UID" "$S/end$_n.conf"; chmod 600 "$S/end$_n.conf"
    done
}

# a view of kind $KIND behind end $1, on the machine that prefix $2 leads to
wg_view() {
    bg "view$1" $2 $VN run --name v$1 --kind "${KIND:-kernel}" --vpn $S/end$1.conf -- sleep infinity
    until_ok 50 $VN0 stack show v$1
}
# what forwards ports of the host through WireGuard to a view on a kernel stack at the other end; $1: the program.
# Programs on the host reach that by ADDR.
wg_forwarder() {
    command -v "$1" >/dev/null || { echo "$PEER: no $1 is installed" >&2; return 1; }
    beyond; viewnet_user 0666; wg_keys; wg_files
    wg_view 1 "$SRV" || return 1
    CLI=$HOST; SRV="$VN0 run --stack v1 --"; ADDR=127.0.0.1
}
WG_FORWARDED="tcp1 tcp4 tcp1r tcprr cc1 crr1" # metrics of those: TCP alone

# --- proxies --------------------------------------------------------------------
# a proxy on the host's loopback, and a server beyond the host; $1: socks5 (port 1080) or http (8888)
proxy_up() {
    beyond; viewnet_user 0666
    case $1 in
    socks5) bg proxy $HOST microsocks -i 127.0.0.1 -p 1080; until_ok 50 $HOST nc -z 127.0.0.1 1080 ;;
    http)
        printf 'Listen 127.0.0.1\nPort 8888\nMaxClients 1000\nTimeout 600\n' >"$S/tinyproxy.conf"
        bg proxy $HOST tinyproxy -d -c "$S/tinyproxy.conf"; until_ok 50 $HOST nc -z 127.0.0.1 8888 ;;
    esac || { echo "$PEER: the proxy does not start" >&2; return 1; }
}
# a view whose way out is the link $1; sets CLI
proxy_view() {
    bg view $HOST $VN run --name v1 --kind "${KIND:-kernel}" --link "$1" -- sleep infinity
    until_ok 50 $VN0 stack show v1 || return 1
    CLI="$VN0 run --stack v1 --"
}
PROXIED="tcp1 tcp1r tcprr crr1" # metrics of those: TCP alone

# --- measuring ----------------------------------------------------------------
spin_now() { cat $CG.spin/cpuacct.usage 2>/dev/null || awk '/^usage_usec/{print $2*1000}' $CG.spin/cpu.stat 2>/dev/null || echo 0; }
cpu_now() { # ns used by the whole bench so far
    if [ -r "$CG/cpuacct.usage" ]; then cat "$CG/cpuacct.usage"
    elif [ -r "$CG/cpu.stat" ]; then awk '/^usage_usec/{print $2*1000}' "$CG/cpu.stat"
    else echo 0; fi
}
busy_now() { awk '/^cpu /{print ($2+$3+$4+$7+$8)*10000000, $9*10000000}' /proc/stat; } # ns busy, ns stolen
# measure NAME CMD...: output in $OUT, our CPU ns in $CPU, others' CPU in % of one CPU
measure() {
    _m=$1; shift
    c0=$(cpu_now); s0=$(spin_now); b0=$(busy_now); t0=$(date +%s%N)
    OUT=$(${LIMIT-timeout 40} "$@" 2>"$S/err"); rc=$?
    c1=$(cpu_now); s1=$(spin_now); b1=$(busy_now); t1=$(date +%s%N)
    CPU=$((c1 - c0))
    OTHER=$(awk -v a="$b0" -v b="$b1" -v c="$((CPU + s1 - s0))" -v t=$((t1 - t0)) 'BEGIN{split(a,x," ");split(b,y," ");o=(y[1]-x[1]-c)/t*100;printf "%.0f %.0f",(o<0?0:o),(y[2]-x[2])/t*100}')
    [ $rc = 0 ] || { echo "$PEER: $_m: rc $rc: $(tail -1 "$S/err" | cut -c1-200)" >&2; return 1; }
}
key() { printf '%s\n' "$OUT" | awk -v k="$1" '$1==k{print $2}'; }
quality() { emit "$1.other" "${OTHER%% *}" "%cpu"; emit "$1.steal" "${OTHER##* }" "%cpu"; }
iperf() { # iperf NAME FLOWS EXTRA
    if [ "$TCPTOOL" = nb ]; then
        [ -z "$3" ] || return 0
        measure $1 $NBC stream "$ADDR" $PORT "$T" "$2" || return
        g=$(key gbps)
    else
        measure $1 $CLI iperf3 -c "$ADDR" -p $IPORT -t "$T" -P "$2" -f m $3 || return
        g=$(printf '%s\n' "$OUT" | awk '/receiver/{for(i=1;i<=NF;i++)if($i=="Mbits/sec")v=$(i-1)}END{if(v!="")printf "%.3f",v/1000}')
    fi
    [ -n "$g" ] || { echo "$PEER: $1: no result" >&2; return; }
    emit $1 "$g" Gbit/s
    emit $1.cpu "$(awk -v c=$CPU -v g="$g" -v t="$T" 'BEGIN{printf "%.3f",(g>0?c/1e9/(g*t/8):0)}')" cpu-s/GB
    quality $1
}
# keep the CPUs from going idle: one SCHED_IDLE spinner each, in a cgroup of their own
spin_on() {
    SPINS=
    for _c in $(seq 0 $(($(nproc) - 1))); do
        taskset -c $_c chrt -i 0 $NB spin & SPINS="$SPINS $!"
        mkdir -p $CG.spin; echo $! >$CG.spin/cgroup.procs
    done
}
spin_off() { kill $SPINS; wait $SPINS 2>/dev/null; SPINS=; }
# confine all bench processes (and so their children) to CPU list $1
confine() { for _p in $(cat $CG/cgroup.procs); do taskset -acp $1 $_p; done >/dev/null 2>&1; }
rrm() { # rrm NAME MODE
    measure $1 $NBC $2 "$ADDR" $PORT "$D" 1 || return
    emit $1.mean "$(key mean)" us; emit $1.p50 "$(key p50)" us; emit $1.p99 "$(key p99)" us
    emit $1.cpu "$(awk -v c=$CPU -v n="$(key count)" 'BEGIN{printf "%.2f",c/1e3/n}')" cpu-us/rt
    [ "$(key lost)" = 0 ] || emit $1.lost "$(key lost)" pkt
    quality $1
}
udpm() { # udpm NAME SIZE WIN
    measure $1 $NBC udp "$ADDR" $PORT "$D" $2 $3 || return
    emit $1 "$(key rx_pps)" pkt/s
    [ $3 = 0 ] && { emit $1.tx "$(key tx_pps)" pkt/s; emit $1.loss "$(key loss)" %; }
    [ "$(key stalls)" = 0 ] || emit $1.stalls "$(key stalls)" n
    emit $1.cpu "$(awk -v c=$CPU -v r="$(key rx_pps)" -v d="$D" 'BEGIN{printf "%.2f",(r>0?c/1e3/(r*d):0)}')" cpu-us/pkt
    quality $1
}
connm() { # connm NAME MODE CONC
    measure $1 $NBC $2 "$ADDR" $PORT "$D" $3 || return
    emit $1 "$(key rate)" conn/s
    emit $1.cpu "$(awk -v c=$CPU -v n="$(key done)" 'BEGIN{printf "%.2f",(n>0?c/1e3/n:0)}')" cpu-us/conn
    [ "$(key fail)" = 0 ] || emit $1.fail "$(key fail)" conn
    quality $1
}
l2m() { # l2m NAME SIZE WIN
    measure $1 $HERE/l2 rate $L2A $L2B "$D" $2 $3 $L2BATCH || return
    emit $1 "$(key rx_pps)" frame/s
    [ $2 = 64 ] || emit $1.gbps "$(awk -v p="$(key rx_pps)" -v n=$2 'BEGIN{printf "%.3f",p*n*8/1e9}')" Gbit/s
    [ $3 = 0 ] && { emit $1.tx "$(key tx_pps)" frame/s; emit $1.loss "$(key loss)" %; }
    emit $1.cpu "$(awk -v c=$CPU -v r="$(key rx_pps)" -v d="$D" 'BEGIN{printf "%.2f",(r>0?c/1e3/(r*d):0)}')" cpu-us/frame
    quality $1
}
pss_now() { for _p in $*; do cat /proc/$_p/smaps_rollup; done | awk '/^Pss:/{n+=$2}END{printf "%d",n}'; } # KiB
flowm() { # what FLOWS connections at once take
    m0=$(pss_now $GWPIDS)
    $NBC hold "$ADDR" $PORT 90 $FLOWS >"$S/flows" 2>&1 &
    _h=$!
    until_ok 900 grep -q ready "$S/flows" || { echo "$PEER: $1: $(cat "$S/flows")" >&2; kill $_h; wait $_h; return 1; }
    sleep 1
    m1=$(pss_now $GWPIDS)
    OUT=$(cat "$S/flows")
    kill $_h; wait $_h 2>/dev/null
    emit $1 "$(key held)" conn
    emit $1.pss "$(awk -v k=$m1 'BEGIN{printf "%.1f",k/1024}')" MiB
    emit $1.each "$(awk -v k=$((m1 - m0)) -v n="$(key held)" 'BEGIN{printf "%.2f",(n>0?k/n:0)}')" KiB/conn
    emit $1.ms "$(key ms)" ms
    emit $1.other 0 %cpu
}
threads_now() { # ns that the threads of processes $* have run
    for _p in $*; do cat /proc/$_p/task/*/schedstat; done 2>/dev/null | awk '{n+=$1}END{printf "%.0f",n}'
}
# swm NAME SIZE WIN: frames through one core. Its CPU time is the switch's processes' own; what the kernel does
# for them on the senders' time is not in it.
swm() {
    confine 1
    for _p in $SWPIDS; do taskset -acp 0 $_p >/dev/null; done
    p0=$(threads_now $SWPIDS)
    measure $1 ${L2TOOL:-$HERE/l2} rate $L2A $L2B "$D" $2 $3 $L2BATCH; _rc=$?
    p1=$(threads_now $SWPIDS)
    confine 0-$(($(nproc) - 1))
    [ $_rc = 0 ] || return
    emit $1 "$(key rx_pps)" frame/s
    emit $1.loss "$(key loss)" %
    emit $1.switch "$(awk -v c=$((p1 - p0)) -v r="$(key rx_pps)" -v d="$D" 'BEGIN{printf "%.0f",(r>0?c/(r*d):0)}')" cpu-ns/frame
    quality $1
}
metric_as() { # metric $1, its lines renamed to $1$2
    metric $1 | awk -v o=$1 -v n=$1$2 'BEGIN{FS=OFS="\t"}{if($2==o||index($2,o".")==1)$2=n substr($2,length(o)+1);print}'
}
metric() {
    case $1 in
    *_hot) spin_on; metric_as ${1%_hot} _hot; spin_off ;;
    *_one) confine 0; metric_as ${1%_one} _one; confine 0-$(($(nproc) - 1)) ;;
    tcp1) iperf tcp1 1 "" ;;
    tcp4) iperf tcp4 4 "" ;;
    tcp1r) iperf tcp1r 1 -R ;;
    tcprr) rrm tcprr tcprr ;;
    udprr) rrm udprr udprr ;;
    udp64f) udpm udp64f 64 0 ;;
    udp64w) udpm udp64w 64 64 ;;
    udp1400f) udpm udp1400f 1400 0 ;;
    udp1400w) udpm udp1400w 1400 64 ;;
    cc1) connm cc1 cc 1 ;;
    crr1) connm crr1 crr 1 ;;
    crr8) connm crr8 crr 8 ;;
    l2_64w) l2m l2_64w 64 64 ;;
    l2_64f) l2m l2_64f 64 0 ;;
    l2_1514w) l2m l2_1514w 1514 64 ;;
    l2_1514f) l2m l2_1514f 1514 0 ;;
    flows) flowm flows ;;
    sw_64w) swm sw_64w 64 64 ;;
    sw_64f) swm sw_64f 64 0 ;;
    sw_1514w) swm sw_1514w 1514 64 ;;
    sw_1514f) swm sw_1514f 1514 0 ;;
    l2_rr)
        measure l2_rr $HERE/l2 rr $L2A $L2B "$D" 64 || return
        emit l2_rr.mean "$(key mean)" us; emit l2_rr.p50 "$(key p50)" us; emit l2_rr.p99 "$(key p99)" us
        emit l2_rr.cpu "$(awk -v c=$CPU -v n="$(key count)" 'BEGIN{printf "%.2f",c/1e3/n}')" cpu-us/rt
        quality l2_rr ;;
    start) # startup: su_cold runs spawn
        LIMIT=; measure start su_cold || return
        emit start.p50 "$(key p50)" ms; emit start.min "$(key min)" ms; emit start.p90 "$(key p90)" ms
        quality start ;;
    mem10 | mem100) # memory: su_keep N runs spawn -k
        LIMIT=; measure $1 su_keep ${1#mem} || return
        for k in rss pss kernel all; do emit $1.$k "$(key $k)" KiB/inst; done
        emit $1.procs "$(key procs)" procs/inst; emit $1.ms "$(key ms)" ms
        quality $1 ;;
    *) die "unknown metric $1" ;;
    esac
}
start_servers() {
    [ -n "$NBS$SRV$ADDR" ] || return 0
    bg serve $NBS serve $PORT
    [ "$TCPTOOL" = nb ] || bg iperf $SRV iperf3 -s -p $IPORT
    until_ok 50 $NBC wait "$ADDR" $PORT 1 || die "server does not answer"
}
main() {
    cmd=${1:-}; [ $# -gt 0 ] && shift
    cg_enter
    case $cmd in
    start)
        [ -e "$S" ] && "$0" stop
        mkdir -p "$S"; chmod 755 "$STATE" "$S"
        CLI= SRV= ADDR= NBC= NBS= TCPTOOL=iperf3 L2A= L2B= L2BATCH=1 L2TOOL= SWPIDS= GWPIDS=
        peer_start || { "$0" stop; die "cannot start"; }
        [ -z "$ADDR" ] || { NBC=${NBC:-$CLI $NB}; NBS=${NBS:-$SRV $NB}; }
        save SRV CLI ADDR NBC NBS TCPTOOL L2A L2B L2BATCH L2TOOL SWPIDS GWPIDS
        start_servers || { [ -n "${KEEP:-}" ] || "$0" stop; exit 1; } ;;
    run)
        load
        for m in ${*:-$METRICS}; do
            b=${m%_hot}; case " $METRICS " in *" ${b%_one} "*) metric "$m" ;; esac
        done ;;
    stop)
        [ -e "$S" ] || exit 0
        [ -r "$S/vars" ] && . "$S/vars"
        kill_all
        peer_stop
        rm -rf "$S" ;;
    metrics) echo $METRICS ;;
    *) die "usage: $0 start | run [metric...] | stop | metrics" ;;
    esac
}

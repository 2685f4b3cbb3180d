#!/bin/sh
# one core of Open vSwitch's user-space datapath: an AF_XDP socket (polled by a thread of its own) on a veth each
. "$(dirname "$0")/../lib.sh"
METRICS=$SW_METRICS
peer_start() {
    ns_add a b sw; veth_pair a e0 sw pa; veth_pair b e0 sw pb
    for i in a b; do inns $i ethtool -K e0 tx off >/dev/null 2>&1; done
    ovs_up || return 1
    ovs_vsctl set Open_vSwitch . other_config:pmd-cpu-mask=1 -- add-br br0 -- set bridge br0 datapath_type=netdev \
        -- add-port br0 pa -- set interface pa type=afxdp -- add-port br0 pb -- set interface pb type=afxdp || return 1
    L2A=pkt:$(ns a):e0 L2B=pkt:$(ns b):e0
    L2BATCH=32 SWPIDS=$(cat "$S/vswitchd.pid")
}
peer_stop() { ns_del a b sw; }
main "$@"

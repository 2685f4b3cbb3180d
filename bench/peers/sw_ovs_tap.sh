#!/bin/sh
# one core of Open vSwitch's user-space datapath: TAPs, whose frames the kernel makes
. "$(dirname "$0")/../lib.sh"
METRICS=$SW_METRICS
peer_start() {
    ns_add sw
    ovs_up || return 1
    ovs_vsctl add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 pa -- set interface pa type=internal \
        -- add-port br0 pb -- set interface pb type=internal || return 1
    for i in pa pb; do ip -n "$(ns sw)" link set $i up; done
    L2A=pkt:$(ns sw):pa L2B=pkt:$(ns sw):pb
    L2BATCH=32 SWPIDS=$(cat "$S/vswitchd.pid")
}
peer_stop() { ns_del a b sw; }
main "$@"

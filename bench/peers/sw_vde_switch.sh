#!/bin/sh
# one core of vde_switch: two libvdeplug clients
. "$(dirname "$0")/../lib.sh"
METRICS=$SW_METRICS
peer_start() {
    vde_switch -d -p "$S/switch.pid" -s "$S/ctl" </dev/null >"$S/switch.log" 2>&1 || return 1
    until_ok 30 test -s "$S/switch.pid"; adopt "$(cat "$S/switch.pid")"
    L2A="vde:vde://$S/ctl" L2B=$L2A SWPIDS=$(cat "$S/switch.pid")
}
peer_stop() { :; }
main "$@"

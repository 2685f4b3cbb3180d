#!/bin/sh
# one core of a viewnet switch: two libvdeplug clients
. "$(dirname "$0")/../lib.sh"
METRICS=$SW_METRICS
peer_start() {
    viewnet_user || return 1
    chmod 777 "$S" # its user makes the folder there
    $VN0 switch up bench --vde "$S/vde" --vde-mode 0666 || return 1
    L2A="vde:vde://$S/vde" L2B=$L2A SWPIDS=$(viewnet_switch_pid)
}
peer_stop() { viewnet_down; }
main "$@"

#!/bin/sh
# layer 2: two libvdeplug clients of a viewnet switch (as an unprivileged uid, its folder open to all)
. "$(dirname "$0")/../lib.sh"
METRICS=$L2_METRICS
peer_start() {
    viewnet_user || return 1
    chmod 777 "$S" # its user makes the folder there
    $VN0 switch up bench --vde "$S/vde" --vde-mode 0666 || return 1
    L2A="vde:vde://$S/vde"; L2B=$L2A
}
peer_stop() { viewnet_down; }
main "$@"

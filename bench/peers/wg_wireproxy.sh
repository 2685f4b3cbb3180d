#!/bin/sh
# WireGuard, wireproxy at our end, a view on a kernel stack at the other, across a veth (all as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
WIREPROXY=${WIREPROXY:-wireproxy}
METRICS=$WG_FORWARDED
peer_start() {
    wg_forwarder "$WIREPROXY" || return 1
    {
        sed 's,/24$,/32,;s/^\[Peer\]/MTU = 1420\nDNS = 10.9.0.1\n&/' "$S/end2.conf"
        for _port in $IPORT $PORT; do
            printf '[TCPClientTunnel]\nBindAddress = 127.0.0.1:%s\nTarget = 10.9.0.1:%s\n' $_port $_port
        done
    } >"$S/wireproxy.conf"
    chown "$BENCH_UID" "$S/wireproxy.conf"; chmod 600 "$S/wireproxy.conf"
    bg wireproxy $HOST $(rootless) "$WIREPROXY" -s -c "$S/wireproxy.conf"
}
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

#!/bin/sh
# WireGuard, onetun at our end, a view on a kernel stack at the other, across a veth (all as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
ONETUN=${ONETUN:-onetun}
METRICS=$WG_FORWARDED
peer_start() {
    wg_forwarder "$ONETUN" || return 1
    cp "$S/key2" "$S/key2.user"; chown "$BENCH_UID" "$S/key2.user"
    bg onetun $HOST $(rootless) "$ONETUN" "127.0.0.1:$IPORT:10.9.0.1:$IPORT:TCP" "127.0.0.1:$PORT:10.9.0.1:$PORT:TCP" \
        --private-key-file "$S/key2.user" --endpoint-public-key "$(wg pubkey <$S/key1)" --endpoint-addr 10.77.0.1:51821 \
        --endpoint-bind-addr 10.77.0.2:51822 --source-peer-ip 10.9.0.2 --keep-alive 25 --max-transmission-unit 1420 --log warn
}
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

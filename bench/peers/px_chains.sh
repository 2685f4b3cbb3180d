#!/bin/sh
# proxychains, by a SOCKS proxy on the host's loopback (microsocks), to a server beyond the host
. "$(dirname "$0")/../lib.sh"
METRICS=$PROXIED
peer_start() {
    proxy_up socks5 || return 1
    printf 'strict_chain\nquiet_mode\n[ProxyList]\nsocks5 127.0.0.1 1080\n' >"$S/chains.conf"
    CLI="$HOST proxychains4 -q -f $S/chains.conf"
}
peer_stop() { ns_del host up; }
main "$@"

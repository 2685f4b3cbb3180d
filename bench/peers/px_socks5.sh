#!/bin/sh
# a view whose way out is a SOCKS proxy on the host's loopback (microsocks), to a server beyond the host
. "$(dirname "$0")/../lib.sh"
METRICS=$PROXIED
peer_start() { proxy_up socks5 && proxy_view socks5:127.0.0.1:1080; }
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

#!/bin/sh
# a view whose way out is a proxy by CONNECT on the host's loopback (tinyproxy), to a server beyond the host
. "$(dirname "$0")/../lib.sh"
METRICS=$PROXIED
peer_start() { proxy_up http && proxy_view http:127.0.0.1:8888; }
peer_stop() { viewnet_down; ns_del host up; }
main "$@"

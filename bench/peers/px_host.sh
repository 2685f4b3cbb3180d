#!/bin/sh
# a program on the host, to a server beyond it: no proxy, no view
. "$(dirname "$0")/../lib.sh"
METRICS=$PROXIED
peer_start() { beyond; CLI=$HOST; }
peer_stop() { ns_del host up; }
main "$@"

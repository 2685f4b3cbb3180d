#!/bin/sh
# viewnet: two views on the user-space switch, MTU 1500, TAP ports (all as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
peer_start() { viewnet_user 0666 && viewnet_pair; }
peer_stop() { viewnet_down; }
main "$@"

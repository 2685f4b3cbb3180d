#!/bin/sh
# viewnet: two views on smol stacks, ring ports of the user-space switch, MTU 1500 (all as an unprivileged uid)
. "$(dirname "$0")/../lib.sh"
peer_start() { viewnet_user 0600 && smol_pair 1500; }
peer_stop() { viewnet_down; }
main "$@"

#!/bin/sh
# viewnet: as smol.sh with the largest MTU that both sides take
. "$(dirname "$0")/../lib.sh"
peer_start() { viewnet_user 0600 && viewnet_pair "--kind smol" 65520; }
peer_stop() { viewnet_down; }
main "$@"

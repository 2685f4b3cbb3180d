#!/bin/sh
# viewnet: as viewnet.sh with /dev/net/tun closed: veth pairs, packet-socket ports
. "$(dirname "$0")/../lib.sh"
peer_start() { viewnet_user 0600 && viewnet_pair; }
peer_stop() { viewnet_down; }
main "$@"

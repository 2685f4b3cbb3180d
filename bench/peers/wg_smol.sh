#!/bin/sh
# WireGuard, views on smol stacks at both ends, across a veth (all as an unprivileged uid)
KIND=smol
. "$(dirname "$0")/wg_viewnet.sh"

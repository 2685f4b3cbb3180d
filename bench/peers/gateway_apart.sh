#!/bin/sh
# as gateway.sh, the gateway in a process of its own
APART=--apart
. "$(dirname "$0")/gateway.sh"

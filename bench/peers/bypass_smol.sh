#!/bin/sh
# as bypass, from a view on a smol stack
STACK=smol; export STACK; . "$(dirname "$0")/bypass.sh"

//! Client library of viewnet.

#![forbid(unsafe_code)]

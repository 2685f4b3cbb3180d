//! The unsafe room: system calls that nix and rustix lack, one per function.

pub(crate) mod probe;

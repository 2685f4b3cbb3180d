//! The unsafe room of the command: system calls that no crate offers, one per function.
#![allow(unsafe_code)]

pub(crate) mod ioctl;
pub(crate) mod probe;
pub(crate) mod process;
pub(crate) mod ptrace;
pub(crate) mod seccomp;
pub(crate) mod socket;

//! The `LD_PRELOAD` accelerator of viewnet.
//!
//! # Theory of operation
//! A view needs no preloaded library: its mechanism is the supervisor's seccomp filter, which static programs and
//! libc's own calls cannot pass by. This library spares a dynamic program on a smol stack most of the traps. A call
//! that it exports ([`hooks`]) is decided by [`interpose::ops`]: either it is answered here, or the kernel answers it on the
//! AF_UNIX descriptor under a number that the filter exempts, or libc's own function is called, which traps as it
//! does in programs without this library.
//!
//! On stacks of any kind it has the supervisor open the files about the network ([`files`]).
//!
//! It answers what the stack shows on its board (`msocket_proto::board`, `interpose::boards`) and nothing else. Nothing is
//! remembered of a descriptor but a guess that costs a call if it is wrong, so that close(2), dup2(2), exec(3) and
//! other processes need not be watched.
//!
//! Our own work uses system calls and no libc, so that it can be done in a signal handler, in a constructor, and
//! between fork(2) and exec(3): no allocation, no lock, no thread-local variable.

#![cfg_attr(test, allow(dead_code))]

#[cfg(not(test))]
mod absent;
mod files;
mod hooks;

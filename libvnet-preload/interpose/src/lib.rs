//! What libvnet-preload and libmsocket put before libc's socket calls.
//!
//! # Theory of operation
//! A call that is exported ([`mod@hooks`]) is decided in two steps. On the stack of a view that is a library, [`ops`]
//! spares the program a trap: either it is answered here, from the board that the stack shows
//! ([`msocket_proto::board`], [`boards`]), or the kernel answers it on the AF_UNIX descriptor under a number that the
//! filter exempts. On a socket of such a stack where nobody traps, [`calls`] asks the stack itself. All else is libc's.
//!
//! Nothing is remembered of a descriptor but a guess that costs a call if it is wrong, so that close(2), dup2(2),
//! exec(3) and other processes need not be watched.
//!
//! Our own work uses system calls and no libc, so that it can be done in a signal handler, in a constructor, and
//! between fork(2) and exec(3): no allocation, no lock, no thread-local variable.

#![cfg_attr(test, allow(dead_code))]

pub(crate) mod boards;
pub(crate) mod calls;
pub mod config;
pub mod hooks;
pub mod ioctl;
pub(crate) mod lines;
pub(crate) mod many;
pub(crate) mod messages;
pub mod ops;
pub mod sys;

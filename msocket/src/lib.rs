//! Client library of viewnet.
//!
//! [`board`] is what a stack in a library shows of its sockets. [`mod@line`] is the control connection that every part of viewnet speaks (JSON lines with descriptors);
//! [`proto`] holds the messages a stack's path understands.

#![forbid(unsafe_code)]

pub mod board;
pub mod line;
pub mod proto;

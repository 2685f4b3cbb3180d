//! What the parts of viewnet say to each other.
//!
//! [`mod@line`] is the control connection that every part of viewnet speaks (JSON lines with descriptors);
//! [`proto`] holds the messages a stack's path understands; [`board`] is what a stack in a library shows of its
//! sockets; [`mod@ioctl`] is what requests on sockets carry.

#![forbid(unsafe_code)]

pub mod ask;
pub mod board;
pub mod ioctl;
pub mod line;
pub mod proto;

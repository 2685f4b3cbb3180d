//! What the parts of viewnet say to each other.
//!
//! [`mod@line`] is the control connection that every part of viewnet speaks (JSON lines with descriptors);
//! [`proto`] holds the messages a stack's path understands.

#![forbid(unsafe_code)]

pub mod line;
pub mod proto;

//! The network layer from outside: frames in, frames out, in virtual time.

mod arp;
mod world;

//! The smol stack: TCP/IP in a library, with no privilege at all.
//!
//! # Theory of operation
//! ```text
//!  program ── AF_UNIX socket ── pump ─┐                    ┌─ port ── ring, TAP, VDE … ── switch
//!     └─ trapped call ── call ────── host ── engine ──────┤
//!                                      sockets · tcp · net └─ loopback
//! ```
//! The *engine* is sans-I/O: time, frames and requests go in; frames, replies and deadlines come out. It has
//! no clock, no thread, no descriptor and no randomness but a seed. From the wire upwards: [`net`] is
//! Ethernet, ARP, NDP, IPv4, IPv6, ICMP and group management over the [`tables`] of interfaces, addresses,
//! routes and neighbours; [`tcp`] is one connection's protocol machine behind a trait; `sockets` finds the
//! socket of a packet and knows every option; [`netlink`] shows and changes the tables.
//!
//! The shell around it: the `host` owns engines, one epoll set and the clock; the `pump` moves bytes between
//! engine and the descriptors that programs hold; `port` moves frames. A trapped call arrives as a
//! [`call::SocketCall`] and leaves as a [`call::Done`], at once or later.

pub mod call;
pub mod engine;
pub mod host;
pub(crate) mod mib;
pub mod net;
pub mod netlink;
pub mod port;
mod pump;
pub mod relay;
pub(crate) mod sockets;
pub mod tables;
mod tally;
pub mod tcp;
mod wheel;

pub use sockets::options::PumpOptions;

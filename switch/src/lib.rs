//! User-space Ethernet switch with 802.1Q and virtio-net headers.
//!
//! # Theory of operation
//! The core takes time and frames and says where each frame goes; it reads no clock and touches no
//! descriptor. From the wire inwards:
//!
//! - [`frame`]: Ethernet addresses and the 802.1Q tag, a checked view and the three ways a tag changes;
//! - [`vlan`]: VLAN numbers, sets of them, and what a port lets in and out;
//! - [`fdb`]: the forwarding database, (VLAN, address) → port, with age;
//! - [`port`]: a port's name, rules, offloads and counters;
//! - [`forward`]: the decisions, pure functions;
//! - [`switch`]: the [`switch::Switch`] that owns the above;
//! - [`offload`]: the virtio-net header, cutting of super-segments and filling of checksums, done on the
//!   way out and only for a port that cannot take the frame as it is.
//!
//! Around it lies the shell: [`ports`] open and move frames through TAPs, packet sockets and rings of shared
//! memory, [`serve`] is the loop (one thread, one epoll) and the control socket, [`control`] its messages, [`client`] the other
//! end; [`console`] is the management console of vde_switch, a core of its own.
//!
//! There is no spanning tree: two links between the same two switches make a loop.

pub mod client;
pub mod console;
pub mod control;
pub mod fdb;
pub mod forward;
pub mod frame;
pub mod offload;
pub mod port;
pub mod ports;
pub mod serve;
pub mod switch;
pub mod vlan;

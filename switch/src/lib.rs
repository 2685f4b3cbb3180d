//! User-space Ethernet switch with 802.1Q and virtio-net headers.
//!
//! # Theory of operation
//! The core takes time and frames and says where each frame goes; it reads no clock and touches no
//! descriptor. From the wire inwards:
//!
//! - [`frame`]: Ethernet addresses and the 802.1Q tag, a checked view and the three ways a tag changes;
//! - [`vlan`]: VLAN numbers, sets of them, and what a port lets in and out;
//! - [`fdb`]: the forwarding database, (VLAN, address) → port, with age;
//! - [`guard`]: what a port may bring in: rates, storms, stations;
//! - [`qos`]: priorities, rates, and the queues of ports that have some;
//! - [`port`]: a port's name, rules, offloads and counters;
//! - [`forward`]: the decisions, pure functions;
//! - [`link`]: what a port leads to, as text;
//! - [`mirror`]: copies of some ports' frames for another one;
//! - [`stp`]: the rapid spanning tree, which says what ports may do, so that there is no loop;
//! - [`switch`]: the [`switch::Switch`] that owns the above;
//! - [`offload`]: the virtio-net header, cutting of super-segments and filling of checksums, done on the
//!   way out and only for a port that cannot take the frame as it is;
//! - [`impair`]: links that misbehave on purpose;
//! - [`events`]: what happens, for those who want to be told;
//! - [`metrics`]: the counters as Prometheus reads them;
//! - [`capture`]: what a switch tells about the frames it moves: filters, pcapng, text;
//! - [`vde`], [`vxlan`], [`framing`]: how frames lie in datagrams and streams, and who may get which.
//!
//! Around it lies the shell: [`ports`] open and move frames through TAPs, packet sockets and rings of shared
//! memory, [`serve`] is the loop (one thread, one epoll) and the control socket, [`control`] its messages, [`client`] the other
//! end; [`console`] is the management console of vde_switch, a core of its own.
//!
//! The spanning tree is off unless it is turned on: two links between the same two switches make a loop then.

pub mod capture;
pub mod client;
pub mod console;
pub mod control;
pub mod events;
pub mod fdb;
pub mod forward;
pub mod frame;
pub mod framing;
pub mod guard;
pub mod impair;
pub mod link;
pub mod metrics;
pub mod mirror;
pub mod offload;
pub mod port;
pub mod ports;
pub mod qos;
pub mod serve;
pub mod stp;
pub mod switch;
pub mod vde;
pub mod vlan;
pub mod vxlan;

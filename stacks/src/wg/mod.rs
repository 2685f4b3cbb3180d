//! WireGuard: a link of a stack whose far end is a peer on the internet.
//!
//! # Theory of operation
//! A tunnel is a process of its own, on the host's network, that speaks two languages. To peers it speaks WireGuard,
//! over UDP sockets of the host. To stacks it speaks as a switch does: they plug an interface into it by ring, TAP or
//! packet socket, and cannot tell the difference, but that nobody answers ARP there (the interface is IFF_NOARP). So
//! encryption is never in an engine's thread, and keys are never in a process that has programs' memory or a stack.
//! ```text
//!   stack ── frames, super-segments of 64 KiB ──► tunnel ── trains of datagrams (UDP GSO) ──► peer
//!         ◄──────────── coalesced again ─────────        ◄────────── (UDP GRO) ───────────
//! ```
//! - [`quick`] reads the files that wg-quick(8) reads;
//! - [`tunnel`] is the core: cryptokey routing, sessions, roaming, timers; bytes in, bytes out;
//! - [`batch`] has what leaves it: trains of datagrams for the host, coalesced segments for the stack;
//! - [`names`] takes questions to the machine's nameservers to those of the file;
//! - [`serve`] is the shell: sockets, the plug, the control socket.
//!
//! **What does not go through the tunnel goes nowhere**: the stack has no other link, and when the tunnel dies its
//! interface loses its carrier. Read: "WireGuard: Next Generation Kernel Network Tunnel" (Donenfeld), wg(8).

pub mod batch;
pub mod names;
pub mod quick;
pub mod serve;
pub mod tunnel;

pub use quick::{Config, Key};

/// The hardware address of an interface that is plugged into a tunnel: nobody is there to meet another.
pub const STACK_MAC: [u8; 6] = [0x02, 0x77, 0x67, 0, 0, 1];
/// That of the tunnel.
pub const TUNNEL_MAC: [u8; 6] = [0x02, 0x77, 0x67, 0, 0, 2];
/// The interface's MTU if neither the file says one nor the host's routes do ([`serve::mtu`]): 1500 less IPv6, UDP and
/// WireGuard.
pub const MTU: u32 = 1420;

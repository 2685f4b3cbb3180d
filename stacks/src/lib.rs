//! TCP/IP stacks behind one trait.
//!
//! A stack is a protocol engine with interfaces, addresses and routes of its own; a program gets sockets
//! from it. The kinds:
//! - [`kernel`]: a Linux network namespace in the user's own user namespace, the real kernel TCP/IP;
//! - [`none`]: no network at all;
//! - [`steward`]: what is done for a stack as long as it lives: its leases, the nameserver on its loopback.
//! - [`remote`]: a stack that another process serves.
//!
//! [`dhcp6`] is DHCPv6, of servers and of clients. [`config`] is what a stack should look like, parsed once; [`stack`] is the contract every kind passes
//! (`tests/contract.rs`); [`serve`] answers for stacks on their paths.

pub mod attach;
pub mod autoconf;
pub mod config;
pub mod dhcp6;
pub mod filter;
pub mod gateway;
pub mod kernel;
pub mod none;
pub mod remote;
pub mod serve;
pub mod smol;
pub mod stack;
pub mod steward;
pub mod wg;

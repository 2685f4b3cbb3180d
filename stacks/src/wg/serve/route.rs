//! How long a tunnel's packets may be, by the host's routes to its peers.
//!
//! # Theory of operation
//! As wg-quick(8) does it where a file has no `MTU`: the route to each endpoint knows its MTU, the greatest counts; without
//! endpoints that of the default route does. 80 bytes of it are IPv6's header, UDP's and WireGuard's. A socket that is
//! connected asks the kernel; nothing is sent. What is longer than a way farther on takes is fragmented there or here
//! ([`super::sockets`]).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::kernel::sys::path_mtu;
use crate::wg::quick::{Config, Endpoint, MTUS};

/// IPv6, UDP, and WireGuard's header and tag.
const OVERHEAD: u32 = 40 + 8 + 32;
/// The MTU of a host without routes: Ethernet's.
const ETHERNET: u32 = 1500;
/// No link of IPv6 has less (RFC 8200 clause 5).
const LEAST: u32 = 1280;
/// The port of nobody (RFC 863).
const DISCARD: u16 = 9;

/// The MTU of a tunnel whose file has none; `found` is what [`super::look_up`] did.
pub fn mtu(config: &Config, found: &[(usize, SocketAddr)]) -> u32 {
    let said = config.peers.iter().filter_map(|peer| peer.endpoint.as_ref().and_then(Endpoint::address));
    let endpoints = said.chain(found.iter().map(|(_, address)| *address));
    // Addresses of documentation (RFC 5737, RFC 3849), which go where all goes.
    let anybody =
        [Ipv4Addr::new(198, 51, 100, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    let anybody = anybody.into_iter().map(|address| SocketAddr::new(address, DISCARD));
    let way = endpoints.filter_map(route).max().or_else(|| anybody.filter_map(route).max());
    way.unwrap_or(ETHERNET).saturating_sub(OVERHEAD).clamp(LEAST, *MTUS.end())
}

/// The MTU of the route to `to`, if there is one.
fn route(to: SocketAddr) -> Option<u32> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    connect(&socket, &to).ok()?;
    path_mtu(socket.as_fd(), to.is_ipv6()).ok()
}

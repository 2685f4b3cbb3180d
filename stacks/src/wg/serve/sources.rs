//! From which of the host's addresses a peer is answered.
//!
//! # Theory of operation
//! What a peer sent to one address of the host is not answered from another one: who is behind an address translator or a
//! stateful filter would not hear it. Mostly the host's routes choose that address anyway; then they go on choosing, so
//! that a host that moves is followed. Where they would choose another one, the address goes with each datagram
//! (IP_PKTINFO, ip(7); IPV6_PKTINFO, ipv6(7)), until the host has it no more. Learned is only from datagrams that a peer
//! authenticated, but whoever has just sent something is answered from where it came to.

use std::net::{IpAddr, SocketAddr};

use rustc_hash::FxHashMap;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, getsockname, socket_with};

/// Most addresses of peers that are remembered: as many as peers can be, which may each have been elsewhere once.
const MAX_SOURCES: usize = 2 * crate::wg::quick::MAX_PEERS;

#[derive(Debug, Default)]
pub(super) struct Sources {
    known: FxHashMap<SocketAddr, Source>,
    /// Who sent the last datagram, and where to.
    last: Option<(SocketAddr, IpAddr)>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    address: IpAddr,
    /// The host's routes would choose another one.
    fixed: bool,
}

impl Sources {
    /// A datagram came from `from` to our address `to`.
    pub(super) fn came(&mut self, from: SocketAddr, to: Option<IpAddr>) {
        self.last = to.map(|to| (from, to));
    }

    /// It was authentic.
    pub(super) fn learn(&mut self) {
        let Some((peer, address)) = self.last else { return };
        if self.known.get(&peer).is_some_and(|source| source.address == address) {
            return;
        }
        if self.known.len() >= MAX_SOURCES {
            self.known.clear();
        }
        self.known.insert(peer, Source { address, fixed: chosen(peer) != Some(address) });
    }

    /// From where `peer` is to be answered, if the host's routes shall not choose.
    pub(super) fn of(&self, peer: SocketAddr) -> Option<IpAddr> {
        match self.known.get(&peer) {
            Some(source) => Some(source.address).filter(|_| source.fixed),
            None => self.last.filter(|(from, _)| *from == peer).map(|(_, to)| to),
        }
    }

    /// The host has no such address any more.
    pub(super) fn forget(&mut self, peer: SocketAddr) {
        self.known.remove(&peer);
        self.last = None;
    }
}

/// The address that the host's routes choose.
fn chosen(to: SocketAddr) -> Option<IpAddr> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    connect(&socket, &to).ok()?;
    SocketAddr::try_from(getsockname(&socket).ok()?).ok().map(|own| own.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_routes_would_not_choose_is_fixed() {
        let [peer, other]: [SocketAddr; 2] = ["127.0.0.1:9", "127.0.0.2:9"].map(|text| text.parse().unwrap());
        let [chosen, another]: [IpAddr; 2] = ["127.0.0.1", "127.0.0.77"].map(|text| text.parse().unwrap());
        let mut sources = Sources::default();
        sources.came(peer, Some(another));
        assert_eq!((sources.of(peer), sources.of(other)), (Some(another), None), "an answer at once");
        sources.learn();
        sources.came(other, Some(another));
        assert_eq!(sources.of(peer), Some(another));
        sources.came(peer, Some(chosen));
        sources.learn();
        assert_eq!(sources.of(peer), None);
        sources.came(peer, Some(another));
        assert_eq!(sources.of(peer), None, "nobody has authenticated it");
        sources.learn();
        sources.forget(peer);
        assert_eq!(sources.of(peer), None);
        for port in 0..=u16::MAX {
            sources.came(SocketAddr::new(chosen, port), None);
            sources.learn();
        }
        assert!(sources.known.is_empty());
    }
}

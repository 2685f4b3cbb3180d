//! Which of our addresses a datagram carries.
//!
//! # Theory of operation
//! IPv4 as inet_select_addr (net/ipv4/devinet.c): the interface's first primary address of sufficient scope,
//! one in the gateway's subnet before others, else one of another interface. IPv6 as RFC 6724 clause 5, with
//! the policy table of clause 2.1, in Linux's reading of it (ipv6_get_saddr_eval, net/ipv6/addrconf.c):
//! among equals the youngest address wins.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Net;
use super::routes::Owned;
use crate::smol::tables::{Address, IfIndex, LOOPBACK};

/// RFC 6724 clause 2.1 (and Linux's ip6addrlbl table): prefix, its length, label.
const LABELS: [(Ipv6Addr, u8, u8); 10] = [
    (Ipv6Addr::LOCALHOST, 128, 0),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xFFFF, 0, 0), 96, 4),
    (Ipv6Addr::UNSPECIFIED, 96, 3),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 6),
    (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28, 7),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 2),
    (Ipv6Addr::new(0x3FFE, 0, 0, 0, 0, 0, 0, 0), 16, 12),
    (Ipv6Addr::new(0xFEC0, 0, 0, 0, 0, 0, 0, 0), 10, 11),
    (Ipv6Addr::new(0xFC00, 0, 0, 0, 0, 0, 0, 0), 7, 5),
    (Ipv6Addr::UNSPECIFIED, 0, 1),
];

impl Net {
    /// The IPv4 address for datagrams that leave by `link`, to a gateway if there is one.
    pub(super) fn select_v4(&self, link: IfIndex, gateway: Option<Ipv4Addr>, scope: u8) -> Option<Ipv4Addr> {
        let primaries = || {
            self.tables.addresses.iter().filter_map(|address| match address.net {
                IpNet::V4(net) if address.flags & libc::IFA_F_SECONDARY == 0 => Some((address, net)),
                _ => None,
            })
        };
        let own = |address: &Address| address.link == link && address.scope <= scope;
        let near = primaries()
            .find(|(address, net)| own(address) && gateway.is_none_or(|gateway| net.contains(&gateway)));
        let near = near.or_else(|| primaries().find(|(address, _)| own(address)));
        let wide =
            |(address, _): &(&Address, _)| address.scope != libc::RT_SCOPE_LINK && address.scope <= scope;
        near.or_else(|| primaries().find(wide)).map(|(_, net)| net.addr())
    }

    /// The IPv6 address for datagrams to `to` that leave by `link`.
    pub(super) fn select_v6(&self, to: Ipv6Addr, link: IfIndex) -> Option<Ipv6Addr> {
        let near_only = to.is_multicast() || to.is_unicast_link_local();
        let candidates = self.tables.addresses.iter().rev().filter_map(|address| match address.net {
            IpNet::V6(net) => Some((address, net)),
            IpNet::V4(_) => None,
        });
        let mut best = None;
        for (address, net) in candidates {
            let owned = Owned { link: address.link, flags: address.flags };
            if !owned.is_usable() || (near_only && address.link != link) {
                continue;
            }
            let candidate = net.addr();
            if candidate.is_loopback() && link != LOOPBACK {
                continue;
            }
            let rank = (
                candidate == to,
                appropriate(scope(candidate), scope(to)),
                address.flags & (libc::IFA_F_DEPRECATED | libc::IFA_F_OPTIMISTIC) == 0,
                address.link == link,
                label(candidate) == label(to),
                (candidate.to_bits() ^ to.to_bits()).leading_zeros().min(u32::from(net.prefix_len())),
            );
            if best.is_none_or(|(highest, _)| rank > highest) {
                best = Some((rank, candidate));
            }
        }
        best.map(|(_, address)| address)
    }

    /// The first usable link-local address of an interface.
    pub(super) fn link_local(&self, link: IfIndex) -> Option<Ipv6Addr> {
        self.tables.addresses.iter().find_map(|address| match address.net {
            IpNet::V6(net) if address.link == link && net.addr().is_unicast_link_local() => {
                let usable = Owned { link, flags: address.flags }.is_usable();
                usable.then(|| net.addr())
            }
            _ => None,
        })
    }
}

/// RFC 4007 scopes; loopback is interface-local.
fn scope(address: Ipv6Addr) -> u8 {
    if address.is_multicast() {
        address.octets()[1] & 0x0F
    } else if address.is_loopback() {
        1
    } else if address.is_unicast_link_local() {
        2
    } else if address.segments()[0] & 0xFFC0 == 0xFEC0 {
        5
    } else {
        14
    }
}

/// Rule 2: the smallest scope that reaches; else the largest that does not.
fn appropriate(scope: u8, wanted: u8) -> i16 {
    if scope >= wanted { 128 - i16::from(scope) } else { i16::from(scope) }
}

fn label(address: Ipv6Addr) -> u8 {
    let matches = |&&(prefix, length, _): &&(Ipv6Addr, u8, u8)| {
        (address.to_bits() ^ prefix.to_bits()).leading_zeros() >= u32::from(length)
    };
    LABELS.iter().find(matches).map_or(1, |(.., label)| *label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_longest_prefix() {
        let of = |text: &str| label(text.parse().unwrap());
        assert_eq!([of("::1"), of("::2"), of("::ffff:1.2.3.4"), of("2001:db8::1")], [0, 3, 4, 1]);
        assert_eq!([of("2001::1"), of("2001:10::1"), of("2002::1"), of("fd00::1")], [6, 7, 2, 5]);
    }

    #[test]
    fn the_smallest_scope_that_reaches_is_best() {
        assert!(appropriate(14, 14) > appropriate(2, 14));
        assert!(appropriate(2, 2) > appropriate(14, 2));
        assert!(appropriate(14, 2) > appropriate(1, 2));
        assert!(appropriate(5, 14) > appropriate(2, 14));
    }
}

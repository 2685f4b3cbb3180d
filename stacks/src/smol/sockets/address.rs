//! `struct sockaddr` in and out: sockaddr_in, sockaddr_in6, sockaddr_ll.
//!
//! # Theory of operation
//! Inside the engine an address of IPv4 is an IPv4 address on every socket: the v4-mapped form exists only
//! between here and the programs of IPv6 sockets. Layouts: ip(7), ipv6(7), packet(7); netlink has its own. What is
//! wrong with an address differs by protocol and call; the checks that are the same everywhere are here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use crate::smol::tables::IfIndex;

/// Bytes of a sockaddr_in.
pub(crate) const IN_LEN: usize = 16;
/// Bytes of a sockaddr_in6 that must be there (RFC 2133's, without the scope id).
pub(crate) const IN6_MIN: usize = 24;
/// Bytes of a sockaddr_in6.
pub(crate) const IN6_LEN: usize = 28;
/// Bytes of a sockaddr_ll.
pub(crate) const LL_LEN: usize = 20;
/// Bytes of a sockaddr_storage: more is EINVAL.
pub(crate) const STORAGE_LEN: usize = 128;

/// Which addresses a socket's program speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Domain {
    /// AF_INET
    V4,
    /// AF_INET6
    V6,
}

impl Domain {
    /// The address that stands for all of its own.
    pub(crate) fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// AF_*
    pub(crate) fn family(self) -> i32 {
        match self {
            Self::V4 => libc::AF_INET,
            Self::V6 => libc::AF_INET6,
        }
    }
}

/// Address and port, and what belongs to them in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Never v4-mapped.
    pub(crate) address: IpAddr,
    /// Port, protocol or 0.
    pub(crate) port: u16,
    /// sin6_scope_id.
    pub(crate) scope: u32,
    /// sin6_flowinfo, in the machine's order.
    pub(crate) flow: u32,
}

impl Endpoint {
    /// Without scope and flow.
    pub(crate) fn new(address: IpAddr, port: u16) -> Self {
        Self { address: address.to_canonical(), port, scope: 0, flow: 0 }
    }

    /// As heard on an interface: the scope is that, if the address needs one.
    pub(crate) fn heard(address: IpAddr, port: u16, link: IfIndex, flow: u32) -> Self {
        Self { scope: scope_of(address, link), flow, ..Self::new(address, port) }
    }

    /// The interface that the scope names.
    pub(crate) fn link(&self) -> Option<IfIndex> {
        (self.scope != 0 && needs_scope(self.address)).then_some(IfIndex(self.scope))
    }
}

/// Whether an address means something on one interface only (RFC 4007).
pub(crate) fn needs_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.octets();
            v6.is_unicast_link_local() || (first == 0xff && matches!(second & 0xf, 1 | 2))
        }
    }
}

/// The scope id of an address heard on an interface.
pub(crate) fn scope_of(address: IpAddr, link: IfIndex) -> u32 {
    if needs_scope(address) { link.0 } else { 0 }
}

/// sa_family, if there are enough bytes for one.
pub(crate) fn family(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().map(|b| u16::from_ne_bytes(*b).into())
}

/// A sockaddr_in; the family was judged.
pub(crate) fn parse_in(bytes: &[u8]) -> Result<Endpoint, Errno> {
    let b = bytes.get(..IN_LEN).ok_or(Errno::EINVAL)?;
    let address = Ipv4Addr::new(b[4], b[5], b[6], b[7]);
    Ok(Endpoint::new(address.into(), u16::from_be_bytes([b[2], b[3]])))
}

/// A sockaddr_in6; the family was judged.
pub(crate) fn parse_in6(bytes: &[u8]) -> Result<Endpoint, Errno> {
    let b = bytes.get(..IN6_MIN).ok_or(Errno::EINVAL)?;
    let octets: [u8; 16] = b[8..24].try_into().expect("sixteen bytes");
    let scope = bytes.get(24..28).map_or(0, |s| u32::from_ne_bytes(s.try_into().expect("four bytes")));
    Ok(Endpoint {
        address: Ipv6Addr::from(octets).to_canonical(),
        port: u16::from_be_bytes([b[2], b[3]]),
        scope,
        flow: u32::from_be_bytes([b[4], b[5], b[6], b[7]]),
    })
}

/// Whether the bytes of a sockaddr_in6 are a v4-mapped address.
pub(crate) fn is_mapped(bytes: &[u8]) -> bool {
    bytes.get(8..24).is_some_and(|b| b[..10] == [0; 10] && b[10..12] == [0xff; 2])
}

/// Appends the `struct sockaddr` of an endpoint.
pub(crate) fn write(domain: Domain, endpoint: &Endpoint, out: &mut Vec<u8>) {
    out.extend_from_slice(&(domain.family() as u16).to_ne_bytes());
    out.extend_from_slice(&endpoint.port.to_be_bytes());
    match (domain, endpoint.address) {
        (Domain::V4, IpAddr::V4(v4)) => {
            out.extend_from_slice(&v4.octets());
            out.extend_from_slice(&[0; 8]);
        }
        // An IPv4 socket knows no IPv6 address; nothing else can be said of one.
        (Domain::V4, IpAddr::V6(_)) => out.extend_from_slice(&[0; 12]),
        (Domain::V6, address) => {
            let v6 = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            out.extend_from_slice(&endpoint.flow.to_be_bytes());
            out.extend_from_slice(&v6.octets());
            out.extend_from_slice(&endpoint.scope.to_ne_bytes());
        }
    }
}

/// The `struct sockaddr` of an endpoint.
pub(crate) fn emit(domain: Domain, endpoint: &Endpoint) -> Vec<u8> {
    let mut out = Vec::with_capacity(IN6_LEN);
    write(domain, endpoint, &mut out);
    out
}

/// What a sockaddr_ll says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LinkLayer {
    /// ETH_P_*
    pub(crate) protocol: u16,
    /// sll_ifindex
    pub(crate) link: i32,
    /// ARPHRD_*
    pub(crate) hardware: u16,
    /// PACKET_HOST …
    pub(crate) kind: u8,
    /// sll_halen
    pub(crate) length: u8,
    /// sll_addr
    pub(crate) address: [u8; 8],
}

/// A sockaddr_ll; the family was judged.
pub(crate) fn parse_ll(bytes: &[u8]) -> Result<LinkLayer, Errno> {
    let b = bytes.get(..LL_LEN).ok_or(Errno::EINVAL)?;
    Ok(LinkLayer {
        protocol: u16::from_be_bytes([b[2], b[3]]),
        link: i32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        hardware: u16::from_ne_bytes([b[8], b[9]]),
        kind: b[10],
        length: b[11],
        address: b[12..20].try_into().expect("eight bytes"),
    })
}

/// Appends a sockaddr_ll.
pub(crate) fn write_ll(ll: &LinkLayer, out: &mut Vec<u8>) {
    out.extend_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    out.extend_from_slice(&ll.protocol.to_be_bytes());
    out.extend_from_slice(&ll.link.to_ne_bytes());
    out.extend_from_slice(&ll.hardware.to_ne_bytes());
    out.extend_from_slice(&[ll.kind, ll.length]);
    out.extend_from_slice(&ll.address);
}

/// A sockaddr_ll.
pub(crate) fn emit_ll(ll: &LinkLayer) -> Vec<u8> {
    let mut out = Vec::with_capacity(LL_LEN);
    write_ll(ll, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_an_ipv4_address_inside() {
        let bytes = emit(Domain::V6, &Endpoint::new("10.0.0.1".parse().unwrap(), 80));
        assert_eq!(bytes.len(), IN6_LEN);
        assert!(is_mapped(&bytes));
        assert_eq!(parse_in6(&bytes).unwrap(), Endpoint::new("10.0.0.1".parse().unwrap(), 80));
    }

    #[test]
    fn scope_and_flow_survive() {
        let mut endpoint = Endpoint::heard("fe80::1".parse().unwrap(), 53, IfIndex(3), 0x12345);
        assert_eq!((endpoint.scope, endpoint.link()), (3, Some(IfIndex(3))));
        assert_eq!(parse_in6(&emit(Domain::V6, &endpoint)).unwrap(), endpoint);
        endpoint.address = "2001:db8::1".parse().unwrap();
        assert_eq!(endpoint.link(), None);
    }

    #[test]
    fn short_addresses_are_einval() {
        assert_eq!(parse_in(&[2, 0, 0, 80]), Err(Errno::EINVAL));
        assert_eq!(parse_in6(&[0; 23]), Err(Errno::EINVAL));
        assert_eq!(parse_ll(&[0; 19]), Err(Errno::EINVAL));
    }
}

//! Router advertisements (RFC 4861 clause 4.2, RFC 8106). A core.

use std::net::Ipv6Addr;
use std::time::Duration;

use ipnet::Ipv6Net;

/// How often everybody is told, unasked (MaxRtrAdvInterval, RFC 4861 clause 6.2.1).
pub const INTERVAL: Duration = Duration::from_secs(200);
/// Router solicitation, router advertisement.
pub const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Options: a prefix, nameservers.
const PREFIX: u8 = 3;
const RDNSS: u8 = 25;
/// For how long we are a router, in seconds: three intervals.
const ROUTER_LIFETIME: u16 = 600;
/// For how long a prefix's addresses are good, and preferred, in seconds (RFC 4861 clause 6.2.1).
const VALID: u32 = 2_592_000;
const PREFERRED: u32 = 604_800;

/// An advertisement, its checksum empty: this router, its network if hosts can choose addresses in it (64 bits, RFC
/// 4862), and `nameserver`.
pub fn advertisement(mac: [u8; 6], mtu: u32, net: Ipv6Net, nameserver: Option<Ipv6Addr>) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 64, 0];
    message.extend_from_slice(&ROUTER_LIFETIME.to_be_bytes());
    // Reachable time and retransmission timer: as hosts like.
    message.extend_from_slice(&[0; 8]);
    // Source link-layer address.
    message.extend_from_slice(&[1, 1]);
    message.extend_from_slice(&mac);
    message.extend_from_slice(&[5, 1, 0, 0]);
    message.extend_from_slice(&mtu.to_be_bytes());
    // Prefix: on the link, and good for addresses.
    let flags = if net.prefix_len() == 64 { 0xC0 } else { 0x80 };
    message.extend_from_slice(&[PREFIX, 4, net.prefix_len(), flags]);
    message.extend_from_slice(&VALID.to_be_bytes());
    message.extend_from_slice(&PREFERRED.to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&net.network().octets());
    if let Some(nameserver) = nameserver {
        message.extend_from_slice(&[RDNSS, 3, 0, 0]);
        message.extend_from_slice(&u32::from(ROUTER_LIFETIME).to_be_bytes());
        message.extend_from_slice(&nameserver.octets());
    }
    message
}

/// The options of an advertisement whose router routes, as far as they are whole; nothing of what is none.
fn options(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = message.split_first_chunk::<16>();
    let whole = whole.filter(|(head, _)| head[0] == ADVERTISEMENT && head[6..8] != [0, 0]);
    let mut rest = whole.map_or(&[][..], |(_, rest)| rest);
    std::iter::from_fn(move || {
        let length = usize::from(*rest.get(1)?) * 8;
        let (option, left) = rest.split_at_checked(length).filter(|_| length > 0)?;
        rest = left;
        Some(option)
    })
}

/// The first nameserver of an advertisement (RFC 8106 section 5.1).
pub fn nameserver(message: &[u8]) -> Option<Ipv6Addr> {
    let option = options(message).find(|option| option[0] == RDNSS && option.len() >= 24)?;
    option[8..24].first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes))
}

/// The network of an advertisement in which its hearer may choose an address, if its router routes: `None` for what
/// is none, or is malformed.
pub fn network(message: &[u8]) -> Option<Ipv6Net> {
    let option = options(message).find(|option| {
        option[0] == PREFIX && option.len() == 32 && option[2] == 64 && option[3] & 0xC0 == 0xC0
    })?;
    let prefix = option[16..].first_chunk::<16>()?;
    Ipv6Net::new((*prefix).into(), 64).ok().filter(|net| !net.addr().is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_host_learns_its_network() {
        let net: Ipv6Net = "fd00:10:0:2::1/64".parse().unwrap();
        let message = advertisement([2, 0, 0, 0, 0, 1], 1500, net, Some(net.addr()));
        assert_eq!((network(&message), nameserver(&message)), (Some(net.trunc()), Some(net.addr())));
        let wide: Ipv6Net = "fd00::1/48".parse().unwrap();
        assert_eq!(network(&advertisement([2, 0, 0, 0, 0, 1], 1500, wide, None)), None);
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (network(&bytes), nameserver(&bytes));
        }
    }
}

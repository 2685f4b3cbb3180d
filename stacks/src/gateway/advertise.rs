//! Router advertisements (RFC 4861 clause 4.2, RFC 8106). A core.

use std::net::Ipv6Addr;
use std::time::Duration;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use super::dhcp::Dhcp6;

/// How often everybody is told, unasked (MaxRtrAdvInterval, RFC 4861 clause 6.2.1).
pub const INTERVAL: Duration = Duration::from_secs(200);
/// Flags of an advertisement: addresses, and other things, by DHCPv6. Of a prefix: on the link, good for addresses.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;
/// The hop limit of what no router has forwarded (RFC 4861 clause 4.2).
pub const HOPS: u8 = 255;
/// Never over (RFC 4861 clause 4.6.2).
pub const INFINITY: u32 = u32::MAX;
/// Most prefixes and nameservers of an advertisement that are heard: more than any network has.
const MAX_HEARD: usize = 16;
/// Router solicitation, router advertisement (RFC 4861 clause 4).
pub const SOLICITATION: u8 = 133;
pub(crate) const ADVERTISEMENT: u8 = 134;
/// Options: a prefix, the link's MTU, nameservers.
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const RDNSS: u8 = 25;
/// For how long we are a router, in seconds: three intervals.
const ROUTER_LIFETIME: u16 = 600;
/// For how long a prefix's addresses are good, and preferred, in seconds (RFC 4861 clause 6.2.1).
const VALID: u32 = 2_592_000;
const PREFERRED: u32 = 604_800;

/// An advertisement, its checksum empty: this router, its network if hosts can choose addresses in it (64 bits, RFC
/// 4862), `nameserver`, and what DHCPv6 gives.
pub fn advertisement(
    mac: [u8; 6],
    mtu: u32,
    net: Ipv6Net,
    nameserver: Option<Ipv6Addr>,
    dhcp: Dhcp6,
) -> Vec<u8> {
    let flags = match dhcp {
        Dhcp6::Off => 0,
        Dhcp6::Stateless => OTHER,
        Dhcp6::Stateful => MANAGED | OTHER,
    };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 64, flags];
    message.extend_from_slice(&ROUTER_LIFETIME.to_be_bytes());
    // Reachable time and retransmission timer: as hosts like.
    message.extend_from_slice(&[0; 8]);
    // Source link-layer address.
    message.extend_from_slice(&[1, 1]);
    message.extend_from_slice(&mac);
    message.extend_from_slice(&[MTU, 1, 0, 0]);
    message.extend_from_slice(&mtu.to_be_bytes());
    let flags = if net.prefix_len() == 64 { ON_LINK | AUTONOMOUS } else { ON_LINK };
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

/// What a router advertises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advertisement {
    /// For how long it is a router for everything, in seconds; 0: it is none.
    pub lifetime_s: u16,
    /// Addresses are given by DHCPv6 (M).
    pub managed: bool,
    /// Other things are told by DHCPv6 (O).
    pub other: bool,
    /// The link's MTU, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Networks.
    pub prefixes: Vec<Prefix>,
    /// Nameservers, and for how many seconds they are good.
    pub nameservers: Vec<(Ipv6Addr, u32)>,
}

/// Who advertised what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heard {
    /// The router's address on the link.
    pub router: Ipv6Addr,
    /// What it said.
    pub said: Advertisement,
}

/// A network that a router advertises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefix {
    /// The network.
    pub net: Ipv6Net,
    /// It is on the link (L).
    pub on_link: bool,
    /// Who hears it may choose an address in it (A).
    pub autonomous: bool,
    /// For how long, in seconds.
    pub valid_s: u32,
    /// For how long such addresses are preferred.
    pub preferred_s: u32,
}

impl Prefix {
    /// The address of an interface in it, if it may choose one (RFC 4862 section 5.5.3, RFC 4291 appendix A).
    pub fn address(&self, mac: [u8; 6]) -> Option<Ipv6Net> {
        let [a, b, c, d, e, f] = mac;
        let id = u64::from_be_bytes([a ^ 2, b, c, 0xFF, 0xFE, d, e, f]);
        let address = Ipv6Addr::from_bits(self.net.network().to_bits() | u128::from(id));
        let fits = self.autonomous && self.net.prefix_len() == 64;
        fits.then(|| Ipv6Net::new(address, 64).ok()).flatten()
    }
}

impl Advertisement {
    /// What a message of ICMPv6 says; `None`: it is no advertisement, or malformed (RFC 4861 section 6.1.2).
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (head, mut rest) = message.split_first_chunk::<16>()?;
        if head[..2] != [ADVERTISEMENT, 0] {
            return None;
        }
        let mut said = Self {
            lifetime_s: u16::from_be_bytes([head[6], head[7]]),
            managed: head[5] & MANAGED != 0,
            other: head[5] & OTHER != 0,
            ..Self::default()
        };
        while !rest.is_empty() {
            let length = usize::from(*rest.get(1)?) * 8;
            let (option, left) = rest.split_at_checked(length).filter(|_| length > 0)?;
            rest = left;
            said.take(option);
        }
        Some(said)
    }

    fn take(&mut self, option: &[u8]) {
        let word = |at: usize| option[at..].first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
        let address =
            |at: usize| option[at..].first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |it| (*it).into());
        match (option[0], option.len()) {
            (PREFIX, 32) if self.prefixes.len() < MAX_HEARD => {
                let (valid_s, preferred_s) = (word(4), word(8));
                let Ok(net) = Ipv6Net::new(address(16), option[2]) else { return };
                // Of these nothing is to be believed (RFC 4862 section 5.5.3).
                if net.addr().is_unicast_link_local() || net.addr().is_multicast() || preferred_s > valid_s {
                    return;
                }
                let (on_link, autonomous) = (option[3] & ON_LINK != 0, option[3] & AUTONOMOUS != 0);
                self.prefixes.push(Prefix { net: net.trunc(), on_link, autonomous, valid_s, preferred_s });
            }
            (MTU, 8) => self.mtu = Some(word(4)),
            (RDNSS, 24..) => {
                let room = MAX_HEARD.saturating_sub(self.nameservers.len());
                let (all, _) = option[8..].as_chunks::<16>();
                self.nameservers.extend(all.iter().take(room).map(|it| (Ipv6Addr::from(*it), word(4))));
            }
            _ => {}
        }
    }

    /// The first nameserver (RFC 8106 section 5.1) that is one yet.
    pub fn nameserver(&self) -> Option<Ipv6Addr> {
        self.nameservers.iter().find(|(_, lifetime)| *lifetime > 0).map(|(address, _)| *address)
    }

    /// The address of an interface in the first network in which it may choose one.
    pub fn address(&self, mac: [u8; 6]) -> Option<Ipv6Net> {
        self.prefixes.iter().filter(|prefix| prefix.valid_s > 0).find_map(|prefix| prefix.address(mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn a_host_learns_its_network() {
        let net: Ipv6Net = "fd00:10:0:2::1/64".parse().unwrap();
        let message = advertisement(MAC, 1500, net, Some(net.addr()), Dhcp6::Stateful);
        let said = Advertisement::parse(&message).unwrap();
        assert_eq!(said.address(MAC), Some("fd00:10:0:2::ff:fe00:1/64".parse().unwrap()));
        assert_eq!((said.nameserver(), said.mtu), (Some(net.addr()), Some(1500)));
        assert_eq!((said.managed, said.other, said.lifetime_s), (true, true, 600));
        let wide: Ipv6Net = "fd00::1/48".parse().unwrap();
        let said = Advertisement::parse(&advertisement(MAC, 1500, wide, None, Dhcp6::Stateless)).unwrap();
        assert_eq!((said.address(MAC), said.managed, said.other), (None, false, true));
    }

    #[test]
    fn what_is_withdrawn_is_heard_as_such() {
        let net: Ipv6Net = "fd00:10:0:2::1/64".parse().unwrap();
        let mut message = advertisement(MAC, 1500, net, Some(net.addr()), Dhcp6::Off);
        // Lifetimes of the prefix, behind a header of 16 and options of 8 bytes each; of the nameserver.
        message[36..44].fill(0);
        message[68..72].fill(0);
        let said = Advertisement::parse(&message).unwrap();
        assert_eq!((said.address(MAC), said.nameserver()), (None, None));
        assert_eq!((said.prefixes.len(), said.nameservers.len()), (1, 1));
        message.truncate(70);
        assert_eq!(Advertisement::parse(&message), None);
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Advertisement::parse(&bytes);
        }
    }
}

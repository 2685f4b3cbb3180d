//! Addresses for those who ask: a DHCPv4 server (RFC 2131). A core.
//!
//! # Theory of operation
//! [`Leases::handle`] takes a client's message and gives the answer. Addresses come from the upper half of the
//! network, so the lower one is free for those who choose theirs. Whoever comes back gets what it had; a newcomer
//! what it asks for if nobody has it, else a place that its hardware address says, or the next free one. A lease
//! that has run out is given away only when no address is left that nobody ever had. Addresses that a client
//! declined, since somebody uses them, are left alone. Static entries are nobody else's.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

use crate::config;
use crate::dhcp6::Duid;

/// How long an address is one client's, in seconds, unless somebody says otherwise, and for how long at least.
const LEASE: u32 = 12 * 3600;
const SHORTEST: u32 = 8;
/// Most addresses of a network that are given: as many as are looked at for one newcomer.
const MAX_POOL: u32 = 4096;
/// Longest answer: all that any client takes (RFC 2131 clause 2, 576 bytes with headers).
const LONGEST: usize = 548;
/// Options (RFC 2132): nameservers, the client's name, domain, MTU, servers of NTP.
const NAMESERVERS: u8 = 6;
pub(crate) const HOST_NAME: u8 = 12;
const DOMAIN_NAME: u8 = 15;
const MTU: u8 = 26;
const NTP: u8 = 42;
/// Most static entries: each newcomer is looked for in all of them.
pub const MAX_FIXED: usize = 256;
/// Most servers of NTP: those that clients take.
pub const MAX_NTP: usize = 4;
/// Longest domain and name of a client (RFC 1035 clause 2.3.4).
pub const MAX_NAME: usize = 253;

/// A hardware address.
type Mac = [u8; 6];

/// What the servers, of DHCPv4 and DHCPv6, say beside addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Said {
    /// For how long an address is given, in seconds.
    pub lease_s: u32,
    /// Who always gets the same address.
    pub fixed: Vec<Fixed>,
    /// The domain that names are looked up in.
    pub domain: Option<String>,
    /// The MTU of the network, in bytes.
    pub mtu: Option<u16>,
    /// Servers of NTP, at most [`MAX_NTP`] of each family.
    pub ntp: Vec<IpAddr>,
    /// What DHCPv6 gives.
    pub v6: Dhcp6,
}

/// What DHCPv6 gives, and so what router advertisements say of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dhcp6 {
    /// Nothing: nobody answers.
    Off,
    /// Names and servers of NTP; addresses everybody chooses (the O flag).
    #[default]
    Stateless,
    /// Addresses, too, beside those that everybody chooses (the M flag).
    Stateful,
}

impl FromStr for Dhcp6 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "stateless" => Ok(Self::Stateless),
            "stateful" => Ok(Self::Stateful),
            _ => Err("it is off, stateless or stateful".into()),
        }
    }
}

impl Default for Said {
    fn default() -> Self {
        Self {
            lease_s: LEASE,
            fixed: Vec::new(),
            domain: None,
            mtu: None,
            ntp: Vec::new(),
            v6: Dhcp6::default(),
        }
    }
}

/// An address that is kept for one client: `02:00:00:00:00:07=10.0.2.7`, by the name that it says, `web=10.0.2.8`, or, one
/// of IPv6, by its DUID, `00:03:00:01:02:00:00:00:00:07=fd00::7`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fixed {
    who: Who,
    /// The address.
    pub address: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Mac(config::Mac),
    Duid(Duid),
    Name(String),
}

impl Said {
    /// For how long an address is given, in seconds: never for no time at all.
    pub(crate) fn lease_s(&self) -> u32 {
        self.lease_s.max(SHORTEST)
    }
}

impl Fixed {
    /// Is it the address, of IPv6, of this client? Hardware addresses are looked for in the DUID.
    pub(crate) fn is_for_v6(&self, duid: &Duid, name: &str) -> bool {
        match &self.who {
            Who::Mac(mac) => duid.mac() == Some(mac.0),
            Who::Duid(own) => own == duid,
            // Clients say it with their domain, or without.
            Who::Name(own) => {
                let first = name.split_once('.').map_or(name, |(first, _)| first);
                own.eq_ignore_ascii_case(name) || own.eq_ignore_ascii_case(first)
            }
        }
    }
}

impl FromStr for Fixed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no static entry; write 02:00:00:00:00:07=10.0.2.7 or web=fd00::8");
        let (who, address) = text.split_once('=').ok_or_else(wrong)?;
        let name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let who = match who.parse() {
            Ok(mac) => Who::Mac(mac),
            Err(_) if who.contains(':') => Who::Duid(who.parse().map_err(|_| wrong())?),
            Err(_) if (1..=MAX_NAME).contains(&who.len()) && who.chars().all(name) => Who::Name(who.into()),
            Err(_) => return Err(wrong()),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        // DHCPv4 knows hardware addresses and names alone.
        let fits = address.is_ipv6() || !matches!(who, Who::Duid(_));
        fits.then_some(Self { who, address }).ok_or_else(wrong)
    }
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Mac(mac) => write!(f, "{mac}={}", self.address),
            Who::Duid(duid) => write!(f, "{duid}={}", self.address),
            Who::Name(name) => write!(f, "{name}={}", self.address),
        }
    }
}

impl TryFrom<String> for Fixed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Fixed> for String {
    fn from(fixed: Fixed) -> Self {
        fixed.to_string()
    }
}

/// Who asks: the hardware address, and the name it says.
#[derive(Debug, Clone, Copy)]
struct Client<'m> {
    mac: Mac,
    name: &'m [u8],
}

/// Who has which address.
#[derive(Debug)]
pub struct Leases {
    own: Ipv4Net,
    said: Said,
    /// The first address that is given, and how many there are.
    pool: (u32, u32),
    clients: HashMap<Mac, (Ipv4Addr, Instant)>,
    /// Whose an address is, or was; nobody's who may have it if it was declined.
    addresses: HashMap<Ipv4Addr, Option<Mac>>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The message.
    pub bytes: Vec<u8>,
    /// To whom: everybody, if the client has no address yet.
    pub to: Ipv4Addr,
}

impl Leases {
    /// `own`: the server's address, which is the router's and the nameserver's too, and its network.
    pub fn new(own: Ipv4Net, said: Said) -> Self {
        let (network, broadcast) = (own.network().to_bits(), own.broadcast().to_bits());
        let half = network + (broadcast - network).div_ceil(2);
        let pool = (half, (broadcast - half).min(MAX_POOL));
        Self { own, said, pool, clients: HashMap::new(), addresses: HashMap::new() }
    }

    /// How many addresses are leased.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// None is.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// A client's message.
    pub fn handle(&mut self, now: Instant, message: &[u8]) -> Option<Answer> {
        use DhcpMessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
        let packet = DhcpPacket::new_checked(message).ok()?;
        let asked = DhcpRepr::parse(&packet).ok()?;
        let mac = asked.client_hardware_address.0;
        if !asked.client_hardware_address.is_unicast() {
            return None;
        }
        let name = packet.options().find(|option| option.kind == HOST_NAME).map_or(&[][..], |it| it.data);
        let client = Client { mac, name };
        let other = asked.server_identifier.is_some_and(|server| server != self.own.addr());
        let claimed = asked.requested_ip.unwrap_or(asked.client_ip);
        match asked.message_type {
            Discover => {
                let address = self.find(now, client, asked.requested_ip)?;
                Some(self.answer(&asked, Offer, address))
            }
            // It took another server's offer.
            Request if other => {
                self.release(mac);
                None
            }
            Request if self.take(now, client, claimed) => Some(self.answer(&asked, Ack, claimed)),
            Request => Some(self.answer(&asked, Nak, Ipv4Addr::UNSPECIFIED)),
            Inform => Some(self.answer(&asked, Ack, Ipv4Addr::UNSPECIFIED)),
            Release => {
                self.release(mac);
                None
            }
            Decline => {
                self.release(mac);
                if asked.requested_ip.is_some_and(|address| self.gives(address)) {
                    self.addresses.insert(claimed, None);
                }
                None
            }
            _ => None,
        }
    }

    fn gives(&self, address: Ipv4Addr) -> bool {
        let place = address.to_bits().wrapping_sub(self.pool.0);
        place < self.pool.1 && address != self.own.addr() && !self.is_fixed(address)
    }

    fn is_fixed(&self, address: Ipv4Addr) -> bool {
        self.said.fixed.iter().any(|fixed| fixed.address == address)
    }

    /// The address that is kept for a client.
    fn fixed(&self, client: Client<'_>) -> Option<Ipv4Addr> {
        let fits = |fixed: &Fixed| match &fixed.who {
            Who::Mac(mac) => mac.0 == client.mac,
            Who::Duid(_) => false,
            Who::Name(name) => name.as_bytes().eq_ignore_ascii_case(client.name),
        };
        self.said.fixed.iter().find_map(|fixed| match fixed.address {
            IpAddr::V4(address) if fits(fixed) => Some(address),
            _ => None,
        })
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        self.gives(address) && !self.addresses.contains_key(&address)
    }

    /// An address for a client that has none.
    fn find(&self, now: Instant, client: Client<'_>, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let mac = client.mac;
        if let Some(address) = self.fixed(client) {
            return Some(address);
        }
        if let Some((address, _)) = self.clients.get(&mac) {
            return Some(*address);
        }
        if let Some(wanted) = wanted.filter(|wanted| self.is_free(*wanted)) {
            return Some(wanted);
        }
        let start = mac.iter().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(*byte)));
        let places = || {
            (0..self.pool.1).map(|n| Ipv4Addr::from_bits(self.pool.0 + start.wrapping_add(n) % self.pool.1))
        };
        let over = |address: &Ipv4Addr| {
            let owner = self.addresses.get(address).copied().flatten();
            owner.and_then(|mac| self.clients.get(&mac)).is_some_and(|(_, until)| *until <= now)
        };
        places().find(|address| self.is_free(*address)).or_else(|| places().find(over))
    }

    /// The client takes an address; false: it cannot have it.
    fn take(&mut self, now: Instant, client: Client<'_>, address: Ipv4Addr) -> bool {
        let (mac, fixed) = (client.mac, self.fixed(client));
        if fixed.is_some_and(|fixed| fixed != address) {
            return false;
        }
        let old = self.clients.get(&mac).map(|(address, _)| *address);
        let whose = self.addresses.get(&address).copied();
        let lapsed = |mac: Mac| self.clients.get(&mac).is_none_or(|(_, until)| *until <= now);
        let may = match whose {
            None => self.gives(address) || fixed.is_some(),
            Some(None) => false,
            Some(Some(owner)) => owner == mac || lapsed(owner),
        };
        if !may {
            return false;
        }
        if let Some(Some(owner)) = whose {
            self.clients.remove(&owner);
        }
        if let Some(old) = old {
            self.addresses.remove(&old);
        }
        self.addresses.insert(address, Some(mac));
        self.clients.insert(mac, (address, now + Duration::from_secs(self.said.lease_s().into())));
        true
    }

    fn release(&mut self, mac: Mac) {
        if let Some((address, _)) = self.clients.remove(&mac) {
            self.addresses.remove(&address);
        }
    }

    fn answer(&self, asked: &DhcpRepr<'_>, kind: DhcpMessageType, address: Ipv4Addr) -> Answer {
        let own = self.own.addr();
        let refused = kind == DhcpMessageType::Nak;
        let leased = !refused && !address.is_unspecified();
        let nameserver = own.octets();
        let mtu = self.said.mtu.map(u16::to_be_bytes);
        let servers = self.said.ntp.iter().filter_map(|server| match server {
            IpAddr::V4(server) => Some(server.octets()),
            IpAddr::V6(_) => None,
        });
        let ntp: Vec<u8> = servers.take(MAX_NTP).flatten().collect();
        let domain = self.said.domain.as_deref().unwrap_or_default();
        let options = [
            (NAMESERVERS, &nameserver[..]),
            (DOMAIN_NAME, domain.as_bytes()),
            (MTU, mtu.as_ref().map_or(&[][..], |mtu| mtu)),
            (NTP, &ntp),
        ];
        let options: Vec<_> = options
            .into_iter()
            .filter(|(_, data)| (1..=MAX_NAME).contains(&data.len()))
            .map(|(kind, data)| DhcpOption { kind, data })
            .collect();
        let seconds = self.said.lease_s();
        let repr = DhcpRepr {
            message_type: kind,
            transaction_id: asked.transaction_id,
            secs: 0,
            client_hardware_address: asked.client_hardware_address,
            client_ip: if refused { Ipv4Addr::UNSPECIFIED } else { asked.client_ip },
            your_ip: address,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: (!refused).then_some(own),
            subnet_mask: (!refused).then(|| self.own.netmask()),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: asked.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(own),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: leased.then_some(seconds),
            renew_duration: None,
            rebind_duration: None,
            additional_options: if refused { &[] } else { &options },
        };
        let everybody = refused || asked.client_ip.is_unspecified();
        let to = if everybody { Ipv4Addr::BROADCAST } else { asked.client_ip };
        Answer { bytes: bytes(&repr), to }
    }
}

/// The bytes of a message.
pub fn bytes(repr: &DhcpRepr<'_>) -> Vec<u8> {
    // Some clients drop what is shorter than a BOOTP message (RFC 1542 clause 2.1).
    let mut bytes = vec![0; repr.buffer_len().clamp(300, LONGEST)];
    let mut packet = DhcpPacket::new_unchecked(&mut bytes[..]);
    let emitted = repr.emit(&mut packet);
    debug_assert!(emitted.is_ok(), "a message of ours fits");
    bytes
}

/// For clients: the option that says their name.
pub fn host_name(name: &str) -> DhcpOption<'_> {
    DhcpOption { kind: HOST_NAME, data: &name.as_bytes()[..name.len().min(MAX_NAME)] }
}

/// For clients: a message of theirs with nothing in it yet.
pub fn message(kind: DhcpMessageType, transaction_id: u32, mac: Mac) -> DhcpRepr<'static> {
    DhcpRepr {
        message_type: kind,
        transaction_id,
        secs: 0,
        client_hardware_address: EthernetAddress(mac),
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: true,
        requested_ip: None,
        client_identifier: Some(EthernetAddress(mac)),
        server_identifier: None,
        // Subnet mask, router, nameservers.
        parameter_request_list: Some(&[1, 3, NAMESERVERS]),
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    }
}

#[cfg(test)]
#[path = "dhcp/tests.rs"]
mod tests;

//! Addresses for those who ask: a DHCPv4 server (RFC 2131). A core.
//!
//! # Theory of operation
//! [`Leases::handle`] takes a client's message and gives the answer. Addresses come from the upper half of the
//! network, so the lower one is free for those who choose theirs. Whoever comes back gets what it had; a newcomer
//! what it asks for if nobody has it, else a place that its hardware address says, or the next free one. A lease
//! that has run out is given away only when no address is left that nobody ever had. Addresses that a client
//! declined, since somebody uses them, are left alone.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

/// How long an address is one client's.
const LEASE: Duration = Duration::from_secs(12 * 3600);
/// Most addresses of a network that are given: as many as are looked at for one newcomer.
const MAX_POOL: u32 = 4096;
/// Longest answer: all that any client takes (RFC 2131 clause 2, 576 bytes with headers).
const LONGEST: usize = 548;
/// Option 6, nameservers (RFC 2132 clause 3.8).
const NAMESERVERS: u8 = 6;

/// A hardware address.
type Mac = [u8; 6];

/// Who has which address.
#[derive(Debug)]
pub struct Leases {
    own: Ipv4Net,
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
    pub fn new(own: Ipv4Net) -> Self {
        let (network, broadcast) = (own.network().to_bits(), own.broadcast().to_bits());
        let half = network + (broadcast - network).div_ceil(2);
        let pool = (half, (broadcast - half).min(MAX_POOL));
        Self { own, pool, clients: HashMap::new(), addresses: HashMap::new() }
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
        let other = asked.server_identifier.is_some_and(|server| server != self.own.addr());
        let claimed = asked.requested_ip.unwrap_or(asked.client_ip);
        match asked.message_type {
            Discover => {
                let address = self.find(now, mac, asked.requested_ip)?;
                Some(self.answer(&asked, Offer, address))
            }
            // It took another server's offer.
            Request if other => {
                self.release(mac);
                None
            }
            Request if self.take(now, mac, claimed) => Some(self.answer(&asked, Ack, claimed)),
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
        place < self.pool.1 && address != self.own.addr()
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        self.gives(address) && !self.addresses.contains_key(&address)
    }

    /// An address for a client that has none.
    fn find(&self, now: Instant, mac: Mac, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
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
    fn take(&mut self, now: Instant, mac: Mac, address: Ipv4Addr) -> bool {
        let old = self.clients.get(&mac).map(|(address, _)| *address);
        let whose = self.addresses.get(&address).copied();
        let lapsed = |mac: Mac| self.clients.get(&mac).is_none_or(|(_, until)| *until <= now);
        let may = match whose {
            None => self.gives(address),
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
        self.clients.insert(mac, (address, now + LEASE));
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
        let options = [DhcpOption { kind: NAMESERVERS, data: &nameserver }];
        let seconds = LEASE.as_secs() as u32;
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

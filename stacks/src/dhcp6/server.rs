//! A DHCPv6 server: names for those who ask, and addresses if it has any (RFC 8415 section 18.3). A core.
//!
//! # Theory of operation
//! A stateless server answers information-requests alone. A stateful one gives addresses, too: from a part of its network,
//! `::1000` to `::1fff` of one with 64 bits, so that the rest is free for those who choose theirs. Whoever comes back
//! gets what it had, a newcomer what it asks for if nobody has it, else a place that its DUID says, or the next free
//! one; a lease that has run out is given away only when no address is left that nobody ever had. Addresses that a
//! client declined are left alone, static entries are nobody else's. Who renews what we do not remember keeps it if nobody else
//! has it. Those are the rules of [`crate::gateway::dhcp`], by association in place of hardware address.
//!
//! Messages come by the group of all servers; those to one address of it are dropped (RFC 8415 section 16).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::Ipv6Net;

use super::{
    DOMAINS, Duid, Ia, IaAddress, Kind, MAX_LISTED, Message, NAMESERVERS, NTP, REFRESH, SNTP, Status,
};
use crate::gateway::dhcp::Said;

/// Most addresses of a network that are given: as many as are looked at for one newcomer. They begin at as many.
const MAX_POOL: u128 = 4096;
/// The rank of a server whom nobody needs to compare with others (RFC 8415 section 21.8): this network is ours.
const FIRST: u8 = 255;
/// Nobody asks for names again sooner, in seconds (IRT_MINIMUM, RFC 8415 section 7.6).
const SHORTEST_REFRESH: u32 = 600;

/// Whose an address is: an association of a client.
type Key = (Duid, u32);

/// Who asks for an address: an association, and the client's name.
#[derive(Debug, Clone, Copy)]
struct Client<'m> {
    key: &'m Key,
    name: &'m str,
}

/// A server, and who has which address.
#[derive(Debug)]
pub struct Server {
    own: Ipv6Net,
    duid: Duid,
    stateful: bool,
    said: Said,
    /// The first address that is given, and how many there are.
    pool: (u128, u128),
    bindings: HashMap<Key, (Ipv6Addr, Instant)>,
    /// Whose an address is, or was; nobody's who may have it if it was declined.
    addresses: HashMap<Ipv6Addr, Option<Key>>,
}

impl Server {
    /// `own`: its address, which is the nameserver's too, and the network; `mac`: its hardware address, which says who it is.
    pub fn new(own: Ipv6Net, mac: [u8; 6], stateful: bool, said: Said) -> Self {
        let hosts = u128::MAX.checked_shr(u32::from(own.prefix_len())).unwrap_or(0);
        let half = (hosts / 2 + hosts % 2).min(MAX_POOL);
        let pool = (own.network().to_bits() + half, half);
        let duid = Duid::of_mac(mac);
        Self { own, duid, stateful, said, pool, bindings: HashMap::new(), addresses: HashMap::new() }
    }

    /// How many addresses are leased.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// None is.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    /// A client's message, which came to the group of all servers; the answer, which goes to its sender, port 546.
    pub fn handle(&mut self, now: Instant, message: &[u8]) -> Option<Vec<u8>> {
        use Kind::{Confirm, Decline, InformationRequest, Rebind, Release, Renew, Request, Solicit};
        let asked = Message::parse(message)?;
        let ours = asked.server.as_ref().map(|server| *server == self.duid);
        let fits = match asked.kind {
            Solicit | Confirm | Rebind => self.stateful && ours.is_none() && asked.client.is_some(),
            Request | Renew | Release | Decline => {
                self.stateful && ours == Some(true) && asked.client.is_some()
            }
            InformationRequest => ours != Some(false) && asked.ias.is_empty() && asked.prefixes.is_empty(),
            Kind::Advertise | Kind::Reply | Kind::Reconfigure => false,
        };
        if !fits {
            return None;
        }
        let mut said = Message::new(Kind::Reply, asked.id);
        said.client.clone_from(&asked.client);
        said.server = Some(self.duid.clone());
        match asked.kind {
            Solicit if !asked.rapid_commit => {
                (said.kind, said.preference) = (Kind::Advertise, Some(FIRST));
                said.ias = self.each(&asked, |server, client, ia| server.offer(now, client, ia));
                said.prefixes.clone_from(&asked.prefixes);
            }
            Solicit | Request => {
                said.rapid_commit = asked.kind == Solicit;
                said.ias = self.each(&asked, |server, client, ia| server.assign(now, client, ia));
                said.prefixes.clone_from(&asked.prefixes);
            }
            Renew | Rebind => {
                said.ias = self.each(&asked, |server, client, ia| server.renew(now, client, ia));
            }
            Confirm => said.status = self.confirm(&asked)?,
            Release | Decline => {
                let declined = asked.kind == Decline;
                let back = self.each(&asked, |server, client, ia| server.take_back(client, ia, declined));
                // Those that were there have no more to be said about.
                said.ias = back.into_iter().filter(|ia| ia.status != Status::SUCCESS).collect();
                return Some(said.bytes());
            }
            _ => {}
        }
        if asked.kind != Confirm {
            self.tell(&asked, &mut said);
        }
        Some(said.bytes())
    }

    /// The answer to each association of a message.
    fn each(
        &mut self,
        asked: &Message,
        mut answer: impl FnMut(&mut Self, Client<'_>, &Ia) -> (Vec<IaAddress>, Status),
    ) -> Vec<Ia> {
        let Some(duid) = &asked.client else { return Vec::new() };
        let name = asked.name.as_deref().unwrap_or_default();
        let mut ias = Vec::new();
        for ia in &asked.ias {
            let key = (duid.clone(), ia.id);
            let (addresses, status) = answer(self, Client { key: &key, name }, ia);
            let given = addresses.iter().any(|it| it.valid_s > 0);
            // Half and four fifths of the time (RFC 8415 section 14.2).
            let (renew_s, rebind_s) =
                if given { (self.lease_s() / 2, self.lease_s() / 5 * 4) } else { (0, 0) };
            ias.push(Ia { id: ia.id, renew_s, rebind_s, addresses, status });
        }
        ias
    }

    fn offer(&self, now: Instant, client: Client<'_>, ia: &Ia) -> (Vec<IaAddress>, Status) {
        self.found(self.find(now, client, ia.addresses.first().map(|it| it.address)))
    }

    fn assign(&mut self, now: Instant, client: Client<'_>, ia: &Ia) -> (Vec<IaAddress>, Status) {
        if ia.addresses.iter().any(|it| !self.own.contains(&it.address)) {
            return (Vec::new(), Status::NOT_ON_LINK);
        }
        let found = self.find(now, client, ia.addresses.first().map(|it| it.address));
        let found = found.filter(|address| self.take(now, client, *address));
        self.found(found)
    }

    fn found(&self, address: Option<Ipv6Addr>) -> (Vec<IaAddress>, Status) {
        match address {
            Some(address) => (vec![self.lease(address)], Status::SUCCESS),
            None => (Vec::new(), Status::NO_ADDRESSES),
        }
    }

    fn renew(&mut self, now: Instant, client: Client<'_>, ia: &Ia) -> (Vec<IaAddress>, Status) {
        let bound = self.bindings.get(client.key).map(|(address, _)| *address);
        let wanted = || ia.addresses.iter().map(|it| it.address);
        let kept = bound.into_iter().chain(wanted()).find(|address| self.take(now, client, *address));
        let mut addresses: Vec<_> = kept.map(|address| self.lease(address)).into_iter().collect();
        if kept.is_none() && wanted().all(|address| self.own.contains(&address)) {
            return (addresses, Status::NO_BINDING);
        }
        // What it cannot have, or has no more, is over at once.
        let over = wanted().filter(|address| Some(*address) != kept);
        addresses.extend(over.map(|address| IaAddress { address, preferred_s: 0, valid_s: 0 }));
        (addresses, Status::SUCCESS)
    }

    /// Are the addresses ones of this network? Nothing is said if there are none.
    fn confirm(&self, asked: &Message) -> Option<Status> {
        let mut addresses = asked.ias.iter().flat_map(|ia| &ia.addresses).peekable();
        addresses.peek()?;
        let fits = addresses.all(|it| self.own.contains(&it.address));
        Some(if fits { Status::SUCCESS } else { Status::NOT_ON_LINK })
    }

    fn take_back(&mut self, client: Client<'_>, ia: &Ia, declined: bool) -> (Vec<IaAddress>, Status) {
        let bound = self.bindings.get(client.key).map(|(address, _)| *address);
        let Some(address) = bound.filter(|bound| ia.addresses.iter().any(|it| it.address == *bound)) else {
            return (Vec::new(), Status::NO_BINDING);
        };
        self.release(client.key);
        if declined && self.gives(address) {
            self.addresses.insert(address, None);
        }
        (Vec::new(), Status::SUCCESS)
    }

    /// What the client asks for beside addresses.
    fn tell(&self, asked: &Message, said: &mut Message) {
        let wants = |number| asked.asked.contains(&number);
        let servers = || {
            self.said.ntp.iter().filter_map(|server| match server {
                IpAddr::V6(server) => Some(*server),
                IpAddr::V4(_) => None,
            })
        };
        if wants(NAMESERVERS) {
            said.nameservers.push(self.own.addr());
        }
        if wants(DOMAINS) {
            said.domains.extend(self.said.domain.clone());
        }
        if wants(SNTP) {
            said.sntp = servers().take(MAX_LISTED).collect();
        }
        if wants(NTP) {
            said.ntp = servers().take(MAX_LISTED).collect();
        }
        if wants(REFRESH) && asked.kind == Kind::InformationRequest {
            said.refresh_s = Some(self.lease_s().max(SHORTEST_REFRESH));
        }
    }

    fn lease_s(&self) -> u32 {
        self.said.lease_s()
    }

    fn lease(&self, address: Ipv6Addr) -> IaAddress {
        IaAddress { address, preferred_s: self.lease_s(), valid_s: self.lease_s() }
    }

    fn gives(&self, address: Ipv6Addr) -> bool {
        let place = address.to_bits().wrapping_sub(self.pool.0);
        place < self.pool.1 && address != self.own.addr() && !self.is_fixed(address)
    }

    fn is_fixed(&self, address: Ipv6Addr) -> bool {
        self.said.fixed.iter().any(|fixed| fixed.address == address)
    }

    /// The address that is kept for a client.
    fn fixed(&self, client: Client<'_>) -> Option<Ipv6Addr> {
        self.said.fixed.iter().find_map(|fixed| match fixed.address {
            IpAddr::V6(address) if fixed.is_for_v6(&client.key.0, client.name) => Some(address),
            _ => None,
        })
    }

    fn is_free(&self, address: Ipv6Addr) -> bool {
        self.gives(address) && !self.addresses.contains_key(&address)
    }

    /// Whether an address is another's, and for how long yet is not over.
    fn is_anothers(&self, now: Instant, key: &Key, address: Ipv6Addr) -> bool {
        match self.addresses.get(&address) {
            None => false,
            Some(None) => true,
            Some(Some(owner)) => {
                owner != key && self.bindings.get(owner).is_some_and(|(_, until)| *until > now)
            }
        }
    }

    /// An address for an association that has none.
    fn find(&self, now: Instant, client: Client<'_>, wanted: Option<Ipv6Addr>) -> Option<Ipv6Addr> {
        // A client may have more associations than addresses are kept for it.
        if let Some(address) = self.fixed(client).filter(|it| !self.is_anothers(now, client.key, *it)) {
            return Some(address);
        }
        if let Some((address, _)) = self.bindings.get(client.key) {
            return Some(*address);
        }
        if let Some(wanted) = wanted.filter(|wanted| self.is_free(*wanted)) {
            return Some(wanted);
        }
        let (duid, id) = client.key;
        let bytes = duid.as_bytes().iter().copied().chain(id.to_be_bytes());
        let start = bytes.fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let (first, count) = self.pool;
        let places = || (0..count).map(|n| Ipv6Addr::from_bits(first + (u128::from(start) + n) % count));
        let over = |address: &Ipv6Addr| self.gives(*address) && !self.is_anothers(now, client.key, *address);
        places().find(|address| self.is_free(*address)).or_else(|| places().find(over))
    }

    /// An association takes an address; false: it cannot have it.
    fn take(&mut self, now: Instant, client: Client<'_>, address: Ipv6Addr) -> bool {
        let may = self.gives(address) || self.fixed(client) == Some(address);
        if !may || self.is_anothers(now, client.key, address) {
            return false;
        }
        if let Some(owner) = self.addresses.remove(&address).flatten() {
            self.bindings.remove(&owner);
        }
        self.release(client.key);
        self.addresses.insert(address, Some(client.key.clone()));
        let until = now + Duration::from_secs(self.lease_s().into());
        self.bindings.insert(client.key.clone(), (address, until));
        true
    }

    fn release(&mut self, key: &Key) {
        if let Some((address, _)) = self.bindings.remove(key) {
            self.addresses.remove(&address);
        }
    }
}

#[cfg(test)]
#[path = "server/tests.rs"]
mod tests;

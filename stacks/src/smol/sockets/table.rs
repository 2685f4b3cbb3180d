//! Whose packet: from addresses and ports to a socket.
//!
//! # Theory of operation
//! Three keyed hash maps per protocol answer in O(1), most specific first, as Linux does
//! (net/ipv4/inet_hashtables.c, net/ipv4/udp.c): the *flow* of a connection by both ends; sockets *bound* to
//! the very address and port; sockets bound to the port and any address. Within one of the last two the best
//! score wins, and equals that share a port (SO_REUSEPORT) share the packets, by a keyed hash of both ends. A
//! socket of IPv6 that is not IPV6_V6ONLY is found for IPv4 too, since the inside knows no v4-mapped
//! addresses. Raw sockets are few and found by protocol, in a list.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Socket;
use super::address::{Domain, Endpoint};
use super::keyed::{Key, Secret, scale};
use super::slots::Slots;
use crate::smol::engine::SocketId;
use crate::smol::tables::IfIndex;

/// Both ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    local: u128,
    peer: u128,
    ports: u32,
    scope: u32,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Flow {
    /// Of a socket at `local` with its peer. The interface counts only where an address needs it.
    pub(crate) fn new(local: IpAddr, local_port: u16, peer: &Endpoint) -> Self {
        Self {
            local: bits(local),
            peer: bits(peer.address),
            ports: u32::from(local_port) << 16 | u32::from(peer.port),
            scope: peer.link().map_or(0, |link| link.0),
        }
    }
}

/// A place to be bound to: address (0: any of any family) and port.
type Place = (u128, u16);

fn place(address: IpAddr, port: u16) -> Place {
    (if address.is_unspecified() { 0 } else { bits(address) }, port)
}

/// A packet's ends as the search needs them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    /// To whom.
    pub(crate) local: IpAddr,
    /// To which port.
    pub(crate) local_port: u16,
    /// From whom.
    pub(crate) peer: Endpoint,
    /// Where it was heard.
    pub(crate) link: IfIndex,
}

/// The sockets of one protocol.
#[derive(Debug)]
pub(crate) struct Table {
    flows: HashMap<Flow, SocketId, Key>,
    bound: HashMap<Place, Vec<SocketId>, Key>,
}

impl Table {
    /// An empty one.
    pub(crate) fn new(key: Key) -> Self {
        Self { flows: HashMap::with_hasher(key), bound: HashMap::with_hasher(key) }
    }

    /// The connection with these ends.
    pub(crate) fn flow(&self, flow: &Flow) -> Option<SocketId> {
        self.flows.get(flow).copied()
    }

    /// Adds a connection; `false` if there is one with these ends.
    pub(crate) fn add_flow(&mut self, flow: Flow, id: SocketId) -> bool {
        *self.flows.entry(flow).or_insert(id) == id
    }

    /// Removes a connection, if it is the one of that socket.
    pub(crate) fn remove_flow(&mut self, flow: &Flow, id: SocketId) {
        if self.flows.get(flow) == Some(&id) {
            self.flows.remove(flow);
        }
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(crate) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Adds a socket at its place.
    pub(crate) fn add(&mut self, address: IpAddr, port: u16, id: SocketId) {
        // Newest first: among equals without SO_REUSEPORT the last one bound wins, as in Linux.
        self.bound.entry(place(address, port)).or_default().insert(0, id);
    }

    /// Removes a socket from its place.
    pub(crate) fn remove(&mut self, address: IpAddr, port: u16, id: SocketId) {
        let place = place(address, port);
        if let Some(ids) = self.bound.get_mut(&place) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.bound.remove(&place);
            }
        }
    }

    /// The socket bound where a packet goes, by `score`; `None` of it: does not match.
    pub(crate) fn find(
        &self,
        sockets: &Slots,
        secret: &Secret,
        ends: &Ends,
        score: fn(&Socket, &Ends) -> Option<u32>,
    ) -> Option<SocketId> {
        let exact = self.best(sockets, secret, (bits(ends.local), ends.local_port), ends, score);
        exact.or_else(|| self.best(sockets, secret, (0, ends.local_port), ends, score))
    }

    fn best(
        &self,
        sockets: &Slots,
        secret: &Secret,
        place: Place,
        ends: &Ends,
        score: fn(&Socket, &Ends) -> Option<u32>,
    ) -> Option<SocketId> {
        let ids = self.bound.get(&place)?;
        let scored = || {
            ids.iter().filter_map(|id| {
                let socket = sockets.get(*id)?;
                Some((*id, socket, score(socket, ends)?))
            })
        };
        let (mut first, mut high) = (None, 0);
        for (id, socket, score) in scored() {
            if first.is_none() || score > high {
                (first, high) = (Some((id, socket)), score);
            }
        }
        let (id, socket) = first?;
        if !socket.options.reuse_port || socket.peer.is_some() {
            return Some(id);
        }
        let mut group = scored().filter(|(_, s, score)| *score == high && s.options.reuse_port);
        let members = group.clone().count();
        let ends = (bits(ends.local), ends.local_port, bits(ends.peer.address), ends.peer.port);
        let chosen = scale(secret.of(&ends), members);
        group.nth(chosen).map(|(id, ..)| id)
    }

    /// All sockets that a packet to a group or to everybody may be for.
    pub(crate) fn all(&self, ends: &Ends) -> impl Iterator<Item = SocketId> {
        let exact = self.bound.get(&(bits(ends.local), ends.local_port));
        let any = self.bound.get(&(0, ends.local_port));
        exact.into_iter().chain(any).flatten().copied()
    }
}

/// How well a listener fits (inet_hashtables.c, compute_score).
pub(crate) fn listener_score(socket: &Socket, ends: &Ends) -> Option<u32> {
    let fits = socket.takes(ends.local) && socket.takes_link(ends.link);
    fits.then(|| 1 + u32::from(socket.options.device.is_some()) + u32::from(socket.domain == Domain::V4))
}

/// How well a UDP socket fits (udp.c, compute_score).
pub(crate) fn udp_score(socket: &Socket, ends: &Ends) -> Option<u32> {
    if !socket.takes(ends.local) || !socket.takes_link(ends.link) {
        return None;
    }
    let mut score = if socket.domain == Domain::V4 { 2 } else { 1 };
    if let Some(peer) = &socket.peer {
        if peer.address != ends.peer.address || (peer.port != ends.peer.port && peer.port != 0) {
            return None;
        }
        score += 4 + 4;
    }
    Some(score + if socket.options.device.is_some() { 4 } else { 0 })
}

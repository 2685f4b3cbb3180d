//! Who owns which port: conflicts, and ports that the stack chooses.
//!
//! # Theory of operation
//! Every socket with a port is an owner of it, connections accepted on a listener's port included. Two owners
//! conflict as Linux says (net/ipv4/inet_connection_sock.c, inet_bind_conflict; net/ipv4/udp.c,
//! udp_lib_lport_inuse): only if their devices and addresses meet, and then unless both have SO_REUSEADDR (and
//! neither listens) or both have SO_REUSEPORT and one owner. Ports that nobody asked for come from 32768 to
//! 60999, in the order of RFC 6056 algorithm 4: a secret hash of the other ends says where to begin, and a
//! counter by another hash of them where it goes on; connections begin with the even ones and bind() with the
//! odd ones, so that they meet late. If the first one is taken, some others are tried here and there, first of the one
//! sort and then of the other, before all are in turn: among ports that were taken in order, the next one would be
//! taken as well. So a port is found in a few steps until nearly all are taken.
//! Linux: Documentation/networking/ip-sysctl.rst, ip_local_port_range.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use nix::errno::Errno;

use super::address::Domain;
use super::keyed::Key;
use super::slots::Slots;
use super::{Ownership, Socket};
use crate::smol::engine::SocketId;

/// Ports for those who do not mind.
pub(crate) const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
/// Counters of algorithm 4 (Linux has 2^16 of them; fewer only means that they are shared more).
const COUNTERS: usize = 256;
/// Ports of one sort tried here and there: if four in five are taken, that fails once in 35 times.
const LEAPS: u32 = 16;

/// The protocols that have ports of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    /// TCP ports.
    Tcp,
    /// UDP ports.
    Udp,
    /// UDP-Lite ports.
    Lite,
    /// Idents of ICMP datagram sockets.
    Ping,
}

/// The owners of all ports.
#[derive(Debug)]
pub(crate) struct Ports {
    owners: HashMap<(Space, u16), BTreeSet<SocketId>, Key>,
    counters: Box<[u16; COUNTERS]>,
}

/// What a socket that asks for a port is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// Its addresses.
    pub(crate) local: IpAddr,
    /// Whose it is.
    pub(crate) uid: u32,
}

impl Ports {
    /// Nobody owns any.
    pub(crate) fn new(key: Key) -> Self {
        Self { owners: HashMap::with_hasher(key), counters: Box::new([0; COUNTERS]) }
    }

    /// Whether anybody owns the port.
    pub(crate) fn is_free(&self, space: Space, port: u16) -> bool {
        !self.owners.contains_key(&(space, port))
    }

    /// `id` owns the port too.
    pub(crate) fn add(&mut self, space: Space, port: u16, id: SocketId) {
        self.owners.entry((space, port)).or_default().insert(id);
    }

    /// `id` owns the port no more.
    pub(crate) fn remove(&mut self, space: Space, port: u16, id: SocketId) {
        if let Some(owners) = self.owners.get_mut(&(space, port)) {
            owners.remove(&id);
            if owners.is_empty() {
                self.owners.remove(&(space, port));
            }
        }
    }

    /// Whether some owner keeps `socket` from having the port. `strict`: the port is for somebody who did not
    /// ask for this one, so nothing is shared.
    pub(crate) fn conflicts(
        &self,
        sockets: &Slots,
        (space, port): (Space, u16),
        id: SocketId,
        (socket, claim): (&Socket, Claim),
        strict: bool,
    ) -> bool {
        let Some(owners) = self.owners.get(&(space, port)) else { return false };
        owners.iter().filter(|other| **other != id).filter_map(|other| sockets.get(*other)).any(|other| {
            let (a, b) = (socket.options.device, other.options.device);
            let devices_meet = a.is_none() || b.is_none() || a == b;
            devices_meet
                && !may_share(space, (socket, claim), other, strict)
                && (space == Space::Ping || addresses_meet((socket, claim.local), other))
        })
    }

    /// Whether all owners have the port because connect(2) gave it to them: connections to other peers may
    /// share it.
    pub(crate) fn is_given(&self, sockets: &Slots, port: u16) -> bool {
        let owners = self.owners.get(&(Space::Tcp, port));
        // Owners of one port are either all of the one sort or all of the other: the first one tells.
        let first = owners.and_then(|owners| owners.first()).and_then(|id| sockets.get(*id));
        first.is_some_and(|socket| socket.ownership == Ownership::Given)
    }

    /// The ports of `range` in the order in which to try them, some of them twice. `hash`: a secret hash of what distinguishes this
    /// one from others that may have the same port.
    pub(crate) fn order(
        &mut self,
        range: RangeInclusive<u16>,
        hash: u64,
        even_first: bool,
    ) -> impl Iterator<Item = u16> + use<> {
        let (low, high) = (u32::from(*range.start()), u32::from(*range.end()));
        let count = high - low + 1;
        let counter = &mut self.counters[(hash >> 32) as usize % COUNTERS];
        let start = ((hash as u32).wrapping_add((*counter).into()) % count) & !1;
        *counter = counter.wrapping_add(2);
        let first = u32::from(!even_first) ^ (low & 1);
        let around = count + (count & 1);
        let leap = 2 * (((hash >> 40) as u32 % around) | 1);
        let tries = [(LEAPS.min(count), leap), (around / 2, 2)];
        tries
            .into_iter()
            .flat_map(move |(tries, step)| [(tries, step, first), (tries, step, first ^ 1)])
            .flat_map(move |(tries, step, parity)| {
                (0..tries).map(move |n| (start + step * n) % around + parity)
            })
            .filter(move |offset| *offset < count)
            .map(move |offset| (low + offset) as u16)
    }
}

/// inet_bind_conflict and udp_lib_lport_inuse, for two sockets whose places meet.
fn may_share(space: Space, (socket, claim): (&Socket, Claim), other: &Socket, strict: bool) -> bool {
    let reuse = socket.options.reuse_address && other.options.reuse_address;
    let same_owner = claim.uid == other.uid;
    let share = socket.options.reuse_port && other.options.reuse_port;
    match space {
        Space::Ping => reuse,
        Space::Udp | Space::Lite => reuse || (share && same_owner && !strict),
        Space::Tcp if reuse && !other.is_listening() => !strict,
        Space::Tcp => share && !strict && (same_owner || other.is_time_wait()),
    }
}

/// Whether a packet could be for both (inet_rcv_saddr_equal).
fn addresses_meet((socket, local): (&Socket, IpAddr), other: &Socket) -> bool {
    let takes_v4 = |domain: Domain, local: IpAddr, only: bool| {
        local.is_ipv4() || (domain == Domain::V6 && local.is_unspecified() && !only)
    };
    let only = |socket: &Socket| socket.domain == Domain::V6 && socket.options.ip6.only;
    let (a, b) = (local, other.local);
    if a.is_ipv4() == b.is_ipv4() {
        return a == b || a.is_unspecified() || b.is_unspecified();
    }
    // One of IPv4 and one of IPv6 meet if the one of IPv6 is for everything.
    let wide = |domain, local: IpAddr, only| local.is_ipv6() && takes_v4(domain, local, only);
    wide(socket.domain, a, only(socket)) || wide(other.domain, b, only(other))
}

/// The range of IP_LOCAL_PORT_RANGE (low half the first, high half the last, 0 for the default).
pub(crate) fn range(local_range: u32) -> Result<RangeInclusive<u16>, Errno> {
    let (low, high) = (local_range as u16, (local_range >> 16) as u16);
    let low = if low == 0 { *EPHEMERAL.start() } else { low.max(*EPHEMERAL.start()) };
    let high = if high == 0 { *EPHEMERAL.end() } else { high.min(*EPHEMERAL.end()) };
    if low > high { Ok(EPHEMERAL) } else { Ok(low..=high) }
}

#[cfg(test)]
mod tests {
    use super::super::keyed::Secret;
    use super::*;

    #[test]
    fn every_port_is_tried() {
        let mut ports = Ports::new(Key::new([1, 2]));
        let secret = Secret::new([3, 4]);
        for range in [EPHEMERAL, 40_001..=40_001, 40_001..=40_004, 40_000..=40_006] {
            for even in [true, false] {
                let seen: BTreeSet<u16> = ports.order(range.clone(), secret.of(&7u32), even).collect();
                assert!(seen.iter().copied().eq(range.clone()), "{range:?} {even}");
            }
        }
    }

    #[test]
    fn a_free_port_is_found_soon_until_nearly_all_are_taken() {
        let mut ports = Ports::new(Key::new([1, 2]));
        let secret = Secret::new([3, 4]);
        let (hash, all) = (secret.of(&7u32), EPHEMERAL.count());
        let mut taken = BTreeSet::new();
        let mut take = |count: usize| {
            let mut steps = 0;
            for _ in 0..count {
                let order = ports.order(EPHEMERAL, hash, true).inspect(|_| steps += 1);
                let port = order.into_iter().find(|port| !taken.contains(port)).expect("some are free");
                taken.insert(port);
            }
            steps / count
        };
        assert_eq!(take(all / 2), 1);
        let more = take(all * 2 / 5);
        assert!(more <= 2 * LEAPS as usize, "{more}");
        take(all / 10);
    }

    #[test]
    fn connections_begin_with_even_ports_and_others_elsewhere() {
        let mut ports = Ports::new(Key::new([1, 2]));
        let secret = Secret::new([3, 4]);
        let first =
            |ports: &mut Ports, ends: u32, even| ports.order(EPHEMERAL, secret.of(&ends), even).next();
        let even = first(&mut ports, 1, true).unwrap();
        assert_eq!(even % 2, 0);
        assert_eq!(first(&mut ports, 2, false).unwrap() % 2, 1);
        assert_ne!(first(&mut ports, 1, true), Some(even), "the counter goes on");
    }
}

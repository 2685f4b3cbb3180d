//! Neighbour discovery (RFC 4861), as net/ipv6/ndisc.c: who has an IPv6 address on a link.
//!
//! # Theory of operation
//! Messages count only if they come from the link itself (hop limit 255) and their options make sense. A
//! solicitation for one of the interface's addresses is answered and teaches us who asked; an advertisement
//! updates a neighbour that we know already (accept_untracked_na 0). What concerns an address still under
//! suspicion goes to duplicate address detection. What routers advertise goes to the tables, on interfaces that are
//! configured so.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use smoltcp::wire::{Icmpv6Message, Icmpv6Packet, NdiscNeighborFlags};
use switch::offload::VnetHdr;
use switch::offload::checksum::{fold, sum};

use super::neighbours::{Heard, Origin};
use super::output::{ICMPV6, Way, pseudo_sum};
use super::routes::Owned;
use super::{Net, Packet};
use crate::config::Mac;
use crate::gateway::advertise::{Advertisement, HOPS};
use crate::smol::tables::{IfIndex, Nud};

/// All nodes of a link.
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
/// Options: source and target link-layer address, redirected header, nonce (RFC 4861 clause 4.6, RFC 7527).
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const NONCE: u8 = 14;
/// Bytes of a solicitation or advertisement before its options.
const HEADER: usize = 24;
/// Bytes of a router's advertisement before its options.
const ROUTER_HEADER: usize = 16;
/// Bytes of a redirect before its options.
const REDIRECT_HEADER: usize = 40;

/// What a message's options say.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) source: Option<Mac>,
    pub(super) target: Option<Mac>,
    pub(super) nonce: Option<[u8; 6]>,
}

impl Net {
    pub(super) fn ndp_input(&mut self, now: Instant, packet: &Packet<'_>) {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
            return;
        };
        let Ok(message) = Icmpv6Packet::new_checked(&*packet.payload) else { return };
        if packet.ttl != HOPS || message.msg_code() != 0 {
            return;
        }
        let (kind, header) = match message.msg_type() {
            kind @ (Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert) => (kind, HEADER),
            kind @ Icmpv6Message::Redirect => (kind, REDIRECT_HEADER),
            kind @ Icmpv6Message::RouterAdvert => (kind, ROUTER_HEADER),
            // Router solicitations are for routers.
            _ => return,
        };
        let Some(options) = packet.payload.get(header..).and_then(options) else { return };
        match kind {
            Icmpv6Message::NeighborSolicit => {
                self.solicited(now, packet, (source, destination), message.target_addr(), &options);
            }
            Icmpv6Message::RouterAdvert => self.router_advertised(now, packet, source, &options),
            Icmpv6Message::NeighborAdvert => {
                self.advertised(now, packet, destination, &message, &options);
            }
            _ => {
                let quoted = redirected_header(&packet.payload[REDIRECT_HEADER..]);
                let way = (message.dest_addr(), message.target_addr());
                self.redirected_v6(now, packet, way, options.target, quoted);
            }
        }
    }

    /// Somebody asks (ndisc_recv_ns).
    fn solicited(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        (source, destination): (Ipv6Addr, Ipv6Addr),
        target: Ipv6Addr,
        options: &Options,
    ) {
        let detection = source.is_unspecified();
        let group = destination.is_multicast();
        if target.is_multicast()
            || (detection && (options.source.is_some() || destination != solicited_node(target)))
        {
            return;
        }
        let link = packet.link;
        let Some(owned) = self.owned_on(link, target) else { return };
        if !owned.is_usable() {
            // Our own question comes back from some links: its nonce tells (RFC 7527).
            if detection && !self.is_own_nonce(link, target, options.nonce) {
                self.detected(link, target);
            }
            return;
        }
        if detection {
            // Defence: whoever wants our address hears that it is taken (RFC 4862 clause 5.4.3).
            self.send_advertisement(now, link, target, ALL_NODES, (true, true));
            return;
        }
        let heard = Heard {
            mac: options.source,
            state: Nud::Stale,
            replace: true,
            doubt: true,
            create: true,
            router: None,
        };
        self.heard(now, link, IpAddr::V6(source), &heard);
        self.send_advertisement(now, link, target, source, (true, group));
    }

    /// Somebody answers, or tells (ndisc_recv_na).
    fn advertised(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        destination: Ipv6Addr,
        message: &Icmpv6Packet<&[u8]>,
        options: &Options,
    ) {
        let (target, flags) = (message.target_addr(), message.neighbor_flags());
        let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
        if target.is_multicast() || (destination.is_multicast() && solicited) {
            return;
        }
        let link = packet.link;
        if let Some(owned) = self.owned_on(link, target) {
            if !owned.is_usable() {
                self.detected(link, target);
            }
            return;
        }
        if self.neighbours.has_failed(link, IpAddr::V6(target)) {
            return;
        }
        let heard = Heard {
            mac: options.target,
            state: if solicited { Nud::Reachable } else { Nud::Stale },
            replace: flags.contains(NdiscNeighborFlags::OVERRIDE),
            doubt: true,
            create: false,
            router: Some(flags.contains(NdiscNeighborFlags::ROUTER)),
        };
        self.heard(now, link, IpAddr::V6(target), &heard);
    }

    /// A router says what there is (ndisc_router_discovery); routers themselves do not listen.
    fn router_advertised(&mut self, now: Instant, packet: &Packet<'_>, router: Ipv6Addr, options: &Options) {
        let link = packet.link;
        let hears = self.tables.link(link).is_ok_and(|it| it.hears_routers) && !self.tables.forwarding;
        if !hears || !router.is_unicast_link_local() || self.owned_on(link, router).is_some() {
            return;
        }
        let Some(said) = Advertisement::parse(&packet.payload) else { return };
        self.tables.advertised(now, link, router, &said, false);
        let heard = Heard {
            mac: options.source,
            state: Nud::Stale,
            replace: true,
            doubt: true,
            create: true,
            router: Some(true),
        };
        self.heard(now, link, IpAddr::V6(router), &heard);
    }

    /// Asks everybody who may have `target`, or only `known`.
    pub(super) fn send_solicitation(
        &mut self,
        now: Instant,
        link: IfIndex,
        source: Option<IpAddr>,
        target: Ipv6Addr,
        known: Option<Mac>,
    ) {
        let own = match source {
            Some(IpAddr::V6(source)) if self.owned_on(link, source).is_some() => Some(source),
            _ => self.select_v6(target, link),
        };
        let (Some(source), Some(mac)) = (own, self.mac(link)) else { return };
        let mut message = [0; HEADER + 8];
        message[0] = u8::from(Icmpv6Message::NeighborSolicit);
        message[8..24].copy_from_slice(&target.octets());
        message[24..26].copy_from_slice(&[SOURCE_LINK_LAYER, 1]);
        message[26..].copy_from_slice(&mac.0);
        let to = if known.is_some() { target } else { solicited_node(target) };
        self.send_message(now, link, known, (source, to), &mut message);
    }

    /// Asks whether anybody has an address that shall be ours (RFC 4862 clause 5.4.2).
    pub(super) fn send_detection(&mut self, now: Instant, link: IfIndex, target: Ipv6Addr, nonce: [u8; 6]) {
        let mut message = [0; HEADER + 8];
        message[0] = u8::from(Icmpv6Message::NeighborSolicit);
        message[8..24].copy_from_slice(&target.octets());
        message[24..26].copy_from_slice(&[NONCE, 1]);
        message[26..].copy_from_slice(&nonce);
        let way = (Ipv6Addr::UNSPECIFIED, solicited_node(target));
        self.send_message(now, link, None, way, &mut message);
    }

    /// Says that `target` is here. `flags`: solicited, override.
    pub(super) fn send_advertisement(
        &mut self,
        now: Instant,
        link: IfIndex,
        target: Ipv6Addr,
        to: Ipv6Addr,
        (solicited, replace): (bool, bool),
    ) {
        let Some(mac) = self.mac(link) else { return };
        let mut message = [0; HEADER + 8];
        let mut view = Icmpv6Packet::new_unchecked(&mut message[..]);
        view.set_msg_type(Icmpv6Message::NeighborAdvert);
        view.set_target_addr(target);
        let mut flags = NdiscNeighborFlags::empty();
        flags.set(NdiscNeighborFlags::SOLICITED, solicited && !to.is_multicast());
        flags.set(NdiscNeighborFlags::OVERRIDE, replace);
        flags.set(NdiscNeighborFlags::ROUTER, self.tables.forwarding);
        view.set_neighbor_flags(flags);
        message[24..26].copy_from_slice(&[TARGET_LINK_LAYER, 1]);
        message[26..].copy_from_slice(&mac.0);
        self.send_message(now, link, None, (target, to), &mut message);
    }

    /// Sends an ICMPv6 message on its link. `mac`: to this station, whatever the table says.
    fn send_message(
        &mut self,
        now: Instant,
        link: IfIndex,
        mac: Option<Mac>,
        (source, to): (Ipv6Addr, Ipv6Addr),
        message: &mut [u8],
    ) {
        self.send_control_v6(now, link, mac, (source, to), HOPS, &[], message);
    }

    /// As above with a hop limit, and with a hop-by-hop header if `hop_by_hop` is not empty.
    #[expect(clippy::too_many_arguments, reason = "one packet's fields")]
    pub(super) fn send_control_v6(
        &mut self,
        now: Instant,
        link: IfIndex,
        mac: Option<Mac>,
        (source, to): (Ipv6Addr, Ipv6Addr),
        hops: u8,
        hop_by_hop: &[u8],
        message: &mut [u8],
    ) {
        if self.arena.is_full() {
            return;
        }
        message[2..4].fill(0);
        let pseudo = pseudo_sum(IpAddr::V6(source), IpAddr::V6(to), ICMPV6, message.len());
        let value = !fold(pseudo + sum(message));
        message[2..4].copy_from_slice(&value.to_be_bytes());
        let mut head = [0; 40];
        head[0] = 0x60;
        head[4..6].copy_from_slice(&((hop_by_hop.len() + message.len()) as u16).to_be_bytes());
        head[6] = if hop_by_hop.is_empty() { ICMPV6 } else { super::ipv6::HOP_BY_HOP };
        head[7] = hops;
        head[8..24].copy_from_slice(&source.octets());
        head[24..].copy_from_slice(&to.octets());
        let at = self.arena.write(&[&head, hop_by_hop, message]);
        match mac {
            Some(mac) => self.emit_ip(link, mac, at, VnetHdr::default()),
            None => {
                let way = Way { link, next_hop: IpAddr::V6(to), group: to.is_multicast() };
                let _ = self.send_packet(now, way, at, VnetHdr::default(), Origin::Ours);
            }
        }
    }

    /// Our address on this very link.
    pub(super) fn owned_on(&self, link: IfIndex, address: Ipv6Addr) -> Option<Owned> {
        self.index().owned(IpAddr::V6(address)).iter().find(|owned| owned.link == link).copied()
    }
}

/// The group in which an address's owner listens for questions (RFC 4291 clause 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00, 0);
    Ipv6Addr::from_bits(PREFIX.to_bits() | (address.to_bits() & 0xFF_FFFF))
}

/// RFC 4861 clause 4.6. `None` if a length is zero or too long.
fn options(mut bytes: &[u8]) -> Option<Options> {
    let mut found = Options::default();
    while !bytes.is_empty() {
        let len = usize::from(*bytes.get(1)?) * 8;
        if len == 0 || len > bytes.len() {
            return None;
        }
        let value: [u8; 6] = bytes[2..8].try_into().ok()?;
        match bytes[0] {
            SOURCE_LINK_LAYER => found.source = Some(Mac(value)),
            TARGET_LINK_LAYER => found.target = Some(Mac(value)),
            NONCE if len == 8 => found.nonce = Some(value),
            _ => {}
        }
        bytes = &bytes[len..];
    }
    Some(found)
}

/// The packet that a redirect is about.
fn redirected_header(mut options: &[u8]) -> Option<&[u8]> {
    const REDIRECTED_HEADER: u8 = 4;
    loop {
        let len = usize::from(*options.get(1)?) * 8;
        let option = options.get(..len).filter(|_| len >= 8)?;
        if option[0] == REDIRECTED_HEADER {
            return option.get(8..);
        }
        options = &options[len..];
    }
}

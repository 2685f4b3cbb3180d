//! ARP (RFC 826), as net/ipv4/arp.c: who has an IPv4 address on an Ethernet.
//!
//! # Theory of operation
//! A question for one of our addresses is answered, whichever interface has it (arp_ignore 0), and teaches us
//! who asked; an answer or announcement updates a neighbour that we know already (arp_accept 0). A neighbour's
//! hardware address is not replaced within a second, so that of two answers the first one wins (locktime).

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use smoltcp::wire::{ArpHardware, ArpOperation, ArpPacket, EthernetProtocol};

use super::Net;
use super::neighbours::Heard;
use crate::config::Mac;
use crate::smol::tables::{IfIndex, Nud, RouteKind};

/// EtherType.
pub(super) const ETHERTYPE: u16 = 0x0806;
/// Everybody.
pub(super) const BROADCAST: Mac = Mac([0xFF; 6]);
/// The first of several answers holds for this long (locktime).
const LOCK: Duration = Duration::from_secs(1);
/// Bytes of a packet for Ethernet and IPv4.
const LEN: usize = 28;

/// What goes into a packet.
struct Arp {
    operation: ArpOperation,
    source: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
}

impl Net {
    /// An ARP packet arrived. `to_us`: its frame was for us alone.
    pub(super) fn arp_input(&mut self, now: Instant, link: IfIndex, bytes: &[u8], to_us: bool) {
        let Some(arp) = parse(bytes) else {
            self.count(link, |counters| counters.rx_errors += 1);
            return;
        };
        let (mac, source) = arp.source;
        let target = arp.target.1;
        // As arp_process: nobody is asked about these, and nobody is them.
        if target.is_multicast() || target.is_loopback() || source.is_multicast() || mac.0[0] & 1 != 0 {
            return;
        }
        let request = arp.operation == ArpOperation::Request;
        let ours =
            self.index().find_local(IpAddr::V4(target)).is_some_and(|hop| hop.kind == RouteKind::Local);
        if request && ours {
            if !source.is_unspecified() {
                let heard = Heard {
                    mac: Some(mac),
                    state: Nud::Stale,
                    replace: true,
                    doubt: false,
                    create: true,
                    router: None,
                };
                self.heard(now, link, IpAddr::V4(source), &heard);
            }
            self.send_arp_reply(link, target, (mac, source));
            return;
        }
        if source.is_unspecified() || !self.index().owned(IpAddr::V4(source)).is_empty() {
            return;
        }
        let announcement = source == target;
        let known_since = self.neighbours.updated(link, IpAddr::V4(source));
        let settled = known_since.is_none_or(|updated| now > updated + LOCK);
        let heard = Heard {
            mac: Some(mac),
            state: if !request && to_us { Nud::Reachable } else { Nud::Stale },
            replace: settled || announcement,
            doubt: false,
            create: false,
            router: None,
        };
        self.heard(now, link, IpAddr::V4(source), &heard);
    }

    /// Asks everybody, or only `known`, who has `target`.
    pub(super) fn send_arp_request(
        &mut self,
        link: IfIndex,
        source: Option<IpAddr>,
        target: Ipv4Addr,
        known: Option<Mac>,
    ) {
        let source = match source {
            Some(IpAddr::V4(source)) => source,
            _ => self.select_v4(link, Some(target), libc::RT_SCOPE_LINK).unwrap_or(Ipv4Addr::UNSPECIFIED),
        };
        let Some(own) = self.mac(link) else { return };
        let arp = Arp {
            operation: ArpOperation::Request,
            source: (own, source),
            target: (known.unwrap_or(Mac([0; 6])), target),
        };
        self.send_arp(link, known.unwrap_or(BROADCAST), &arp);
    }

    /// Tells everybody that an address is ours (RFC 5227 clause 2.3), so that nobody sends to who had it before.
    pub(super) fn announce_v4(&mut self, link: IfIndex, address: Ipv4Addr) {
        let Some(own) = self.mac(link) else { return };
        let arp =
            Arp { operation: ArpOperation::Request, source: (own, address), target: (Mac([0; 6]), address) };
        self.send_arp(link, BROADCAST, &arp);
    }

    fn send_arp_reply(&mut self, link: IfIndex, address: Ipv4Addr, target: (Mac, Ipv4Addr)) {
        let Some(own) = self.mac(link) else { return };
        let arp = Arp { operation: ArpOperation::Reply, source: (own, address), target };
        self.send_arp(link, target.0, &arp);
    }

    fn send_arp(&mut self, link: IfIndex, to: Mac, arp: &Arp) {
        let mut bytes = [0; LEN];
        let mut packet = ArpPacket::new_unchecked(&mut bytes);
        packet.set_hardware_type(ArpHardware::Ethernet);
        packet.set_protocol_type(EthernetProtocol::Ipv4);
        packet.set_hardware_len(6);
        packet.set_protocol_len(4);
        packet.set_operation(arp.operation);
        packet.set_source_hardware_addr(&arp.source.0.0);
        packet.set_source_protocol_addr(&arp.source.1.octets());
        packet.set_target_hardware_addr(&arp.target.0.0);
        packet.set_target_protocol_addr(&arp.target.1.octets());
        self.emit_bytes(link, to, ETHERTYPE, &bytes);
    }
}

fn parse(bytes: &[u8]) -> Option<Arp> {
    let packet = ArpPacket::new_checked(bytes).ok()?;
    let ethernet = packet.hardware_type() == ArpHardware::Ethernet && packet.hardware_len() == 6;
    if !ethernet || packet.protocol_type() != EthernetProtocol::Ipv4 || packet.protocol_len() != 4 {
        return None;
    }
    let operation = packet.operation();
    if !matches!(operation, ArpOperation::Request | ArpOperation::Reply) {
        return None;
    }
    let mac = |bytes: &[u8]| bytes.try_into().ok().map(Mac);
    let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
    Some(Arp {
        operation,
        source: (mac(packet.source_hardware_addr())?, address(packet.source_protocol_addr())?),
        target: (mac(packet.target_hardware_addr())?, address(packet.target_protocol_addr())?),
    })
}

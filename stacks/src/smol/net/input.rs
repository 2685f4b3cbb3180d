//! Frames that arrived.
//!
//! # Theory of operation
//! An Ethernet frame is for us if it is for our address or for a group; others' frames, which a promiscuous
//! interface sees, end here. A tag leads to the 802.1Q subinterface, whose frame it then is. What is behind goes
//! to ARP or IP by its EtherType, without a copy. IP packets from the loopback join here.

use std::time::Instant;

use switch::frame::{self, Frame, TAG_LEN};
use switch::offload::{GSO_NONE, VnetHdr};

use super::buffer::Buffer;
use super::{Delivery, Net, arp};
use crate::config::Mac;
use crate::filter::Tracked;
use crate::smol::tables::{IfIndex, LinkKind};

/// Tags on a frame, at most: a VLAN of a VLAN.
const MAX_TAGS: usize = 2;

/// How a packet came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// The interface; for packets to ourselves the one that has the address.
    pub(super) link: IfIndex,
    /// As in the virtio-net header.
    pub(super) gso_size: u16,
    /// The virtio-net header, counted from the packet's start.
    pub(super) header: VnetHdr,
    /// Its upper-layer checksum need not be looked at.
    pub(super) trusted: bool,
    /// Its frame was for a group or everybody.
    pub(super) group_frame: bool,
    /// Who sent the frame; absent on the loopback.
    pub(super) mac: Option<Mac>,
    /// What the packet filter knows of it already.
    pub(super) tracked: Option<Tracked>,
    /// It was put together from fragments for the packet filter, and may be cut again.
    pub(super) reassembled: bool,
}

impl Arrival {
    /// It came from ourselves.
    pub(super) fn is_looped(&self) -> bool {
        self.mac.is_none()
    }
}

impl Net {
    /// A frame arrived on an interface.
    pub fn handle_frame<'f>(
        &mut self,
        now: Instant,
        link: IfIndex,
        header: &VnetHdr,
        frame: &'f [u8],
    ) -> Delivery<'f> {
        self.arm_trim(now);
        let Some(device) = self.tables.links.get_mut(&link) else { return Delivery::None };
        if !device.up || !matches!(device.kind, LinkKind::Ethernet | LinkKind::Veth { .. }) {
            device.counters.rx_dropped += 1;
            return Delivery::None;
        }
        device.counters.rx_packets += 1;
        device.counters.rx_bytes += frame.len() as u64;
        let Some(parsed) = Frame::new(frame) else {
            device.counters.rx_errors += 1;
            return Delivery::None;
        };
        if !header.fits(frame.len(), parsed.header_len()) {
            device.counters.rx_errors += 1;
            return Delivery::None;
        }
        let destination = Mac(parsed.destination().0);
        let group_frame = parsed.destination().is_group();
        let mac = Some(Mac(parsed.source().0));
        if group_frame {
            device.counters.multicast += 1;
        }
        let Some((link, head)) = self.untag(link, parsed) else { return self.unwanted(link) };
        if !group_frame && self.mac(link) != Some(destination) {
            return Delivery::None;
        }
        let Some(ethertype) = frame.get(head - 2..head) else { return Delivery::None };
        let ethertype = u16::from_be_bytes([ethertype[0], ethertype[1]]);
        let arrival = Arrival {
            link,
            gso_size: if header.gso_type == GSO_NONE { 0 } else { header.gso_size },
            header: header.shifted(-(head as isize)),
            trusted: header.needs_csum() || header.gso_type != GSO_NONE,
            group_frame,
            mac,
            tracked: None,
            reassembled: false,
        };
        let packet = &frame[head..];
        match (ethertype, packet.first().map(|byte| byte >> 4)) {
            (arp::ETHERTYPE, _) => self.arp_input(now, link, packet, !group_frame),
            (frame::IPV4, Some(4)) | (frame::IPV6, Some(6)) => {
                return self.ip_input(now, &arrival, Buffer::Frame(packet));
            }
            (frame::IPV4 | frame::IPV6, _) => self.count(link, |counters| counters.rx_errors += 1),
            _ => self.count(link, |counters| counters.rx_dropped += 1),
        }
        Delivery::None
    }

    /// The interface or subinterface whose frame it is, and where the payload begins: one tag after the other
    /// leads on. `None`: a VLAN that nobody has.
    fn untag(&mut self, mut link: IfIndex, mut parsed: Frame<'_>) -> Option<(IfIndex, usize)> {
        let frame = parsed.bytes();
        let mut head = parsed.header_len();
        for _ in 0..MAX_TAGS {
            // A mere priority tag means the interface itself (802.1Q clause 6.9.1).
            let Some(vid) = parsed.tag().map(|tag| tag.raw_vid()).filter(|vid| *vid != 0) else { break };
            link = self.vlan_device(link, vid)?;
            let group = frame[0] & 1 != 0;
            self.count(link, |counters| {
                counters.rx_packets += 1;
                counters.rx_bytes += frame.len() as u64;
                counters.multicast += u64::from(group);
            });
            if parsed.ethertype() != frame::TPID {
                break;
            }
            // The tag inside.
            let Some(inner) = frame.get(head - 2 - 12..).and_then(Frame::new) else { break };
            parsed = inner;
            head += TAG_LEN;
        }
        Some((link, head))
    }

    /// An IP packet arrived.
    pub(super) fn ip_input<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        let version = buffer.front().first().map(|byte| byte >> 4);
        let ip = self.mib.ip(version == Some(4));
        ip.in_receives += 1;
        ip.in_octets += buffer.len() as u64;
        match version {
            Some(4) => self.ipv4_input(now, arrival, buffer),
            Some(6) => self.ipv6_input(now, arrival, buffer),
            _ => Delivery::None,
        }
    }

    /// Counts a packet whose IP header makes no sense.
    pub(super) fn misheaded<'f>(&mut self, link: IfIndex, v4: bool) -> Delivery<'f> {
        self.mib.ip(v4).in_header_errors += 1;
        self.bad(link)
    }

    /// Counts a packet whose addresses are not for us.
    pub(super) fn misaddressed<'f>(&mut self, link: IfIndex, v4: bool) -> Delivery<'f> {
        self.mib.ip(v4).in_address_errors += 1;
        self.unwanted(link)
    }

    /// Counts a packet that makes no sense.
    pub(super) fn bad<'f>(&mut self, link: IfIndex) -> Delivery<'f> {
        self.count(link, |counters| counters.rx_errors += 1);
        Delivery::None
    }

    /// Counts a packet that nobody wants.
    pub(super) fn unwanted<'f>(&mut self, link: IfIndex) -> Delivery<'f> {
        self.count(link, |counters| counters.rx_dropped += 1);
        Delivery::None
    }

    /// The subinterface of a VLAN, if it is up.
    fn vlan_device(&self, parent: IfIndex, vid: u16) -> Option<IfIndex> {
        let index = self.index().vlan(parent, vid)?;
        self.tables.links.get(&index).is_some_and(|link| link.up).then_some(index)
    }
}

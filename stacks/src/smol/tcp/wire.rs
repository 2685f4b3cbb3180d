//! The small world that smoltcp sees: two IPv4 hosts, one wire, one packet on it.
//!
//! # Theory of operation
//! smoltcp's TCP is reachable through its `Interface` only, which wants IP packets. So every segment to it is
//! dressed as IPv4 between two fixed addresses and ports, and every segment from it undressed, whatever the
//! real addresses are; checksums are off both ways. That gives IPv6 the same super-segments as IPv4, and one
//! `Interface` serves all connections of a machine.

use std::num::NonZeroUsize;

use smoltcp::iface::{Config, Interface};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Address};

use super::segment::{Bare, LONGEST_HEADER};

/// Bytes of the dress.
pub(super) const DRESS: usize = 20;
/// Ourselves.
pub(super) const HERE: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
/// The peer.
pub(super) const THERE: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
/// Our port and the peer's.
pub(super) const PORTS: (u16, u16) = (1, 2);
/// Longest packet of IPv4.
const LONGEST: usize = 65_535;
/// Longest segment from a peer that can be dressed; what is longer is cut and comes again.
pub(super) const LONGEST_SEGMENT: usize = LONGEST - DRESS;
/// An IPv6 header: super-segments leave room for one in a packet of 64 KiB.
const IPV6_HEADER: usize = 40;
/// A reply of smoltcp's: headers only.
pub(super) const REPLY: usize = DRESS + LONGEST_HEADER;

/// The interface for segments of at most `mss` bytes of data and options.
pub(super) fn interface(mss: u16, super_segments: bool, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mtu = (DRESS + 20 + usize::from(mss)).min(LONGEST);
    let mut wire = Wire { mtu, super_segments, ..Wire::new(&mut []) };
    let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        let here = IpCidr::new(HERE.into(), 24);
        addresses.push(here).expect("a fresh interface has room for an address");
    });
    interface
}

/// Dresses a segment for smoltcp into `packet`, whatever that held before.
pub(super) fn dress(packet: &mut Vec<u8>, header: &Bare<'_>, payload: &[u8]) {
    let mut front = [0; DRESS + LONGEST_HEADER];
    let length = header.emit(&mut front[DRESS..]);
    let payload = &payload[..payload.len().min(LONGEST_SEGMENT - length)];
    let total = ((DRESS + length + payload.len()) as u16).to_be_bytes();
    front[..12].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0]);
    front[12..16].copy_from_slice(&THERE.octets());
    front[16..20].copy_from_slice(&HERE.octets());
    packet.clear();
    packet.extend_from_slice(&front[..DRESS + length]);
    packet.extend_from_slice(payload);
}

/// One packet each way.
#[derive(Debug)]
pub(super) struct Wire<'a> {
    /// The packet for smoltcp.
    pub(super) incoming: Option<&'a [u8]>,
    /// Where its packet goes.
    pub(super) out: &'a mut [u8],
    /// Length of the packet it sent.
    pub(super) sent: Option<usize>,
    /// Data bytes per wire segment, if it is a super-segment.
    pub(super) gso_size: u16,
    mtu: usize,
    super_segments: bool,
}

impl<'a> Wire<'a> {
    /// A wire whose other end is `out`.
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Self { incoming: None, out, sent: None, gso_size: 0, mtu: 0, super_segments: false }
    }
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = In<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Out<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(In<'_>, Out<'_>)> {
        let packet = self.incoming.take()?;
        let out = Out { out: &mut *self.out, sent: &mut self.sent, gso_size: &mut self.gso_size };
        Some((In(packet), out))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        if self.sent.is_some() {
            return None;
        }
        Some(Out { out: &mut *self.out, sent: &mut self.sent, gso_size: &mut self.gso_size })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = ChecksumCapabilities::ignored();
        if self.super_segments {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(LONGEST - (IPV6_HEADER - DRESS));
        }
        capabilities
    }
}

/// The packet for smoltcp.
#[derive(Debug)]
pub(super) struct In<'a>(&'a [u8]);

impl RxToken for In<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for smoltcp's packet.
#[derive(Debug)]
pub(super) struct Out<'a> {
    out: &'a mut [u8],
    sent: &'a mut Option<usize>,
    gso_size: &'a mut u16,
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some(room) = self.out.get_mut(..len) else {
            // The caller's room is too short for its own settings: as good as lost on the way.
            return f(&mut vec![0; len]);
        };
        *self.sent = Some(len);
        f(room)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        *self.gso_size = meta.segmentation_offload_size.map_or(0, u16::from);
    }
}

//! SOL_PACKET (packet(7); net/packet/af_packet.c, packet_setsockopt).

use std::time::Instant;

use nix::errno::Errno;

use super::super::Body;
use super::super::packet::{AUXDATA, PacketSocket};
use super::{answer, int};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tables::IfIndex;

const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
pub(in crate::smol) const RX_RING: i32 = 5;
const STATISTICS: i32 = 6;
const COPY_THRESH: i32 = 7;
const ORIGDEV: i32 = 9;
const VERSION: i32 = 10;
const HDRLEN: i32 = 11;
const RESERVE: i32 = 12;
const TX_RING: i32 = 13;
const LOSS: i32 = 14;
const VNET_HDR: i32 = 15;
const TIMESTAMP: i32 = 17;
const FANOUT: i32 = 18;
const TX_HAS_OFF: i32 = 19;
const QDISC_BYPASS: i32 = 20;
const ROLLOVER_STATS: i32 = 21;
const IGNORE_OUTGOING: i32 = 23;
const VNET_HDR_SZ: i32 = 24;

/// TPACKET_V3
const V3: i32 = 2;
/// Memberships of one socket.
const MAX_MEMBERSHIPS: usize = 64;

impl Engine {
    fn packet_socket(&mut self, id: SocketId) -> Result<&mut PacketSocket, Errno> {
        match self.sockets.get_mut(id).map(|socket| &mut socket.body) {
            Some(Body::Packet(packet)) => Ok(packet),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    pub(crate) fn get_packet_option(
        &mut self,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let level = self.no_such_level(id);
        let packet = self.packet_socket(id).map_err(|_| level)?;
        let n = match name {
            STATISTICS => {
                let drops = packet.queue.dropped - packet.told_drops;
                packet.told_drops = packet.queue.dropped;
                let freezes = packet.ring.as_mut().map_or(0, |ring| std::mem::take(&mut ring.freezes));
                let told = [std::mem::take(&mut packet.packets), drops as u32, freezes];
                // struct tpacket_stats, struct tpacket_stats_v3
                let words = if packet.version == V3 { 3 } else { 2 };
                return Ok(told[..words].iter().flat_map(|word| word.to_ne_bytes()).collect());
            }
            // tpacket_hdr, tpacket2_hdr, tpacket3_hdr
            HDRLEN => match (value.len(), int(value)?) {
                (5.., _) => return Err(Errno::EINVAL),
                (_, 0) => 32,
                (_, 1) => 32,
                (_, 2) => 48,
                _ => return Err(Errno::EINVAL),
            },
            ROLLOVER_STATS => return Err(Errno::EINVAL),
            AUXDATA => packet.auxdata.into(),
            ORIGDEV => packet.original_device.into(),
            VERSION => packet.version,
            RESERVE => packet.reserve,
            TIMESTAMP => packet.time_stamp,
            IGNORE_OUTGOING => packet.ignore_outgoing.into(),
            COPY_THRESH | LOSS | VNET_HDR | VNET_HDR_SZ | FANOUT | TX_HAS_OFF | QDISC_BYPASS => 0,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(answer(n))
    }

    pub(crate) fn set_packet_option(
        &mut self,
        now: Instant,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let _ = now;
        let packet = self.packet_socket(id).map_err(|_| Errno::ENOPROTOOPT)?;
        if matches!(name, ADD_MEMBERSHIP | DROP_MEMBERSHIP) {
            return self.set_packet_membership(id, name == ADD_MEMBERSHIP, value);
        }
        let number = int(value)?;
        match name {
            // A ring needs memory: Engine::set_ring.
            RX_RING | TX_RING => return Err(Errno::EINVAL),
            // Where frames lie in a ring does not change.
            VERSION | RESERVE | LOSS if packet.ring.is_some() => match (name, number) {
                (VERSION, ..0 | 3..) | (RESERVE, ..0) => return Err(Errno::EINVAL),
                _ => return Err(Errno::EBUSY),
            },
            AUXDATA => packet.auxdata = number != 0,
            ORIGDEV => packet.original_device = number != 0,
            VERSION => match number {
                0..=2 => packet.version = number,
                _ => return Err(Errno::EINVAL),
            },
            RESERVE => packet.reserve = if number < 0 { return Err(Errno::EINVAL) } else { number },
            TIMESTAMP => packet.time_stamp = number,
            IGNORE_OUTGOING => match number {
                0 | 1 => packet.ignore_outgoing = number == 1,
                _ => return Err(Errno::EINVAL),
            },
            COPY_THRESH | LOSS | TX_HAS_OFF | QDISC_BYPASS => {}
            VNET_HDR | VNET_HDR_SZ if number == 0 => {}
            // Headers of virtio-net before each frame, and frames shared out among sockets, are not here.
            VNET_HDR | VNET_HDR_SZ | FANOUT => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// `struct packet_mreq`: interface, kind, length, address.
    fn set_packet_membership(&mut self, id: SocketId, add: bool, value: &[u8]) -> Result<(), Errno> {
        let bytes: [u8; 16] = value.get(..16).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
        let link = IfIndex(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let address: [u8; 8] = bytes[8..].try_into().expect("eight bytes");
        if usize::from(u16::from_ne_bytes([bytes[6], bytes[7]])) > address.len() {
            return Err(Errno::EINVAL);
        }
        let one = (link, kind, address);
        let packet = self.packet_socket(id)?;
        let at = packet.memberships.iter().position(|other| *other == one);
        match (add, at) {
            (true, _) if i32::from(kind) > libc::PACKET_MR_UNICAST => return Err(Errno::EINVAL),
            (true, _) if packet.memberships.len() >= MAX_MEMBERSHIPS => return Err(Errno::ENOBUFS),
            (true, _) => {
                self.net.tables.links.get(&link).ok_or(Errno::ENODEV)?;
                self.packet_socket(id)?.memberships.push(one);
            }
            (false, None) => return Err(Errno::EADDRNOTAVAIL),
            (false, Some(at)) => {
                packet.memberships.swap_remove(at);
            }
        }
        self.ask(link, kind, add)
    }
}

//! Packet sockets of type SOCK_PACKET: whole frames, and interfaces by name (packet(7), "Compatibility").
//!
//! # Theory of operation
//! The interface of Linux 2.0. It differs from SOCK_RAW in the addresses alone, which are a struct sockaddr_pkt:
//! the type of the hardware, the name of the interface in 14 bytes, the protocol. There are no options at SOL_PACKET,
//! and what is sent always says where to. Such a socket is found by [`Socket::kind`].
//!
//! Read: net/packet/af_packet.c (packet_bind_spkt, packet_getname_spkt, packet_sendmsg_spkt, packet_rcv_spkt).

use std::time::Instant;

use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::Socket;
use super::packet::{ETHERNET, PacketSocket, TAG, hardware};
use crate::smol::call::Done;
use crate::smol::engine::Engine;
use crate::smol::tables::{IfIndex, Link};
use crate::stack::SOCK_PACKET;

/// sizeof(struct sockaddr), and of struct sockaddr_pkt.
const PLAIN: usize = 16;
pub(crate) const PKT_LEN: usize = 18;
/// Where the name is in both, and how long.
const DEVICE: usize = 2;
const NAME: usize = 14;

impl Socket {
    /// It is a packet socket of the older type.
    pub(crate) fn is_spkt(&self) -> bool {
        self.kind == SOCK_PACKET
    }
}

/// The sockaddr_pkt of a frame that came or went by `link`.
pub(super) fn sender(link: &Link, protocol: u16) -> [u8; PKT_LEN] {
    let mut out = [0; PKT_LEN];
    out[..DEVICE].copy_from_slice(&hardware(link).to_ne_bytes());
    put_name(&mut out, link);
    out[DEVICE + NAME..].copy_from_slice(&protocol.to_be_bytes());
    out
}

fn put_name(out: &mut [u8], link: &Link) {
    // strscpy(): the last byte stays zero.
    let length = link.name.len().min(NAME - 1);
    out[DEVICE..DEVICE + length].copy_from_slice(&link.name.as_bytes()[..length]);
}

impl Engine {
    /// The interface that an address names.
    fn spkt_link(&self, bytes: &[u8]) -> Result<&Link, Errno> {
        let field = bytes.get(DEVICE..DEVICE + NAME).ok_or(Errno::EINVAL)?;
        let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENODEV)?;
        self.net.tables.link_by_name(name).ok_or(Errno::ENODEV)
    }

    /// bind(2): to an interface.
    pub(crate) fn spkt_device(&self, bytes: &[u8]) -> Result<IfIndex, Errno> {
        if bytes.len() != PLAIN { Err(Errno::EINVAL) } else { self.spkt_link(bytes).map(|link| link.index) }
    }

    /// getsockname(2)
    pub(crate) fn spkt_name(&self, packet: &PacketSocket) -> Vec<u8> {
        let mut out = vec![0; PLAIN];
        out[..DEVICE].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
        if let Some(link) = packet.link.and_then(|index| self.net.tables.links.get(&index)) {
            put_name(&mut out, link);
        }
        out
    }

    /// sendmsg(2): a frame.
    pub(crate) fn send_spkt(&mut self, now: Instant, to: Option<&[u8]>, frame: &[u8]) -> Result<Done, Errno> {
        let to = to.ok_or(Errno::ENOTCONN)?;
        if to.len() < PLAIN {
            return Err(Errno::EINVAL);
        }
        let link = self.spkt_link(to)?;
        if !link.up {
            return Err(Errno::ENETDOWN);
        }
        if frame.len() > link.mtu as usize + ETHERNET + TAG {
            return Err(Errno::EMSGSIZE);
        }
        if frame.len() < ETHERNET {
            return Err(Errno::EINVAL);
        }
        let index = link.index;
        self.net.send_frame(now, index, &VnetHdr::default(), frame)?;
        Ok(Done::Value(frame.len() as i64))
    }
}

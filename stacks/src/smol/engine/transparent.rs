//! Standing for others: a stack that takes what is for anybody beyond its networks, and answers in their names.
//!
//! # Theory of operation
//! What a gateway needs that has no packets to forward but sockets of a host to use instead. Packets to
//! destinations to which no route leads are taken in ([`Net::transparent`]). Their TCP connections come out of
//! [`Engine::poll_knock`] and wait, unanswered, for [`Engine::admit`], [`Engine::turn_away`] or
//! [`Engine::turn_away_with`]: the handshake says what the host's own attempt said. UDP, ICMP and what else is
//! for nobody's socket is given to the caller as it arrived ([`Arrived::Packet`]) instead of being rejected.
//!
//! [`Net::transparent`]: crate::smol::net::Net::transparent

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::ingress::Lent;
use super::{Engine, SocketId};
use crate::smol::call::{Caller, SocketCall};
use crate::smol::net::{Delivery, HEADROOM, NetError, Packet, Rejection, Trouble, Wish};
use crate::smol::sockets::Ownership;
use crate::smol::sockets::address::Endpoint;
use crate::smol::sockets::ports::Space;
use crate::smol::sockets::send::plain;
use crate::smol::tables::IfIndex;
use crate::stack::SocketSpec;

/// Connections that may wait to be let in: as many as a host's own attempts may be under way.
const MAX_KNOCKS: usize = 4096;
/// Where the checksum is in a UDP header.
const UDP_CHECKSUM: u16 = 6;
/// Where it is in an ICMP message.
const ICMP_CHECKSUM: u16 = 2;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

/// A listener, and the beginning of a connection that asks to be let in.
pub type Knocked = (SocketId, SocketId);

/// What a frame brought.
#[derive(Debug)]
pub enum Arrived<'f> {
    /// Nothing for the caller.
    Nothing,
    /// A stream's bytes, lent: see [`Engine::handle_frame_lending`].
    Lent(Lent),
    /// A packet that is neither TCP nor the network layer's own business.
    Packet(Packet<'f>),
    /// An ICMP error about a packet of no TCP connection, and that packet's upper-layer header.
    Error(NetError, Vec<u8>),
}

impl Engine {
    /// From now on it stands for all others. The listener of their connections is returned.
    ///
    /// # Errors
    /// Those of socket(2) and listen(2).
    pub fn stand_for_others(&mut self, now: Instant, caller: &Caller) -> Result<SocketId, Errno> {
        let spec = SocketSpec { domain: libc::AF_INET6, kind: libc::SOCK_STREAM, protocol: 0 };
        let listener = self.new_socket(now, spec, caller)?;
        self.set_no_delay(now, listener, caller)?;
        self.call(now, listener, caller, &SocketCall::Listen { backlog: i32::MAX })?;
        if let Some(listener) = self.listener_mut(listener) {
            listener.most_embryos = MAX_KNOCKS;
        }
        self.ask_listeners();
        self.catcher = Some(listener);
        self.net.transparent = true;
        Ok(listener)
    }

    /// As [`Engine::handle_frame_lending`]; what no socket is asked about is the caller's.
    pub fn handle_frame_for_others<'f>(
        &mut self,
        now: Instant,
        link: IfIndex,
        header: &VnetHdr,
        frame: &'f [u8],
    ) -> Arrived<'f> {
        self.clock = now;
        let delivery = self.net.handle_frame(now, link, header, frame);
        let tcp = libc::IPPROTO_TCP as u8;
        let start = match &delivery {
            Delivery::Packet(packet) if packet.protocol == tcp => {
                packet.payload.as_ptr().addr().wrapping_sub(frame.as_ptr().addr())
            }
            Delivery::Error(error, ..) if error.protocol == tcp => 0,
            Delivery::None => 0,
            Delivery::Packet(_) => {
                let Delivery::Packet(packet) = delivery else { return Arrived::Nothing };
                self.drain_loopback(now);
                return Arrived::Packet(packet);
            }
            Delivery::Error(..) => {
                let Delivery::Error(error, _, quoted) = delivery else { return Arrived::Nothing };
                return Arrived::Error(error, quoted);
            }
        };
        self.lends = true;
        self.deliver(now, delivery);
        self.lends = false;
        match self.lent.take() {
            Some((socket, at)) => Arrived::Lent(Lent { socket, at: start + at.start..start + at.end }),
            None => {
                self.drain_loopback(now);
                Arrived::Nothing
            }
        }
    }

    /// Whom a stream is between: the one who called, and whom it called.
    pub fn ends(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        let socket = self.sockets.get(id)?;
        let peer = socket.peer?;
        Some((SocketAddr::new(peer.address, peer.port), SocketAddr::new(socket.local, socket.port)))
    }

    /// A stream that connects in somebody's name: `from` is whom its peer `to` will see. It tells by its status how that
    /// went.
    ///
    /// # Errors
    /// As connect(2): EADDRNOTAVAIL when there is such a connection already; no way there.
    pub fn connect_as(
        &mut self,
        now: Instant,
        (from, to): (SocketAddr, SocketAddr),
        caller: &Caller,
    ) -> Result<SocketId, Errno> {
        let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let spec = SocketSpec { domain, kind: libc::SOCK_STREAM, protocol: 0 };
        let id = self.new_socket(now, spec, caller)?;
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.local = from.ip();
            if from.port() != 0 {
                (socket.port, socket.ownership) = (from.port(), Ownership::Bound);
                self.ports.add(Space::Tcp, from.port(), id);
            }
        }
        let opened = self
            .set_no_delay(now, id, caller)
            .and_then(|()| self.open_stream(now, id, Endpoint::new(to.ip(), to.port())));
        if let Err(errno) = opened {
            self.close_socket(now, id, false);
            return Err(errno);
        }
        self.drain_loopback(now);
        Ok(id)
    }

    /// What is relayed was gathered by whoever wrote it.
    fn set_no_delay(&mut self, now: Instant, id: SocketId, caller: &Caller) -> Result<(), Errno> {
        let (level, name, value) = (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1i32.to_ne_bytes().to_vec());
        self.call(now, id, caller, &SocketCall::SetOption { level, name, value }).map(drop)
    }

    /// As [`Engine::turn_away`], with an ICMP error about its SYN instead of a reset.
    pub fn turn_away_with(&mut self, now: Instant, (listener, child): Knocked, trouble: Trouble) {
        let stream = self.sockets.get_mut(child).and_then(|socket| socket.stream_mut());
        let knock = stream.and_then(|stream| stream.knock.take());
        self.forget_embryo(listener, child);
        self.drop_stream(child);
        if let Some(knock) = knock {
            self.net.tell(now, knock.packet(), trouble);
        }
        self.drain_loopback(now);
    }

    /// Tells the sender of a packet what became of it; `offender` is who says so, if it is not we.
    pub fn tell(&mut self, now: Instant, packet: &Packet<'_>, trouble: Trouble, offender: Option<IpAddr>) {
        self.net.tell_as(now, packet, trouble, offender);
    }

    /// Tells the sender of a packet that nobody knows its protocol.
    pub fn refuse_protocol(&mut self, now: Instant, packet: &Packet<'_>) {
        self.net.reject(now, packet, Rejection::ProtocolUnreachable);
    }

    /// Sends a UDP datagram in somebody's name; `link` is where `to` is, if its address does not say so.
    ///
    /// # Errors
    /// As send(2): no way there, no room.
    pub fn send_as(
        &mut self,
        now: Instant,
        (from, to): (SocketAddr, SocketAddr),
        link: Option<IfIndex>,
        data: &[u8],
        segment: u16,
    ) -> Result<(), Errno> {
        let slot = self.net.slot();
        let end = HEADROOM + UDP_HEADER + data.len();
        slot.get_mut(HEADROOM + UDP_HEADER..end).ok_or(Errno::EMSGSIZE)?.copy_from_slice(data);
        let mut header = [0; UDP_HEADER];
        header[..2].copy_from_slice(&from.port().to_be_bytes());
        header[2..4].copy_from_slice(&to.port().to_be_bytes());
        header[4..6].copy_from_slice(&((UDP_HEADER + data.len()) as u16).to_be_bytes());
        slot[HEADROOM..HEADROOM + UDP_HEADER].copy_from_slice(&header);
        let source = Some(from.ip()).filter(|address| !address.is_unspecified());
        let path = self.net.route(to.ip(), &Wish { source, link, on_link: false })?;
        let mut datagram = plain(to.ip(), libc::IPPROTO_UDP as u8, Some(UDP_CHECKSUM));
        datagram.gso_size = segment;
        self.net.send_slot(now, &path, &datagram, HEADROOM..end)
    }

    /// Sends an ICMP message, whose checksum is filled in, in somebody's name.
    ///
    /// # Errors
    /// As send(2): no way there, no room.
    pub fn send_message_as(
        &mut self,
        now: Instant,
        (from, to): (Option<IpAddr>, IpAddr),
        link: Option<IfIndex>,
        ttl: u8,
        message: &[&[u8]],
    ) -> Result<(), Errno> {
        let path = self.net.route(to, &Wish { source: from, link, on_link: false })?;
        let protocol = if to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
        let mut datagram = plain(to, protocol as u8, Some(ICMP_CHECKSUM));
        datagram.ttl = ttl;
        self.net.send(now, &path, &datagram, message)
    }

    /// A router says that the way to `destination` takes packets of `mtu` bytes and no longer ones. Whoever calls has made sure
    /// that it quotes one that was sent (RFC 5927 clause 7).
    pub fn learn_path_mtu(&mut self, now: Instant, destination: IpAddr, mtu: u32) {
        self.net.set_path_mtu(now, destination, mtu);
    }

    /// Somebody else may have an address now: it is asked for anew.
    pub fn forget_neighbour(&mut self, link: IfIndex, address: IpAddr) {
        self.net.forget_neighbour(link, address);
    }

    /// It hears what is sent to a group on an interface.
    pub fn hear_group(&mut self, now: Instant, link: IfIndex, group: IpAddr) {
        self.net.join(now, link, group);
    }
}

//! The core of a tunnel: what becomes of each packet and each datagram.
//!
//! # Theory of operation
//! A frame of the stack is cut into packets of the MTU; each goes to the peer that has the longest prefix in its
//! AllowedIPs (*cryptokey routing*), encrypted straight into the [`Outbox`]. A datagram goes to the peer whose index it
//! names, or, if it begins a handshake, whose key it proves to have; what it carries is put into the [`Inbox`] if its
//! source is among that peer's AllowedIPs. Whatever a peer authenticates tells where it is now (roaming); cookie
//! replies do not, as anybody can send them.
//!
//! Handshakes, sessions with their replay windows, rekeying and cookies are boringtun's `Tunn`, one per peer. It reads
//! the monotonic clock and the system's randomness itself; all that is ours here takes time as an argument. `Tunn` wants
//! to be called a few times a second while something may be due: [`Tunnel::poll_timeout`] says when, and never
//! for a tunnel on which nothing is under way.
//!
//! Every input is followed by taking what lies in [`Tunnel::outbox`], [`Tunnel::inbox`] and [`Tunnel::unresolved`].
//! Limits: sessions are 8 per peer, packets that wait for one 256 (both boringtun's); peers and AllowedIPs are bounded
//! in [`super::quick`]. Read: Donenfeld, clauses 2 (cryptokey routing), 2.1 (roaming), 5.3 (cookies), 6 (timers).

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use switch::frame::{Frame, HEADER_LEN, IPV4, IPV6, TagEdit};
use switch::offload::{Pieces, VnetHdr, emit};
use switch::port::Offloads;

use super::batch::{Inbox, MAX_DATAGRAM, Outbox};
use super::names::Names;
use super::quick::{Config, Endpoint, Key};
pub use peer::PeerInfo;
use peer::{Peer, TICK};

mod peer;

/// Handshake messages per second from which on cookies are asked for. Each is counted twice, by us and by `Tunn`.
const HANDSHAKES: u64 = 100;
/// Bytes that WireGuard adds to a packet.
const OVERHEAD: usize = 32;
/// Bytes of the longest message of a handshake.
const HANDSHAKE_LEN: usize = 148;
/// Packets are filled up to multiples of this (clause 5.4.6), the MTU permitting.
const PADDING: usize = 16;
/// Longest packet that fits into a datagram.
const MAX_PACKET: usize = MAX_DATAGRAM - OVERHEAD;
/// Bytes of the longest packet, its frame's header and what fills it up; so many that malloc(3) makes a mapping of them,
/// of which only what the MTU needs takes memory.
const SCRATCH: usize = 128 << 10;
const _: () = assert!(SCRATCH >= HEADER_LEN + MAX_PACKET + PADDING);
/// Kinds of message (clause 5.4).
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const DATA: u8 = 4;

/// A tunnel with all its peers.
pub struct Tunnel {
    private: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
    peers: Vec<Peer>,
    by_key: FxHashMap<[u8; 32], usize>,
    v4: PrefixMap<Ipv4Net, usize>,
    v6: PrefixMap<Ipv6Net, usize>,
    /// The first peer's number in messages; the others follow.
    base: u32,
    mtu: usize,
    names: Names,
    /// Where a packet is put together before it is encrypted.
    scratch: Box<[u8]>,
    /// Datagrams to be sent.
    pub outbox: Outbox,
    /// Frames for the stack.
    pub inbox: Inbox,
    /// Names of endpoints to be looked up, by peer; answered by [`Tunnel::handle_resolved`].
    pub unresolved: Vec<(usize, Endpoint)>,
    dropped: Dropped,
    /// Datagrams that only a peer could have sent.
    heard: u64,
    ticked: Option<Instant>,
    /// When a peer's timers are to be looked at.
    due: Option<Instant>,
}

/// What was thrown away, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Frames of the stack that are no IP packets, or contradict themselves.
    pub malformed: u64,
    /// Packets that no peer is to have.
    pub no_peer: u64,
    /// Packets for a peer of whom nobody knows where it is.
    pub no_endpoint: u64,
    /// Datagrams that no peer authenticates, replayed ones among them.
    pub not_authentic: u64,
    /// Packets from a source that their peer may not send from.
    pub not_allowed: u64,
    /// What there was no room for.
    pub no_room: u64,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// A tunnel as `config` says, which knows of no endpoint but those in digits. `base` is where its indices in
    /// messages begin, at random; `machine` are the nameservers that programs ask.
    pub fn new(config: &Config, base: u32, machine: &[IpAddr]) -> Self {
        let private = StaticSecret::from(config.private_key.0);
        let public = PublicKey::from(&private);
        let limiter = Arc::new(RateLimiter::new(&public, 2 * HANDSHAKES));
        let (mut v4, mut v6) = (PrefixMap::new(), PrefixMap::new());
        let (mut peers, mut by_key) = (Vec::new(), FxHashMap::default());
        for (number, peer) in config.peers.iter().enumerate() {
            for net in &peer.allowed_ips {
                // As in wg(8), the last peer that names a prefix has it.
                match net {
                    IpNet::V4(net) => drop(v4.insert(net.trunc(), number)),
                    IpNet::V6(net) => drop(v6.insert(net.trunc(), number)),
                }
            }
            by_key.insert(peer.public_key.0, number);
            let index = base.wrapping_add(number as u32) & 0x00FF_FFFF;
            let longest = config.mtu.unwrap_or(super::MTU) as usize + PADDING + OVERHEAD;
            peers.push(Peer { longest, ..Peer::new(peer, &private, index, &limiter) });
        }
        let names = Names::new(config.stands_for(machine), config.dns.clone());
        Self {
            private,
            public,
            limiter,
            peers,
            by_key,
            v4,
            v6,
            base: base & 0x00FF_FFFF,
            mtu: config.mtu.unwrap_or(super::MTU) as usize,
            names,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            unresolved: Vec::new(),
            dropped: Dropped::default(),
            heard: 0,
            ticked: None,
            due: None,
        }
    }

    /// Our key.
    pub fn public_key(&self) -> Key {
        Key(self.public.to_bytes())
    }

    /// A frame of the stack.
    pub fn handle_frame(&mut self, now: Instant, header: &VnetHdr, bytes: &[u8]) {
        self.freshen(now);
        let Some(frame) = Frame::new(bytes).filter(|frame| header.fits(bytes.len(), frame.header_len()))
        else {
            self.dropped.malformed += 1;
            return;
        };
        let packet = &bytes[HEADER_LEN..];
        let destination = match frame.ethertype() {
            IPV4 if packet.len() >= 20 => Tunn::dst_address(packet),
            IPV6 if packet.len() >= 40 => Tunn::dst_address(packet),
            _ => None,
        };
        let Some(destination) = destination else {
            self.dropped.malformed += 1;
            return;
        };
        // Whom it is for in the end, the tunnel's nameservers included, each packet says itself.
        let fixed = (!self.names.may_rewrite(destination)).then(|| self.peer_for(destination)).flatten();
        let cut = emit(header, frame, TagEdit::Keep, Offloads::NONE, |_, pieces| {
            self.encrypt(now, fixed, pieces);
            ControlFlow::Continue(())
        });
        if cut.is_err() {
            self.dropped.malformed += 1;
        }
    }

    /// Puts one packet together, takes it where it belongs, and fills it up.
    fn encrypt(&mut self, now: Instant, fixed: Option<usize>, pieces: &Pieces<'_>) {
        let mut len = 0;
        for piece in pieces {
            match self.scratch.get_mut(len..len + piece.len()) {
                Some(room) => room.copy_from_slice(piece),
                None => {
                    self.dropped.malformed += 1;
                    return;
                }
            }
            len += piece.len();
        }
        let packet = &mut self.scratch[HEADER_LEN..len];
        let to = fixed.or_else(|| {
            self.names.outbound(packet);
            let destination = Tunn::dst_address(packet)?;
            lookup(&self.v4, &self.v6, destination)
        });
        let Some(number) = to else {
            self.dropped.no_peer += 1;
            return;
        };
        let len = len - HEADER_LEN;
        let full = len.next_multiple_of(PADDING).min(self.mtu.max(len));
        self.scratch[HEADER_LEN + len..HEADER_LEN + full].fill(0);
        let Self { peers, outbox, scratch, dropped, .. } = self;
        let peer = &mut peers[number];
        if peer.endpoint.is_none() {
            dropped.no_endpoint += 1;
            return;
        }
        let Some(room) = outbox.room((full + OVERHEAD).max(HANDSHAKE_LEN)) else {
            dropped.no_room += 1;
            return;
        };
        let result = peer.tunn.encapsulate(&scratch[HEADER_LEN..HEADER_LEN + full], room);
        if let TunnResult::WriteToNetwork(datagram) = result {
            let (kind, len) = (datagram[0], datagram.len());
            peer.send(now, kind, len, outbox);
            if kind == INITIATION {
                self.expect(number);
            }
        }
    }

    /// A datagram from `from`.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.freshen(now);
        let number = match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::HandshakeInit(_)) => self.initiator(from, datagram),
            Ok(Packet::HandshakeResponse(_) | Packet::PacketCookieReply(_) | Packet::PacketData(_)) => {
                // The receiver's index, which is ours.
                let at = if datagram[0] == RESPONSE { 8 } else { 4 };
                let index = datagram[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default() >> 8;
                let number = (index.wrapping_sub(self.base) & 0x00FF_FFFF) as usize;
                Some(number).filter(|number| *number < self.peers.len())
            }
            Err(_) => None,
        };
        match number {
            Some(number) => {
                if datagram[0] == DATA {
                    self.decrypt(now, number, from, datagram);
                } else {
                    self.shake(now, number, from, datagram);
                    self.expect(number);
                }
            }
            None => self.dropped.not_authentic += 1,
        }
    }

    /// Whose key the sender of the first message of a handshake has. Under load it must have a cookie.
    fn initiator(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<usize> {
        let mut cookie = [0; HANDSHAKE_LEN];
        match self.limiter.verify_packet(Some(from.ip()), datagram, &mut cookie) {
            Ok(Packet::HandshakeInit(message)) => {
                let half = parse_handshake_anon(&self.private, &self.public, &message).ok()?;
                self.by_key.get(&half.peer_static_public).copied()
            }
            Err(TunnResult::WriteToNetwork(reply)) => {
                let len = reply.len();
                if let Some(room) = self.outbox.room(len) {
                    room.copy_from_slice(reply);
                    self.outbox.commit(from, len);
                }
                None
            }
            _ => None,
        }
    }

    /// A message of a handshake, or a cookie.
    fn shake(&mut self, now: Instant, number: usize, from: SocketAddr, datagram: &[u8]) {
        let Self { peers, outbox, dropped, heard, .. } = self;
        let peer = &mut peers[number];
        let kind = datagram[0];
        let Some(room) = outbox.room(HANDSHAKE_LEN) else {
            dropped.no_room += 1;
            return;
        };
        match peer.tunn.decapsulate(Some(from.ip()), datagram, room) {
            TunnResult::Done => peer.received += datagram.len() as u64,
            TunnResult::WriteToNetwork(reply) => {
                let (reply_kind, len) = (reply[0], reply.len());
                if reply_kind == COOKIE {
                    outbox.commit(from, len);
                    return;
                }
                *heard += 1;
                peer.authentic(now, kind, from, datagram.len());
                peer.send(now, reply_kind, len, outbox);
                if kind == RESPONSE {
                    peer.send_waiting(now, outbox);
                }
            }
            _ => dropped.not_authentic += 1,
        }
    }

    fn decrypt(&mut self, now: Instant, number: usize, from: SocketAddr, datagram: &[u8]) {
        let Self { peers, inbox, outbox, dropped, heard, v4, v6, names, .. } = self;
        let peer = &mut peers[number];
        let Some(room) = inbox.room(datagram.len()) else {
            dropped.no_room += 1;
            return;
        };
        let (packet, source) = match peer.tunn.decapsulate(Some(from.ip()), datagram, room) {
            TunnResult::WriteToTunnelV4(packet, source) => (packet, Some(IpAddr::V4(source))),
            TunnResult::WriteToTunnelV6(packet, source) => (packet, Some(IpAddr::V6(source))),
            // A keepalive.
            TunnResult::Done => (&mut [][..], None),
            _ => {
                dropped.not_authentic += 1;
                return;
            }
        };
        *heard += 1;
        match source {
            Some(source) if lookup(v4, v6, source) == Some(number) => {
                names.inbound(packet);
                let len = packet.len();
                inbox.commit(len);
            }
            Some(_) => dropped.not_allowed += 1,
            None => {}
        }
        peer.confirm(now, from, datagram.len(), outbox);
    }

    /// The name of a peer's endpoint was looked up.
    pub fn handle_resolved(&mut self, now: Instant, number: usize, address: SocketAddr) {
        let Some(peer) = self.peers.get_mut(number) else { return };
        let first = peer.endpoint.is_none();
        // Who was heard meanwhile is where it was heard from.
        if first || peer.trying.is_some() {
            peer.endpoint = Some(address);
        }
        if first && peer.keepalive.is_some() {
            peer.initiate(now, &mut self.outbox);
            self.expect(number);
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let began = self.ticked.is_none();
        self.ticked = Some(now);
        self.limiter.reset_count();
        for (number, peer) in self.peers.iter_mut().enumerate() {
            peer.tick(now, began, &mut self.outbox);
            if let Some(name) = peer.question(now) {
                self.unresolved.push((number, name));
            }
        }
        self.due = self.peers.iter().filter_map(Peer::wait).min().map(|wait| now + wait);
    }

    /// When to call [`Tunnel::handle_timeout`], if nothing else happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Something happened to a peer: its timers are to be looked at soon.
    fn expect(&mut self, number: usize) {
        let (Some(peer), Some(ticked)) = (self.peers.get(number), self.ticked) else { return };
        let due = peer.wait().map(|wait| ticked + wait);
        self.due = self.due.into_iter().chain(due).min();
    }

    /// `Tunn` tells time by the last tick: before something happens to it, that must not be long ago.
    fn freshen(&mut self, now: Instant) {
        if self.ticked.is_none_or(|at| now.saturating_duration_since(at) >= TICK) {
            self.handle_timeout(now);
        }
    }

    fn peer_for(&self, destination: IpAddr) -> Option<usize> {
        lookup(&self.v4, &self.v6, destination)
    }

    /// The peers, in the file's order.
    pub fn peers(&self, now: Instant) -> Vec<PeerInfo> {
        self.peers.iter().map(|peer| peer.info(now)).collect()
    }

    /// How many datagrams came that only a peer could have sent.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Where a peer is, as far as is known.
    pub fn endpoint(&self, number: usize) -> Option<SocketAddr> {
        self.peers.get(number)?.endpoint
    }

    /// What was dropped.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }
}

fn lookup(v4: &PrefixMap<Ipv4Net, usize>, v6: &PrefixMap<Ipv6Net, usize>, address: IpAddr) -> Option<usize> {
    match address {
        IpAddr::V4(address) => v4.get_lpm(&Ipv4Net::from(address)).map(|(_, number)| *number),
        IpAddr::V6(address) => v6.get_lpm(&Ipv6Net::from(address)).map(|(_, number)| *number),
    }
}

#[cfg(test)]
mod tests;

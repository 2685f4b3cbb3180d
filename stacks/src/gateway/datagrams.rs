//! UDP and echo requests: one host socket for each address and port (or ident) of the inside.
//!
//! # Theory of operation
//! Whatever an inside address sends from a port leaves by one socket of the host's, whoever it is for, and whatever
//! arrives there goes back to it: endpoint-independent mapping and filtering (RFC 4787 REQ-1, REQ-8). Echo requests
//! do the same by ident, over sockets of icmp(7), in which the kernel puts an ident of its own (RFC 5508). The TTL goes
//! on where it was, so a traceroute sees the ways behind the gateway. ICMP errors come from the socket's error queue
//! (IP_RECVERR) and are told to the inside in the name of whoever told the host.
//!
//! Datagrams that follow each other go to the host's kernel together ([`super::train`]).
//!
//! A mapping ends when nothing left or came for five minutes (RFC 4787 REQ-5), half a minute if all that left were
//! questions to nameservers, one minute for echoes (RFC 5508 REQ-2).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::associations::Associations;
use super::flows::{Flows, Slot};
use super::host::{self, Heard};
use super::nat64;
use super::policy::Verdict;
use super::quote::{QUOTED, quote, udp};
use super::services::DOMAIN;
use super::streams::trouble;
use super::train::Train;
use super::{Hall, Place};
use crate::smol::net::{NetError, Packet, Trouble};

/// Mappings at once: each takes a descriptor.
pub(super) const MAX_MAPPINGS: usize = 16_384;
/// Datagrams, or trains of them, taken from one socket before others have their turn.
const TURN: usize = 32;
/// Errors taken from one socket in its turn.
const ERRORS: usize = 8;
/// Translated questions of one inside port that are remembered until they are answered.
const MAX_TRANSLATED: usize = 64;
/// What every resolver takes (RFC 1035 section 4.2.1); what is longer already may stay so.
const LONGEST_ANSWER: usize = 512;
const LIFETIME: Duration = Duration::from_secs(5 * 60);
const QUESTIONS: Duration = Duration::from_secs(30);
const ECHOES: Duration = Duration::from_secs(60);
/// What the host's kernel sends datagrams with, if nobody says otherwise.
const HOST_TTL: u8 = 64;
/// Bytes of a UDP header, and of an echo's.
const HEADER: usize = 8;

/// UDP, or ICMP's echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// UDP, by a host socket of IPv4 or of IPv6.
    Udp(bool),
    /// Echo requests, likewise.
    Echo(bool),
    /// Questions to this address of the gateway's, which go to a nameserver.
    Question(IpAddr),
}

/// Which inside address; its port is an ident for echoes.
pub(super) type Key = (Kind, SocketAddr);

#[derive(Debug)]
struct Mapping {
    kind: Kind,
    inside: SocketAddr,
    /// The nameserver, of questions.
    server: Option<SocketAddr>,
    socket: OwnedFd,
    /// Numbers of questions that were asked for IPv4 addresses in the place of IPv6 ones.
    translated: VecDeque<[u8; 2]>,
    ttl: u8,
    /// Whether the host may cut what it sends; `None`: nothing was sent that could be too long.
    uncut: Option<bool>,
    /// Whom the last datagram was for that the host's kernel found too long.
    too_long: Option<SocketAddr>,
    lifetime: Duration,
    /// There may be more to take from it.
    ready: bool,
}

/// Those of a gateway.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) flows: Flows<Key>,
    /// Those that go by a proxy.
    pub(super) associations: Associations,
    mappings: Vec<Option<Mapping>>,
    /// Those that are ready.
    turn: VecDeque<Slot>,
    pub(super) prohibited: u64,
    pub(super) evicted: u64,
    /// Datagrams that the host's kernel did not take.
    pub(super) unsent: u64,
    /// A nameserver is not there.
    unheard: bool,
    /// What the inside sent last, and may go with what it sends next.
    train: Train,
}

impl Datagrams {
    pub(super) fn new() -> Self {
        Self {
            flows: Flows::new(MAX_MAPPINGS),
            associations: Associations::new(),
            mappings: Vec::new(),
            turn: Default::default(),
            prohibited: 0,
            evicted: 0,
            unsent: 0,
            unheard: false,
            train: Train::new(),
        }
    }

    /// How many mappings there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len() + self.associations.flows.len()
    }

    /// Inside addresses, and how many mappings each has.
    pub(super) fn owners(&self) -> impl Iterator<Item = (IpAddr, usize)> {
        self.flows.owners().chain(self.associations.flows.owners())
    }

    /// A UDP datagram, or a train of them, of the inside.
    pub(super) fn handle_udp(&mut self, now: Instant, packet: &Packet<'_>, hall: &mut Hall) {
        let Some((head, data)) = packet.payload.split_first_chunk::<HEADER>() else { return };
        let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let inside = SocketAddr::new(packet.source, port(0));
        let to = SocketAddr::new(packet.destination, port(2));
        let to = match hall.policy.judge(to) {
            Verdict::Host(to) => to,
            Verdict::Own => return hall.engine.tell(now, packet, Trouble::Port, None),
            verdict => return self.refuse(now, verdict, packet, hall),
        };
        // The host's own loopback is no proxy's.
        if hall.way.is_some() && !to.ip().is_loopback() {
            return match self.associations.send(now, inside, to, packet, data, hall) {
                Ok(()) => {}
                Err(Trouble::Prohibited) => self.refuse(now, Verdict::Prohibited, packet, hall),
                Err(why) => hall.engine.tell(now, packet, why, None),
            };
        }
        self.send(now, (Kind::Udp(to.is_ipv4()), inside), to, packet, data, hall);
    }

    /// A question to the gateway, for `server` to answer.
    pub(super) fn handle_question(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        server: SocketAddr,
        hall: &mut Hall,
    ) {
        let Some((head, data)) = packet.payload.split_first_chunk::<HEADER>() else { return };
        let inside = SocketAddr::new(packet.source, u16::from_be_bytes([head[0], head[1]]));
        let key = (Kind::Question(packet.destination), inside);
        // Another server than last time needs another socket, perhaps of another family.
        if let Some(slot) = self.flows.find(&key)
            && self.mappings[slot].as_ref().is_some_and(|mapping| mapping.server != Some(server))
        {
            self.forget(slot);
        }
        let translated = hall.dns64.then(|| nat64::as_v4(data)).flatten();
        self.send(now, key, server, packet, translated.as_deref().unwrap_or(data), hall);
        if translated.is_some()
            && let Some(mapping) = self.flows.find(&key).and_then(|slot| self.mappings[slot].as_mut())
        {
            mapping.translated.push_back([data[0], data[1]]);
            mapping.translated.truncate(MAX_TRANSLATED);
        }
    }

    /// Has a nameserver turned out not to be there since this was last asked?
    pub(super) fn take_unheard(&mut self) -> bool {
        std::mem::take(&mut self.unheard)
    }

    fn refuse(&mut self, now: Instant, verdict: Verdict, packet: &Packet<'_>, hall: &mut Hall) {
        if verdict == Verdict::Prohibited {
            self.prohibited += 1;
            hall.engine.tell(now, packet, Trouble::Prohibited, None);
        }
    }

    /// An echo request of the inside.
    pub(super) fn handle_echo(&mut self, now: Instant, packet: &Packet<'_>, hall: &mut Hall) {
        let Some(ident) = packet.payload.get(4..6) else { return };
        let inside = SocketAddr::new(packet.source, u16::from_be_bytes([ident[0], ident[1]]));
        let to = match hall.policy.judge(SocketAddr::new(packet.destination, 0)) {
            // No proxy sends them.
            Verdict::Host(_) if hall.way.is_some() => {
                return self.refuse(now, Verdict::Prohibited, packet, hall);
            }
            Verdict::Host(to) => to,
            verdict => return self.refuse(now, verdict, packet, hall),
        };
        let v4 = to.is_ipv4();
        let message = retyped(&packet.payload, if v4 { ICMP_ECHO } else { ICMPV6_ECHO });
        self.send(now, (Kind::Echo(v4), inside), to, packet, &message, hall);
    }

    fn send(
        &mut self,
        now: Instant,
        key: Key,
        to: SocketAddr,
        packet: &Packet<'_>,
        data: &[u8],
        hall: &mut Hall,
    ) {
        let question = matches!(key.0, Kind::Question(_));
        if packet.ttl <= 1 && !question {
            return hall.engine.tell(now, packet, Trouble::Hops, None);
        }
        let lifetime = match key.0 {
            Kind::Echo(_) => ECHOES,
            Kind::Question(_) => QUESTIONS,
            Kind::Udp(_) if to.port() == DOMAIN => QUESTIONS,
            Kind::Udp(_) => LIFETIME,
        };
        let slot = match self.flows.find(&key).map_or_else(|| self.open(now, key, to, lifetime, hall), Ok) {
            Ok(slot) => slot,
            Err(errno) => {
                let why = trouble(errno).unwrap_or(Trouble::Prohibited);
                return hall.engine.tell(now, packet, why, None);
            }
        };
        self.flows.touch(now, slot);
        let Some(Some(mapping)) = self.mappings.get_mut(slot) else { return };
        if lifetime > mapping.lifetime {
            mapping.lifetime = lifetime;
            self.flows.set_lifetime(now, slot, lifetime);
        }
        let ttl = (packet.ttl - 1).min(HOST_TTL);
        let uncut = uncut(packet, to.is_ipv4()).or(mapping.uncut);
        let same = (ttl, uncut) == (mapping.ttl, mapping.uncut) || question;
        let single = matches!(key.0, Kind::Udp(_)) && packet.gso_size == 0 && same;
        if single && self.train.join(slot, to, data) {
            return;
        }
        self.depart(now, hall);
        if single && self.train.join(slot, to, data) {
            return;
        }
        let Some(Some(mapping)) = self.mappings.get_mut(slot) else { return };
        if !same {
            mapping.set_header(to.is_ipv4(), ttl, uncut);
        }
        if let Err(errno) = mapping.send(to, data, packet.gso_size) {
            self.unsent += 1;
            if let Some(why) = trouble(errno) {
                hall.engine.tell(now, packet, why, None);
            }
        }
    }

    /// Sends what waited for more. To be called when there is no more.
    pub(super) fn depart(&mut self, now: Instant, hall: &mut Hall) {
        let Self { train, mappings, unsent, .. } = self;
        let Some((slot, to, segment, bytes)) = train.whole() else { return };
        if let Some(Some(mapping)) = mappings.get_mut(slot) {
            // One by one, if the host's kernel does not take them all at once: some are too long for it, perhaps.
            let train =
                segment < bytes.len() && host::send(&mapping.socket, to, bytes, segment as u16).is_ok();
            let rest = if train { &[] } else { bytes };
            for data in rest.chunks(segment) {
                let Err(errno) = mapping.send(to, data, 0) else { continue };
                *unsent += 1;
                if trouble(errno).is_some() {
                    hall.scratch[..data.len()].copy_from_slice(data);
                    let (offender, icmp, info, length) = (None, (0, 0), 0, data.len());
                    mapping.tell(now, &Heard { to, offender, errno, icmp, info, length }, hall);
                }
            }
        }
        train.clear();
    }

    fn open(
        &mut self,
        now: Instant,
        key: Key,
        to: SocketAddr,
        lifetime: Duration,
        hall: &mut Hall,
    ) -> Result<Slot, Errno> {
        let (kind, inside) = key;
        if !hall.policy.is_inside(inside.ip()) {
            return Err(Errno::EACCES);
        }
        if let Some(slot) = self.flows.crowded() {
            self.depart(now, hall);
            self.evicted += 1;
            self.forget(slot);
        }
        let v4 = to.is_ipv4();
        let socket = match kind {
            Kind::Udp(_) | Kind::Question(_) => host::datagram_socket(v4)?,
            Kind::Echo(_) => host::echo_socket(v4)?,
        };
        let slot = self.flows.insert(now, key, inside.ip(), lifetime);
        let watched = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        if let Err(errno) = hall.watch(&socket, Place::Datagrams(slot), watched) {
            self.flows.remove(slot);
            return Err(errno);
        }
        if self.mappings.len() <= slot {
            self.mappings.resize_with(slot + 1, || None);
        }
        self.mappings[slot] = Some(Mapping {
            kind,
            inside,
            server: matches!(kind, Kind::Question(_)).then_some(to),
            socket,
            translated: VecDeque::new(),
            ttl: HOST_TTL,
            uncut: None,
            too_long: None,
            lifetime,
            ready: false,
        });
        Ok(slot)
    }

    /// Something came for a socket.
    pub(super) fn handle_event(&mut self, slot: Slot) {
        if let Some(Some(mapping)) = self.mappings.get_mut(slot)
            && !mapping.ready
        {
            mapping.ready = true;
            self.turn.push_back(slot);
        }
    }

    /// Takes what has come; true: there may be more.
    pub(super) fn run(&mut self, now: Instant, hall: &mut Hall) -> bool {
        for _ in 0..self.turn.len() {
            let Some(slot) = self.turn.pop_front() else { break };
            let Some(Some(mapping)) = self.mappings.get_mut(slot) else { continue };
            for _ in 0..ERRORS {
                let Some(heard) = host::receive_error(&mapping.socket, &mut hall.scratch) else { break };
                if mapping.server.is_some() {
                    self.unheard = true;
                } else {
                    mapping.tell(now, &heard, hall);
                }
            }
            mapping.ready = mapping.receive(now, hall);
            if mapping.ready {
                self.turn.push_back(slot);
            }
            self.flows.touch(now, slot);
        }
        self.associations.run(now, hall) | !self.turn.is_empty()
    }

    /// Has something been sent to the inside that an error quotes?
    pub(super) fn sent(&self, error: &NetError, quoted: &[u8]) -> bool {
        let (at, kinds) = match i32::from(error.protocol) {
            libc::IPPROTO_UDP => (2, [Kind::Udp(true), Kind::Udp(false), Kind::Question(error.source)]),
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => (4, [true, false, true].map(Kind::Echo)),
            _ => return false,
        };
        let Some(&[a, b]) = quoted.get(at..at + 2) else { return false };
        let inside = SocketAddr::new(error.destination, u16::from_be_bytes([a, b]));
        kinds.into_iter().any(|kind| self.flows.find(&(kind, inside)).is_some())
            || [None, Some(error.source)]
                .into_iter()
                .any(|name| self.associations.flows.find(&(inside, name)).is_some())
    }

    /// Ends what was silent for too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.associations.handle_timeout(now);
        while let Some(slot) = self.flows.poll_expired(now) {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.mappings[slot] = None;
        self.flows.remove(slot);
    }
}

impl Mapping {
    /// What it sends from now on has such a header.
    fn set_header(&mut self, v4: bool, ttl: u8, uncut: Option<bool>) {
        if ttl != self.ttl {
            host::set_ttl(&self.socket, v4, ttl);
        }
        if let Some(uncut) = uncut.filter(|_| uncut != self.uncut) {
            host::set_uncut(&self.socket, v4, uncut);
        }
        (self.ttl, self.uncut) = (ttl, uncut);
    }

    /// Sends a datagram, or a train of them `segment` bytes each: one by one, if the host's kernel does not take them all at
    /// once, as some are too long for it, perhaps.
    fn send(&mut self, to: SocketAddr, data: &[u8], segment: u16) -> Result<(), Errno> {
        let train = segment > 0 && usize::from(segment) < data.len();
        // An error of an earlier datagram stands before this one: it is in the queue, too.
        let sent = host::send(&self.socket, to, data, segment)
            .or_else(|_| host::send(&self.socket, to, data, segment));
        if sent == Err(Errno::EMSGSIZE) {
            self.too_long = Some(to);
        }
        if !train || sent.is_ok() {
            return sent;
        }
        let mut all = Ok(());
        for piece in data.chunks(segment.into()) {
            let sent = self.send(to, piece, 0);
            all = all.and(sent);
        }
        all
    }

    /// Takes what has come; true: there may be more.
    fn receive(&mut self, now: Instant, hall: &mut Hall) -> bool {
        for _ in 0..TURN {
            let got = match host::receive(&self.socket, &mut hall.scratch) {
                Ok(got) => got,
                // An error of a datagram that was sent; it is in the queue, too.
                Err(errno) if errno != Errno::EAGAIN => continue,
                Err(_) => return false,
            };
            let from = match (self.kind, self.server) {
                (Kind::Question(asked), Some(server)) => {
                    (got.from == server).then(|| SocketAddr::new(asked, DOMAIN))
                }
                _ => hall.policy.name(got.from, self.inside.is_ipv4()),
            };
            let Some(from) = from else { continue };
            match self.kind {
                Kind::Udp(_) | Kind::Question(_) => {
                    let data = &hall.scratch[..got.length];
                    let told = self.translate_back(data);
                    let data = told.as_deref().unwrap_or(data);
                    // No room: as lost as on any way.
                    let _ = hall.engine.send_as(now, (from, self.inside), None, data, got.segment);
                }
                Kind::Echo(_) if got.length >= HEADER => {
                    let message = &mut hall.scratch[..got.length];
                    message[0] = if self.inside.is_ipv4() { ICMP_REPLY } else { ICMPV6_REPLY };
                    message[2..4].fill(0);
                    message[4..6].copy_from_slice(&self.inside.port().to_be_bytes());
                    let ends = (Some(from.ip()), self.inside.ip());
                    let _ = hall.engine.send_message_as(now, ends, None, HOST_TTL, &[message]);
                }
                Kind::Echo(_) => {}
            }
        }
        true
    }

    /// The answer to a question that was asked for IPv4 addresses.
    fn translate_back(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let place = self.translated.iter().position(|number| message.starts_with(number))?;
        let answer = nat64::as_v6(message, message.len().max(LONGEST_ANSWER))?;
        self.translated.remove(place);
        Some(answer)
    }

    /// Tells the inside what the host heard of one of its datagrams, the first bytes of which are in the scratch.
    fn tell(&self, now: Instant, heard: &Heard, hall: &mut Hall) {
        let v4 = self.inside.is_ipv4();
        let what = match heard.errno {
            Errno::ECONNREFUSED => Trouble::Port,
            Errno::EMSGSIZE => Trouble::TooBig { mtu: path_mtu(heard, v4) },
            Errno::EHOSTUNREACH
                if matches!((heard.to.is_ipv4(), heard.icmp), (true, (11, 0)) | (false, (3, 0))) =>
            {
                Trouble::Hops
            }
            // A router's or a host's filter; of IPv6 the errno says it.
            Errno::EHOSTUNREACH
                if heard.to.is_ipv4() && matches!(heard.icmp, (DESTINATION_UNREACHABLE, 9 | 10 | 13)) =>
            {
                Trouble::Prohibited
            }
            errno => match trouble(errno) {
                Some(trouble) => trouble,
                None => return,
            },
        };
        // What the host's kernel itself says of IPv4 lacks the port (ip_local_error).
        let whole = self.too_long.filter(|to| heard.to.port() == 0 && to.ip() == heard.to.ip());
        let Some(to) = hall.policy.name(whole.unwrap_or(heard.to), v4) else { return };
        let data = &hall.scratch[..heard.length.min(QUOTED)];
        let (protocol, payload) = match self.kind {
            Kind::Udp(_) | Kind::Question(_) => (libc::IPPROTO_UDP, udp(self.inside.port(), to.port(), data)),
            // What the queue has of an echo is its own header first.
            Kind::Echo(_) => {
                let mut message = retyped(data, if v4 { ICMP_ECHO } else { ICMPV6_ECHO });
                if let Some(ident) = message.get_mut(4..6) {
                    ident.copy_from_slice(&self.inside.port().to_be_bytes());
                }
                (if v4 { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 }, message)
            }
        };
        let offender = heard.offender.and_then(|address| hall.policy.name(SocketAddr::new(address, 0), v4));
        let packet = quote(hall.link, (self.inside.ip(), to.ip()), protocol as u8, payload);
        hall.engine.tell(now, &packet, what, offender.map(|it| it.ip()));
    }
}

/// An IPv4 datagram of this many bytes passes everywhere (RFC 791), an IPv6 one of this many (RFC 8200 clause 5), an IPv6
/// one as an IPv4 one of this many is to be cut if need be (RFC 7915 section 5.1).
const SHORT: u16 = 576;
const SHORT_V6: u16 = 1280;
const SHORT_TRANSLATED: u16 = 1260;

/// Whether the host may cut a packet that it sends by IPv4 or by IPv6; `None`: it is so short that it need not (RFC 4787
/// REQ-13).
fn uncut(packet: &Packet<'_>, v4: bool) -> Option<bool> {
    let short = match (packet.source.is_ipv4(), v4) {
        (true, true) => SHORT,
        (_, false) => SHORT_V6,
        (false, true) => SHORT_TRANSLATED,
    };
    let header = if v4 { 20 } else { 40 };
    let payload = match packet.gso_size {
        0 => packet.payload.len(),
        segment => HEADER + usize::from(segment),
    };
    (header + payload > usize::from(short)).then(|| packet.must_stay_whole())
}

/// Type of ICMP messages (RFC 792).
const DESTINATION_UNREACHABLE: u8 = 3;
/// Types of echo messages (RFC 792, RFC 4443).
const ICMP_ECHO: u8 = 8;
const ICMP_REPLY: u8 = 0;
const ICMPV6_ECHO: u8 = 128;
const ICMPV6_REPLY: u8 = 129;
/// By how much an IPv6 header is longer than one of IPv4.
const LONGER: u32 = 20;

/// An echo message with the type that its family has.
fn retyped(message: &[u8], kind: u8) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(first) = message.first_mut() {
        *first = kind;
    }
    message
}

/// What a path's MTU is to the inside (RFC 7915 section 4.2).
fn path_mtu(heard: &Heard, v4: bool) -> u32 {
    match (heard.to.is_ipv4(), v4) {
        (true, false) => heard.info.saturating_add(LONGER),
        (false, true) => heard.info.saturating_sub(LONGER),
        _ => heard.info,
    }
}

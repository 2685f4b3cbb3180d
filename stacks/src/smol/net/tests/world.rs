//! A small world for tests: stacks on one wire, virtual time, seeded loss.
//!
//! # Theory of operation
//! Every frame that a stack sends reaches all others a millisecond later, unless it is lost; time jumps from
//! event to event. What the stacks have for their sockets is kept to be looked at. A wire for plain frames cuts
//! super-segments and fills checksums as a port without offloads makes the switch do, so that the receiver's
//! checks prove the sender's sums.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use switch::frame::{Frame, TagEdit};
use switch::offload::{VnetHdr, emit};
use switch::port::Offloads;

use crate::config::Mac;
use crate::smol::net::random::Random;
use crate::smol::net::{Datagram, Delivery, Fragmenting, Net, NetError, Packet, Path, Wish};
use crate::smol::tables::{
    Address, Change, IfIndex, LOOPBACK, Link, LinkCounters, LinkKind, Route, RouteKind,
};

/// The Ethernet interface of every stack.
pub(super) const ETH: IfIndex = IfIndex(2);

/// What a stack's sockets would have got.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) packets: Vec<Packet<'static>>,
    pub(super) errors: Vec<(NetError, Vec<u8>)>,
}

/// A frame on the wire.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) from: usize,
    pub(super) link: IfIndex,
    pub(super) header: VnetHdr,
    pub(super) frame: Vec<u8>,
}

/// Stacks on one wire.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nets: Vec<Net>,
    pub(super) inboxes: Vec<Inbox>,
    /// Every frame that was sent.
    pub(super) log: Vec<Sent>,
    /// Of a thousand frames, how many are lost.
    pub(super) loss: u64,
    /// The wire takes no offloads.
    pub(super) plain: bool,
    /// Which wire an interface is on, if not on the first.
    pub(super) wires: BTreeMap<(usize, IfIndex), u8>,
    air: BTreeMap<(Instant, u64), Sent>,
    random: Random,
    sent: u64,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    pub(super) fn new(stacks: u8) -> Self {
        let now = Instant::now();
        Self {
            now,
            nets: (0..stacks).map(|number| stack(number, now)).collect(),
            inboxes: (0..stacks).map(|_| Inbox::default()).collect(),
            log: Vec::new(),
            loss: 0,
            plain: false,
            wires: BTreeMap::new(),
            air: BTreeMap::new(),
            random: Random::new([42; 32]),
            sent: 0,
        }
    }

    /// Two stacks, 10.0.0.1 and fd00::1, 10.0.0.2 and fd00::2.
    pub(super) fn pair() -> Self {
        let mut world = Self::new(2);
        for (number, net) in world.nets.iter_mut().enumerate() {
            add_address(net, ETH, &format!("10.0.0.{}/24", number + 1));
            add_address(net, ETH, &format!("fd00::{}/64", number + 1));
            add_address(net, ETH, &format!("fe80::{}/64", number + 1));
            settle(net, world.now);
        }
        world.drain();
        world.air.clear();
        world.log.clear();
        world
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.drain();
        loop {
            let frame = self.air.keys().next().map(|(at, _)| *at);
            let timer = self.nets.iter().filter_map(Net::poll_timeout).min();
            let Some(next) = frame.into_iter().chain(timer).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if frame == Some(next) {
                let (_, sent) = self.air.pop_first().unwrap();
                for (to, at) in self.others(sent.from, sent.link) {
                    self.deliver_at(to, at, &sent.header, &sent.frame);
                }
            } else {
                for net in &mut self.nets {
                    net.handle_timeout(self.now);
                }
            }
            self.drain();
        }
        self.now = end;
    }

    /// A frame arrives.
    pub(super) fn deliver(&mut self, to: usize, header: &VnetHdr, frame: &[u8]) {
        self.deliver_at(to, ETH, header, frame);
    }

    /// The other interfaces on the same wire.
    fn others(&self, from: usize, link: IfIndex) -> Vec<(usize, IfIndex)> {
        let wire = |at| self.wires.get(&at).copied().unwrap_or_default();
        let ethernets = self.nets.iter().enumerate().flat_map(|(number, net)| {
            let links = net.tables.links.values().filter(|link| link.kind == LinkKind::Ethernet);
            links.map(move |link| (number, link.index))
        });
        ethernets.filter(|at| *at != (from, link) && wire(*at) == wire((from, link))).collect()
    }

    fn deliver_at(&mut self, to: usize, link: IfIndex, header: &VnetHdr, frame: &[u8]) {
        let delivery = self.nets[to].handle_frame(self.now, link, header, frame);
        keep(&mut self.inboxes[to], delivery);
        self.drain();
    }

    /// Takes what the stacks have to give.
    pub(super) fn drain(&mut self) {
        for from in 0..self.nets.len() {
            while let Some(delivery) = self.nets[from].poll_loopback(self.now) {
                keep(&mut self.inboxes[from], delivery);
            }
            settle(&mut self.nets[from], self.now);
            while let Some(error) = self.nets[from].poll_error() {
                self.inboxes[from].errors.push(error);
            }
            let mut frames = Vec::new();
            self.nets[from].poll_transmit(&mut |link, header, frame| {
                frames.push((link, *header, frame.to_vec()));
            });
            for (link, header, frame) in frames {
                self.put(from, link, header, frame);
            }
        }
    }

    fn put(&mut self, from: usize, link: IfIndex, header: VnetHdr, frame: Vec<u8>) {
        self.log.push(Sent { from, link, header, frame: frame.clone() });
        let mut pieces = Vec::new();
        if self.plain {
            let view = Frame::new(&frame).expect("stacks send whole frames");
            emit(&header, view, TagEdit::Keep, Offloads::default(), |header, parts| {
                pieces.push((*header, parts.concat()));
                ControlFlow::Continue(())
            })
            .expect("stacks send sound frames");
        } else {
            pieces.push((header, frame));
        }
        for (header, frame) in pieces {
            self.sent += 1;
            if self.random.below(1000) >= self.loss {
                let due = self.now + Duration::from_millis(1);
                self.air.insert((due, self.sent), Sent { from, link, header, frame });
            }
        }
    }

    /// Sends a datagram where its route leads.
    pub(super) fn send(&mut self, from: usize, datagram: &Datagram<'_>, data: &[u8]) -> Result<Path, Errno> {
        let path = self.nets[from].route(datagram.destination, &Wish::default())?;
        self.nets[from].send(self.now, &path, datagram, &[data])?;
        Ok(path)
    }

    /// Frames of an EtherType that a stack sent since the log was last cleared.
    pub(super) fn sent(&self, from: usize, ethertype: u16) -> Vec<Vec<u8>> {
        let of = |sent: &&Sent| sent.from == from && sent.frame[12..14] == ethertype.to_be_bytes();
        self.log.iter().filter(of).map(|sent| sent.frame[14..].to_vec()).collect()
    }

    /// The packets that a stack got, and its inbox empty afterwards; without those that only raw sockets want:
    /// neighbour discovery and group management.
    pub(super) fn take(&mut self, at: usize) -> Vec<Packet<'static>> {
        let mut packets = std::mem::take(&mut self.inboxes[at].packets);
        packets.retain(|packet| packet.protocol != 58 || !(130..=143).contains(&packet.payload[0]));
        packets
    }
}

fn keep(inbox: &mut Inbox, delivery: Delivery<'_>) {
    match delivery {
        Delivery::None => {}
        Delivery::Packet(packet) => inbox.packets.push(owned(packet)),
        Delivery::Error(error, _, quoted) => inbox.errors.push((error, quoted)),
    }
}

fn owned(packet: Packet<'_>) -> Packet<'static> {
    Packet {
        header: Cow::Owned(packet.header.into_owned()),
        payload: Cow::Owned(packet.payload.into_owned()),
        ..packet
    }
}

/// A hardware address.
pub(super) fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

/// An interface that is up.
pub(super) fn link(index: IfIndex, kind: LinkKind, mac: Mac) -> Link {
    Link {
        index,
        name: format!("eth{}", index.0),
        kind,
        mac,
        mtu: 1500,
        up: true,
        carrier: true,
        promiscuous: 0,
        allmulti: 0,
        queue_length: 1000,
        plugged: String::new(),
        wished_flags: 0,
        link_local: false,
        hears_routers: false,
        configured6: false,
        counters: LinkCounters::default(),
    }
}

/// A stack with its loopback and one Ethernet interface, up and without addresses.
pub(super) fn stack(number: u8, now: Instant) -> Net {
    let mut net = Net::new([number + 1; 32], now);
    net.tables.links.get_mut(&LOOPBACK).unwrap().up = true;
    add_address(&mut net, LOOPBACK, "127.0.0.1/8");
    add_address(&mut net, LOOPBACK, "::1/128");
    net.tables.links.insert(ETH, link(ETH, LinkKind::Ethernet, mac(number + 1)));
    net.tables.changes.push_back(Change::Link(ETH));
    settle(&mut net, now);
    net
}

/// Tells the network layer what changed.
pub(super) fn settle(net: &mut Net, now: Instant) {
    while let Some(change) = net.tables.changes.pop_front() {
        net.note(now, &change);
    }
}

/// A route as the kernel makes them.
pub(super) fn route(to: &str, link: Option<IfIndex>, table: u8, kind: RouteKind) -> Route {
    Route {
        to: to.parse::<IpNet>().unwrap().trunc(),
        gateway: None,
        link,
        source: None,
        metric: if to.contains(':') { 256 } else { 0 },
        table: u32::from(table),
        kind,
        scope: if to.contains(':') { 0 } else { libc::RT_SCOPE_LINK },
        protocol: libc::RTPROT_KERNEL,
        flags: 0,
        mtu: None,
        expires: None,
    }
}

/// Adds a route.
pub(super) fn add_route(net: &mut Net, route: Route) {
    net.tables.routes.push(route.clone());
    net.tables.changes.push_back(Change::Route(route));
}

/// Adds a route by a gateway.
pub(super) fn add_gateway(net: &mut Net, to: &str, gateway: &str) {
    let gateway = Some(gateway.parse().unwrap());
    add_route(
        net,
        Route { gateway, scope: 0, ..route(to, Some(ETH), libc::RT_TABLE_MAIN, RouteKind::Unicast) },
    );
}

/// Adds an address with the routes that it brings. Not tentative.
pub(super) fn add_address(net: &mut Net, link: IfIndex, text: &str) {
    add_address_with(net, link, text, libc::IFA_F_PERMANENT);
}

/// As above, with flags.
pub(super) fn add_address_with(net: &mut Net, link: IfIndex, text: &str, flags: u32) {
    let parsed: IpNet = text.parse().unwrap();
    let source = Some(parsed.addr());
    let broadcast = match parsed {
        IpNet::V4(parsed) if parsed.prefix_len() < 31 && link != LOOPBACK => {
            Some(IpAddr::V4(parsed.broadcast()))
        }
        _ => None,
    };
    let local = |text: &str, kind| route(text, Some(link), libc::RT_TABLE_LOCAL, kind);
    let host = if parsed.addr().is_ipv4() { 32 } else { 128 };
    add_route(net, Route { source, ..local(&format!("{}/{host}", parsed.addr()), RouteKind::Local) });
    if let Some(broadcast) = broadcast {
        add_route(net, Route { source, ..local(&format!("{broadcast}/32"), RouteKind::Broadcast) });
    }
    match (link, parsed.addr().is_ipv4()) {
        (LOOPBACK, true) => add_route(net, local("127.0.0.0/8", RouteKind::Local)),
        (LOOPBACK, false) => {}
        (_, v4) => {
            let prefix = route(text, Some(link), libc::RT_TABLE_MAIN, RouteKind::Unicast);
            add_route(net, Route { source: if v4 { source } else { None }, ..prefix });
            let groups = local("ff00::/8", RouteKind::Multicast);
            if !v4 && !net.tables.routes.contains(&groups) {
                add_route(net, groups);
            }
        }
    }
    let near = matches!(parsed.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
    let address = Address {
        link,
        net: parsed,
        peer: None,
        broadcast,
        scope: match (link, near) {
            (LOOPBACK, _) => libc::RT_SCOPE_HOST,
            (_, true) => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        },
        flags,
        label: String::new(),
        preferred_until: None,
        valid_until: None,
        protocol: 0,
        metric: 0,
    };
    net.tables.addresses.push(address.clone());
    net.tables.changes.push_back(Change::Address(address));
}

/// A datagram of some protocol nobody knows, or of UDP with ports.
pub(super) fn datagram(destination: &str, protocol: u8) -> Datagram<'static> {
    Datagram {
        destination: destination.parse().unwrap(),
        protocol,
        ttl: 64,
        tos: 0,
        flow_label: 0,
        fragmenting: Fragmenting::Allowed,
        gso_size: 0,
        checksum_at: if protocol == 17 { Some(6) } else { None },
        options: &[],
        ident: 0,
    }
}

/// A UDP datagram's header and data: ports 1000 and 2000.
pub(super) fn udp(data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3, 0xE8, 7, 0xD0];
    bytes.extend(((data.len() + 8) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    bytes
}

/// An ICMP echo request, or an ICMPv6 one.
pub(super) fn echo(v6: bool, len: usize) -> Vec<u8> {
    let mut bytes = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0x12, 0x34, 0, 1];
    bytes.extend((0..len).map(|n| n as u8));
    bytes
}

/// Sends an echo request and says how many replies came within five seconds.
pub(super) fn ping(world: &mut World, from: usize, to: &str, len: usize) -> usize {
    let v6 = to.contains(':');
    let ping = Datagram { checksum_at: Some(2), ..datagram(to, if v6 { 58 } else { 1 }) };
    world.send(from, &ping, &echo(v6, len)).unwrap();
    world.run(Duration::from_secs(5));
    let kind = if v6 { 129 } else { 0 };
    let packets = world.take(from);
    let expected = &echo(v6, len)[4..];
    packets.iter().filter(|packet| packet.payload[0] == kind && &packet.payload[4..] == expected).count()
}

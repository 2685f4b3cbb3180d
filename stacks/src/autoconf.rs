//! `ip=dhcp`, `ip=dhcp6` and `ip=auto`: asking the network of a switch for an address before a stack is made on it.
//!
//! # Theory of operation
//! An interface that is to be configured by its network is plugged in for a moment, with the hardware address that it
//! will have. An [`Asker`] asks for an address by DHCPv4 (RFC 2131: DISCOVER, OFFER, REQUEST, ACK) and for a router
//! by a router solicitation (RFC 4861); if the router says that addresses, or names, are given by DHCPv6, it asks for them,
//! too ([`crate::dhcp6::client`]), from the link-local address of its hardware address, and answers who looks for that.
//! What comes of it is written into the configuration ([`settle`]) as if the user had. So stacks of every kind are configured
//! alike, and come up with all they need. The stack itself renews leases ([`crate::steward`]), and hears what routers say
//! later.
//!
//! [`Asker`] is a core; [`settle`] its shell.

mod frames;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use msocket_proto::line::Refusal;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent};
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetFrame, EthernetProtocol, Icmpv6Message, Icmpv6Packet,
    IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket,
};
use switch::offload::VnetHdr;

use crate::config::{Auto, InterfaceConfig, Mac, Plug, StackConfig};
use crate::dhcp6;
use crate::dhcp6::client::{Client, Wish};
use crate::gateway::advertise::{Advertisement, HOPS, Heard};
use crate::gateway::dhcp;
use crate::gateway::services::nameservers;
use crate::serve::timeout;
use crate::smol::port::cable::Cables;
use crate::smol::port::{BUFFER_LEN, Plugs, Port};
use crate::steward::nameserver::Nameserver;
use crate::steward::renewal::{CLIENT, Lease, SERVER};

/// Before a question is asked again, the time doubled after each.
const AGAIN: Duration = Duration::from_millis(250);
/// Questions, before nobody is there: 250 ms, 500 ms, 1 s, 2 s.
const ATTEMPTS: u32 = 4;
/// How long a router, and a server that knows names, may take if an address is there already.
const ROUTER: Duration = Duration::from_millis(500);
/// How long a server may take that gives addresses, as a router says: one question is asked again meanwhile. Whoever
/// has the stack goes on asking.
const SERVERS: Duration = Duration::from_secs(2);
/// Most frames that wait to be sent: answers beyond them are asked for again.
const MAX_WAITING: usize = 8;

/// What was learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// An IPv4 address, and its router.
    pub v4: Option<Lease>,
    /// An IPv6 address, by DHCPv6.
    pub lease_v6: Option<dhcp6::client::Lease>,
    /// What an IPv6 router advertised.
    pub heard: Option<Heard>,
    /// A nameserver, that of IPv4 if there is one, else a router's.
    pub nameserver: Option<IpAddr>,
}

impl Learned {
    /// Has an interface with this hardware address an address now, as it was wanted?
    pub fn is_enough(&self, wanted: Auto, mac: [u8; 6]) -> bool {
        let chosen = || self.heard.as_ref().and_then(|heard| heard.said.address(mac));
        let any = self.v4.is_some() || self.lease_v6.is_some() || chosen().is_some();
        if wanted == Auto::Dhcp6 { self.lease_v6.is_some() } else { any }
    }
}

/// Somebody who asks.
#[derive(Debug)]
pub struct Asker {
    mac: [u8; 6],
    id: u32,
    name: String,
    wanted: Auto,
    learned: Learned,
    offer: Option<(Ipv4Addr, Ipv4Addr)>,
    attempt: u32,
    /// When to ask again.
    ask_at: Instant,
    /// When a router is waited for no longer.
    until: Instant,
    solicit: bool,
    ask: bool,
    client_v6: Option<Client>,
    waiting: VecDeque<Vec<u8>>,
}

impl Asker {
    /// Somebody with this hardware address and this name; `id` is a number that others do not use.
    pub fn new(now: Instant, mac: [u8; 6], id: u32, wanted: Auto, name: &str) -> Self {
        let lease = wanted == Auto::Dhcp6;
        let client_v6 = lease.then(|| Client::new(now, Mac(mac), id, Wish::Address, Some(name)));
        Self {
            mac,
            id,
            name: name.to_owned(),
            wanted,
            learned: Learned::default(),
            offer: None,
            attempt: 0,
            ask_at: now,
            until: now + ROUTER,
            solicit: false,
            ask: false,
            client_v6,
            waiting: VecDeque::new(),
        }
    }

    /// When to call [`Asker::handle_timeout`]; `None`: it is done, or nobody is there.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let asking = self.client_v6.as_ref().filter(|client| client.asks());
        if !self.wants_v4() && !self.wants_router() && asking.is_none() {
            return None;
        }
        let due = asking.and_then(Client::poll_timeout).into_iter().chain([self.ask_at]).min();
        if self.learned.is_enough(self.wanted, self.mac) {
            return (now < self.until).then_some(due.map_or(self.until, |due| due.min(self.until)));
        }
        due.filter(|_| self.attempt <= ATTEMPTS)
    }

    fn wants_v4(&self) -> bool {
        self.wanted.is_v4() && self.learned.v4.is_none()
    }

    fn wants_router(&self) -> bool {
        self.wanted.is_v6() && self.learned.heard.is_none()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.ask_at {
            self.ask_at = now + AGAIN * 2u32.pow(self.attempt.min(ATTEMPTS));
            self.attempt += 1;
            self.ask = self.attempt <= ATTEMPTS && self.wants_v4();
            self.solicit = self.attempt <= ATTEMPTS && self.wants_router();
        }
        self.ask_v6(now);
    }

    /// Sends what is to be said by DHCPv6.
    fn ask_v6(&mut self, now: Instant) {
        let asked = self.client_v6.as_mut().and_then(|client| client.handle_timeout(now).1);
        self.wait(asked.map(|message| frames::to_servers_v6(self.mac, &message)));
    }

    fn wait(&mut self, frame: Option<Vec<u8>>) {
        let room = MAX_WAITING - self.waiting.len();
        self.waiting.extend(frame.into_iter().take(room));
    }

    /// A frame to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if let Some(frame) = self.waiting.pop_front() {
            return Some(frame);
        }
        if std::mem::take(&mut self.solicit) {
            return Some(frames::solicitation(self.mac));
        }
        if !std::mem::take(&mut self.ask) {
            return None;
        }
        let name = [dhcp::host_name(&self.name)];
        let additional_options = &name[..];
        let question = match self.offer {
            None => {
                DhcpRepr { additional_options, ..dhcp::message(DhcpMessageType::Discover, self.id, self.mac) }
            }
            Some((address, server)) => DhcpRepr {
                additional_options,
                requested_ip: Some(address),
                server_identifier: Some(server),
                ..dhcp::message(DhcpMessageType::Request, self.id, self.mac)
            },
        };
        Some(frames::to_servers_v4(self.mac, &dhcp::bytes(&question)))
    }

    /// A frame that came.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return };
        match frame.ethertype() {
            EthernetProtocol::Ipv4 => drop(self.handle_v4(frame.payload())),
            EthernetProtocol::Ipv6 => drop(self.handle_v6(now, frame.payload())),
            _ => {}
        }
    }

    /// What was learned so far.
    pub fn learned(&self) -> Learned {
        self.learned.clone()
    }

    fn handle_v4(&mut self, packet: &[u8]) -> Option<()> {
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        if packet.next_header() != IpProtocol::Udp || packet.frag_offset() != 0 || packet.more_frags() {
            return None;
        }
        let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
        if (datagram.src_port(), datagram.dst_port()) != (SERVER, CLIENT) {
            return None;
        }
        let message = DhcpPacket::new_checked(datagram.payload()).ok()?;
        let said = DhcpRepr::parse(&message).ok()?;
        let mine = said.transaction_id == self.id && said.client_hardware_address.0 == self.mac;
        if !mine || self.learned.v4.is_some() {
            return None;
        }
        match (said.message_type, self.offer) {
            (DhcpMessageType::Offer, None) => {
                self.offer = Some((said.your_ip, said.server_identifier?));
                self.ask = true;
            }
            (DhcpMessageType::Ack, Some((address, _))) if said.your_ip == address => {
                self.learned.v4 = Some(Lease { host: Some(self.name.clone()), ..Lease::of(&said)? });
                let named = said.dns_servers.iter().flatten().next().copied();
                self.learned.nameserver = named.map(IpAddr::V4).or(self.learned.nameserver);
            }
            (DhcpMessageType::Nak, Some(_)) => (self.offer, self.ask) = (None, true),
            _ => {}
        }
        Some(())
    }

    /// Checksums are not looked at: of what is on the same machine they are not filled in.
    fn handle_v6(&mut self, now: Instant, packet: &[u8]) -> Option<()> {
        let packet = Ipv6Packet::new_checked(packet).ok()?;
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        match packet.next_header() {
            IpProtocol::Icmpv6 if packet.hop_limit() == HOPS => {
                let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
                match message.msg_type() {
                    Icmpv6Message::NeighborSolicit => {
                        let own = frames::link_local(self.mac);
                        let asked = message.target_addr() == own && !from.is_unspecified();
                        let frame = asked.then(|| frames::advertisement(self.mac, from));
                        self.wait(frame);
                    }
                    _ if from.is_unicast_link_local() && self.wants_router() => {
                        let said = Advertisement::parse(packet.payload())?;
                        self.hear(now, Heard { router: from, said });
                    }
                    _ => {}
                }
            }
            IpProtocol::Udp if to == frames::link_local(self.mac) => {
                let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
                let ports = (datagram.src_port(), datagram.dst_port());
                if ports == (dhcp6::SERVER, dhcp6::CLIENT) {
                    self.handle_dhcp6(now, datagram.payload());
                }
            }
            _ => {}
        }
        Some(())
    }

    fn hear(&mut self, now: Instant, heard: Heard) {
        let said = &heard.said;
        self.learned.nameserver = self.learned.nameserver.or_else(|| said.nameserver().map(IpAddr::V6));
        let wish = match self.learned.nameserver {
            _ if said.managed => Some((Wish::Address, SERVERS)),
            None if said.other => Some((Wish::Names, ROUTER)),
            _ => None,
        };
        if let Some((wish, patience)) = wish.filter(|_| self.client_v6.is_none()) {
            self.client_v6 = Some(Client::new(now, Mac(self.mac), self.id, wish, Some(&self.name)));
            self.until = self.until.max(now + patience);
            self.ask_v6(now);
        }
        self.learned.heard = Some(heard);
    }

    fn handle_dhcp6(&mut self, now: Instant, message: &[u8]) {
        let Some(client) = &mut self.client_v6 else { return };
        let (_, answer) = client.handle_message(now, message);
        self.learned.lease_v6 = client.lease().cloned();
        let named = client.nameservers().first().copied().map(IpAddr::V6);
        self.learned.nameserver = self.learned.nameserver.or(named);
        let frame = answer.map(|message| frames::to_servers_v6(self.mac, &message));
        self.wait(frame);
    }
}

/// Gives the interfaces of the stack `name` that ask for it what their networks say; switches have their sockets in
/// the folder `switches`.
///
/// # Errors
/// Nobody answered; an interface is not plugged into a switch.
pub fn settle(config: &mut StackConfig, name: &str, switches: &Path) -> Result<(), Refusal> {
    let mut named = None;
    for interface in &mut config.interfaces {
        if let Some(wanted) = interface.auto.take() {
            let what = format!("cannot configure {} by its network", interface.name);
            let learned = ask(interface, (name, wanted), switches, &what)?;
            apply(interface, &learned);
            named = named.or(learned.nameserver);
            if !learned.is_enough(wanted, interface.mac.map_or([0; 6], |mac| mac.0)) {
                let how = if wanted == Auto::Dhcp6 { " --dhcp6 stateful" } else { "" };
                let hint = match interface.link.plug() {
                    Some(Plug { switch, .. }) => format!(
                        "`viewnet gateway up --switch {switch}{how}` starts a router there; or give it an address"
                    ),
                    None => "give it an address".into(),
                };
                return Err(Refusal::new(what, "nobody there gives addresses").hint(hint));
            }
        }
    }
    // Where programs ask on their own loopback, the network's nameserver shall answer.
    let at: Vec<IpAddr> = nameservers().into_iter().filter(IpAddr::is_loopback).collect();
    if let Some(ask) = named.filter(|_| config.nameserver.is_none() && !at.is_empty()) {
        config.nameserver = Some(Nameserver { at, ask });
    }
    Ok(())
}

fn apply(interface: &mut InterfaceConfig, learned: &Learned) {
    let mac = interface.mac.unwrap_or(Mac([0; 6])).0;
    interface.ip.extend(learned.v4.as_ref().map(|lease| IpNet::V4(lease.ip)));
    interface.lease.clone_from(&learned.v4);
    interface.lease_v6.clone_from(&learned.lease_v6);
    interface.ip.extend(learned.lease_v6.as_ref().map(|lease| IpNet::from(IpAddr::V6(lease.address))));
    let router = learned.v4.as_ref().and_then(|it| it.router).map(IpAddr::V4);
    if let Some(router) = router.filter(|_| !interface.gw.iter().any(IpAddr::is_ipv4)) {
        interface.gw.push(router);
    }
    if let Some(mut heard) = learned.heard.clone() {
        interface.ip.extend(heard.said.address(mac).map(IpNet::V6));
        if interface.gw.iter().any(IpAddr::is_ipv6) {
            // Whoever names a router knows why; what this one says later, it says itself.
            heard.said.lifetime_s = 0;
        }
        interface.heard = Some(heard);
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell gives the time to the core")]
fn clocks() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

fn ask(
    interface: &mut InterfaceConfig,
    (name, wanted): (&str, Auto),
    switches: &Path,
    what: &str,
) -> Result<Learned, Refusal> {
    let mut random = [0; 9];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Refusal::system(what, e))?;
    let [a, b, c, d, e, w, x, y, z] = random;
    // Locally administered, for one station (IEEE 802 clause 8.4).
    let mac = interface.mac.get_or_insert(Mac([0x02, a, b, c, d, e])).0;
    let (mut now, wall) = clocks();
    let mut cables = Cables::new();
    let mut plugs =
        Plugs { stack: "asking", switches, guest: false, cables: &mut cables, clocks: (now, wall) };
    let plain = InterfaceConfig { pcap: None, ..interface.clone() };
    let Some(mut port) = Port::open(&mut plugs, &plain)? else {
        return Err(Refusal::new(what, "it is plugged into nothing").hint("give it an address"));
    };
    let mut asker = Asker::new(now, mac, u32::from_be_bytes([w, x, y, z]), wanted, name);
    let mut buffer = vec![0; BUFFER_LEN];
    let failed = |errno: Errno| Refusal::system(what, errno);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
    for (fd, flags) in port.sources() {
        epoll.add(fd, EpollEvent::new(flags, 0)).map_err(failed)?;
    }
    while let Some(at) = asker.poll_timeout(now) {
        asker.handle_timeout(now);
        while let Some(frame) = asker.poll_transmit() {
            let _ = port.send(now, &VnetHdr::default(), &frame);
        }
        port.flush();
        if !port.before_sleep() {
            let wait = asker.poll_timeout(now).unwrap_or(at).saturating_duration_since(now);
            match epoll.wait(&mut [EpollEvent::empty(); 2], timeout(Some(wait))) {
                Err(errno) if errno != Errno::EINTR => return Err(failed(errno)),
                _ => {}
            }
        }
        now = clocks().0;
        while let Some((_, frame)) = port.receive(now, &mut buffer) {
            asker.handle_frame(now, frame);
            while let Some(frame) = asker.poll_transmit() {
                let _ = port.send(now, &VnetHdr::default(), &frame);
            }
        }
    }
    Ok(asker.learned())
}

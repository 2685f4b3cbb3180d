//! `ip=dhcp` and `ip=auto`: asking the network of a switch for an address before a stack is made on it.
//!
//! # Theory of operation
//! An interface that is to be configured by its network is plugged in for a moment, with the hardware address that it
//! will have. An [`Asker`] asks for an address by DHCPv4 (RFC 2131: DISCOVER, OFFER, REQUEST, ACK) and for a router
//! by a router solicitation (RFC 4861); what comes of it is written into the configuration ([`settle`]) as if the
//! user had. So stacks of every kind are configured alike, and come up with all they need. The
//! stack itself renews the lease ([`crate::steward::renewal`]).
//!
//! [`Asker`] is a core; [`settle`] its shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use ipnet::{IpNet, Ipv6Net};
use msocket_proto::line::Refusal;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};
use switch::offload::VnetHdr;

use crate::config::{Auto, InterfaceConfig, Mac, Plug, StackConfig};
use crate::gateway::services::nameservers;
use crate::gateway::{advertise, dhcp};
use crate::serve::timeout;
use crate::smol::port::cable::Cables;
use crate::smol::port::{BUFFER_LEN, Plugs, Port};
use crate::steward::nameserver::Nameserver;
use crate::steward::renewal::{CLIENT, Lease, SERVER};

/// Before a question is asked again, the time doubled after each.
const AGAIN: Duration = Duration::from_millis(250);
/// Questions, before nobody is there: 250 ms, 500 ms, 1 s, 2 s.
const ATTEMPTS: u32 = 4;
/// How long a router may take if an address is there already.
const ROUTER: Duration = Duration::from_millis(500);
/// Hop limit of neighbour discovery (RFC 4861 clause 4.1).
const HOPS: u8 = 255;
const ETHERNET: usize = 14;

/// What was learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// An IPv4 address, and its router.
    pub v4: Option<Lease>,
    /// An IPv6 network in which an address may be chosen.
    pub v6: Option<Ipv6Net>,
    /// Its router, a link-local address.
    pub router_v6: Option<Ipv6Addr>,
    /// A nameserver, that of IPv4 if there is one.
    pub nameserver: Option<IpAddr>,
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
}

impl Asker {
    /// Somebody with this hardware address and this name; `id` is a number that others do not use.
    pub fn new(now: Instant, mac: [u8; 6], id: u32, wanted: Auto, name: &str) -> Self {
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
        }
    }

    /// When to call [`Asker::handle_timeout`]; `None`: it is done, or nobody is there.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let router = self.wanted == Auto::All && self.learned.v6.is_none();
        if self.learned.v4.is_some() {
            return Some(self.until).filter(|until| router && *until > now);
        }
        let over = self.attempt > ATTEMPTS || self.learned.v6.is_some() && now >= self.until;
        (!over).then_some(self.ask_at)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.ask_at && self.learned.v4.is_none() {
            self.ask_at = now + AGAIN * 2u32.pow(self.attempt.min(ATTEMPTS));
            self.attempt += 1;
            self.ask = self.attempt <= ATTEMPTS;
            self.solicit = self.ask && self.wanted == Auto::All && self.learned.v6.is_none();
        }
    }

    /// A frame to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.solicit) {
            return Some(self.solicitation());
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
        Some(self.broadcast(&dhcp::bytes(&question)))
    }

    /// A frame that came.
    pub fn handle_frame(&mut self, frame: &[u8]) {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return };
        match frame.ethertype() {
            EthernetProtocol::Ipv4 => drop(self.handle_v4(frame.payload())),
            EthernetProtocol::Ipv6 => drop(self.handle_v6(frame.payload())),
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

    fn handle_v6(&mut self, packet: &[u8]) -> Option<()> {
        let packet = Ipv6Packet::new_checked(packet).ok()?;
        let fits = packet.next_header() == IpProtocol::Icmpv6 && packet.hop_limit() == HOPS;
        if fits && packet.src_addr().is_unicast_link_local() {
            self.learned.v6 = Some(advertise::network(packet.payload())?);
            self.learned.router_v6 = Some(packet.src_addr());
            let named = advertise::nameserver(packet.payload()).map(IpAddr::V6);
            self.learned.nameserver = self.learned.nameserver.or(named);
        }
        Some(())
    }

    /// A message to all DHCP servers, as a frame.
    fn broadcast(&self, message: &[u8]) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let udp = UdpRepr { src_port: CLIENT, dst_port: SERVER };
        let (source, everybody) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        let ip = Ipv4Repr {
            src_addr: source,
            dst_addr: everybody,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + message.len(),
            hop_limit: 64,
        };
        let mut frame =
            self.frame(EthernetAddress::BROADCAST, EthernetProtocol::Ipv4, ip.buffer_len() + ip.payload_len);
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
        ip.emit(&mut packet, &checksums);
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        let ends = (IpAddress::Ipv4(source), IpAddress::Ipv4(everybody));
        let put = |room: &mut [u8]| room.copy_from_slice(message);
        udp.emit(&mut datagram, &ends.0, &ends.1, message.len(), put, &checksums);
        frame
    }

    /// A question for all routers, as a frame.
    fn solicitation(&self) -> Vec<u8> {
        let message = [advertise::SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        let (source, routers) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2));
        let ip = Ipv6Repr {
            src_addr: source,
            dst_addr: routers,
            next_header: IpProtocol::Icmpv6,
            payload_len: message.len(),
            hop_limit: HOPS,
        };
        let to = EthernetAddress([0x33, 0x33, 0, 0, 0, 2]);
        let mut frame = self.frame(to, EthernetProtocol::Ipv6, ip.buffer_len() + message.len());
        let mut packet = Ipv6Packet::new_unchecked(&mut frame[ETHERNET..]);
        ip.emit(&mut packet);
        packet.payload_mut().copy_from_slice(&message);
        Icmpv6Packet::new_unchecked(packet.payload_mut()).fill_checksum(&source, &routers);
        frame
    }

    fn frame(&self, to: EthernetAddress, ethertype: EthernetProtocol, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; ETHERNET + length];
        let header = EthernetRepr { src_addr: EthernetAddress(self.mac), dst_addr: to, ethertype };
        header.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
        bytes
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
            if learned == Learned::default() {
                let hint = match interface.link.plug() {
                    Some(Plug { switch, .. }) => format!(
                        "`viewnet gateway up --switch {switch}` starts a router there; or give it an address"
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
    if let Some(net) = learned.v6 {
        // The interface identifier of a hardware address (RFC 4291 appendix A).
        let [a, b, c, d, e, f] = mac;
        let id = u64::from_be_bytes([a ^ 2, b, c, 0xFF, 0xFE, d, e, f]);
        let address = Ipv6Addr::from_bits(net.network().to_bits() | u128::from(id));
        interface.ip.extend(Ipv6Net::new(address, 64).map(IpNet::V6));
    }
    for router in
        [learned.v4.as_ref().and_then(|it| it.router).map(IpAddr::V4), learned.router_v6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
    {
        if !interface.gw.iter().any(|gw| gw.is_ipv4() == router.is_ipv4()) {
            interface.gw.push(router);
        }
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
            asker.handle_frame(frame);
            while let Some(frame) = asker.poll_transmit() {
                let _ = port.send(now, &VnetHdr::default(), &frame);
            }
        }
    }
    Ok(asker.learned())
}

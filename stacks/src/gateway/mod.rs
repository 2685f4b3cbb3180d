//! The gateway: a way out of a switch's network over sockets of the host, with no privilege at all.
//!
//! # Theory of operation
//! ```text
//!  switch ── ring ── engine ─┬─ streams ─── TCP sockets of the host
//!                            ├─ datagrams ─ UDP and echo sockets of the host
//!                            ├─ doors ───── published ports of the host
//!                            └─ services ── DHCP, DHCPv6, router advertisements, DNS
//! ```
//! A gateway is a smol stack that stands for everybody beyond its network ([`Engine::stand_for_others`]): to the
//! inside it is the router, and the far ends of all connections. What arrives is done again with the host's sockets,
//! as the gateway's user may. Cores: [`policy`] says who may go where, [`flows`] who has which flow and for how
//! long, [`proxy`] and [`standins`] how it goes by a proxy, and then nowhere else. The shell ([`streams`], [`datagrams`], [`way`],
//! this file) owns the host's sockets, the port and the clock; one thread, one epoll set.
//!
//! Address translation: RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP). The far ends see the host's address.

pub mod advertise;
mod associations;
mod datagrams;
pub mod dhcp;
mod directory;
pub mod doors;
pub mod flows;
mod holder;
pub(crate) mod host;
mod mappings;
pub mod names;
pub mod nat64;
pub mod policy;
pub mod proxy;
pub mod publish;
mod questions;
mod quote;
pub mod serve;
pub(crate) mod services;
pub mod standins;
mod streams;
mod train;
mod turns;
mod way;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use msocket_proto::line::Refusal;
use msocket_proto::proto::FilterChange;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde::{Deserialize, Serialize};
use switch::ports::ring::Ring;

use crate::config::{InterfaceConfig, Link, StackConfig};
use crate::filter::{Listing, Ruleset};
use crate::smol::call::Caller;
use crate::smol::engine::transparent::Arrived;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::Packet;
use crate::smol::port::cable::Cables;
use crate::smol::port::{BUFFER_LEN, Plugs, Port};
use crate::smol::tables::{IfIndex, LOOPBACK};
use datagrams::Datagrams;
use doors::{Doors, Inside, Published, Watched};
use policy::{Policy, Rules, Verdict};
use proxy::Via;
use publish::{Ports, Publish};
use questions::Questions;
pub use services::Dns64;
use services::{Outcome, Services};
use streams::{Counts, Streams};
use way::Way;

const MAKE: &str = "cannot make the gateway";
/// The gateway's name where it is plugged in.
const NAME: &str = "gateway";
/// Its interface.
const INTERFACE: &str = "eth0";
/// The name of its switch's port.
pub const PORT: &str = "gateway.eth0";
/// Frames taken before the sockets have their turn.
const FRAMES: usize = 64;

/// What a gateway is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The switch that it is plugged into.
    pub link: Link,
    /// Its addresses with the lengths of their networks' prefixes, at most one of each family.
    pub ip: Vec<IpNet>,
    /// Who may go where.
    #[serde(default)]
    pub rules: Rules,
    /// What DHCP says beside addresses.
    #[serde(default)]
    pub dhcp: dhcp::Said,
    /// When questions for IPv6 addresses are asked for IPv4 addresses.
    #[serde(default)]
    pub dns64: Dns64,
    /// The proxy that it goes by; without one, it goes by the host's own network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// Rules of its packet filter, which sees what is inside.
    #[serde(default, skip_serializing_if = "Ruleset::is_empty")]
    pub filter: Ruleset,
    /// It keeps no switch that ends when unused, and so ends with the last of the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guest: bool,
}

/// What a gateway has done, and does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// TCP connections.
    pub streams: usize,
    /// Inside ports and idents with a socket of the host.
    pub mappings: usize,
    /// Connections that the host made.
    pub opened: u64,
    /// Connections that came to nothing.
    pub refused: u64,
    /// Connections and datagrams that the rules forbid.
    pub prohibited: u64,
    /// Addresses that were given by DHCP.
    pub leases: usize,
    /// Flows that had to make room for others.
    pub evicted: u64,
    /// Datagrams that the host's kernel did not take.
    pub unsent: u64,
    /// Each inside address and its flows.
    pub inside: Vec<(IpAddr, usize)>,
    /// Ports of the host that lead inside.
    #[serde(default)]
    pub published: Vec<Published>,
    /// Stacks whose ports are published as they come and go.
    #[serde(default)]
    pub watched: Vec<Watched>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Port,
    /// What whoever runs the gateway waits for.
    Beside,
    Stream(usize),
    Datagrams(usize),
    /// A published port.
    Door(usize),
    /// The life of a publication.
    Life(u32),
    /// A stack that is asked who listens.
    Auto(u32),
    Question(usize),
    /// A proxy's word about a relay of datagrams.
    Association(usize),
    /// Datagrams that a proxy relays.
    Relay(usize),
    /// A stack that is asked for its addresses.
    View(usize),
}

impl Place {
    fn token(self) -> u64 {
        match self {
            Self::Port => 0,
            Self::Beside => 1,
            Self::Stream(slot) => 1 << 32 | slot as u64,
            Self::Datagrams(slot) => 2 << 32 | slot as u64,
            Self::Door(slot) => 3 << 32 | slot as u64,
            Self::Life(id) => 4 << 32 | u64::from(id),
            Self::Auto(id) => 5 << 32 | u64::from(id),
            Self::Question(slot) => 6 << 32 | slot as u64,
            Self::Association(slot) => 7 << 32 | slot as u64,
            Self::Relay(slot) => 8 << 32 | slot as u64,
            Self::View(slot) => 9 << 32 | slot as u64,
        }
    }

    fn of(token: u64) -> Self {
        let slot = token as u32 as usize;
        match token >> 32 {
            1 => Self::Stream(slot),
            2 => Self::Datagrams(slot),
            3 => Self::Door(slot),
            4 => Self::Life(token as u32),
            5 => Self::Auto(token as u32),
            6 => Self::Question(slot),
            7 => Self::Association(slot),
            8 => Self::Relay(slot),
            9 => Self::View(slot),
            _ if slot == 1 => Self::Beside,
            _ => Self::Port,
        }
    }
}

/// What streams and datagrams share.
#[derive(Debug)]
struct Hall {
    engine: Engine,
    policy: Policy,
    epoll: Epoll,
    /// The interface to the inside.
    link: IfIndex,
    /// Whoever calls the engine.
    caller: Caller,
    /// The listener for all connections.
    listener: SocketId,
    /// The host's nameserver, where questions to the gateway go.
    nameserver: Option<SocketAddr>,
    /// Questions for IPv6 addresses are asked for IPv4 addresses: the host has no IPv6.
    dns64: bool,
    /// The proxy, if it goes by one.
    way: Option<Way>,
    /// One datagram, or a train of them.
    scratch: Vec<u8>,
}

impl Hall {
    /// Where questions to the gateway go, if they go anywhere.
    fn names(&self) -> Option<SocketAddr> {
        self.nameserver.filter(|_| !self.policy.rules.isolate && self.way.is_none())
    }

    /// Where questions to a nameserver go, if it may be asked: those to the gateway to the host's.
    fn server(&self, to: SocketAddr) -> Option<SocketAddr> {
        match self.policy.judge(to) {
            // The names that a proxy looks up are answered here.
            _ if self.policy.is_own(to.ip()) || self.way.is_some() => self.names(),
            Verdict::Host(to) => Some(to),
            _ => None,
        }
    }

    fn watch(&self, what: &impl AsFd, place: Place, flags: EpollFlags) -> Result<(), Errno> {
        self.epoll.add(what, EpollEvent::new(flags, place.token()))
    }
}

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    hall: Hall,
    port: Port,
    /// Frames may wait.
    port_ready: bool,
    /// There is more to do at once.
    unfinished: bool,
    /// When it had its last turn.
    turned_at: Instant,
    frame: Vec<u8>,
    streams: Streams,
    datagrams: Datagrams,
    doors: Doors,
    questions: Questions,
    services: Services,
    counts: Counts,
}

#[expect(clippy::disallowed_methods, reason = "the shell gives the time to the cores")]
fn clocks() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

/// Its interface to the inside.
fn interface(config: &Config) -> InterfaceConfig {
    let mut interface = InterfaceConfig::new(INTERFACE, config.link.clone());
    interface.ip.clone_from(&config.ip);
    if config.ip.iter().any(|net| net.addr().is_ipv6()) {
        interface.ip.push(services::LINK_LOCAL.parse().expect("constant"));
    }
    interface
}

impl Gateway {
    /// Plugs a gateway into its switch; switches have their sockets in the folder `switches`, and the stacks whose
    /// names it knows theirs in `stacks`.
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub fn new(config: Config, switches: &Path, stacks: &Path) -> Result<Self, Refusal> {
        let interface = interface(&config);
        let clocks = clocks();
        let mut cables = Cables::new();
        let mut plugs = Plugs { stack: NAME, switches, guest: config.guest, cables: &mut cables, clocks };
        let port = Port::open(&mut plugs, &interface)?
            .ok_or_else(|| Refusal::new(MAKE, "it is plugged into nothing"))?;
        Self::with_port(config, port, interface, stacks)
    }

    /// A gateway that lives in its switch's thread, at the far end of a port; as [`Gateway::new`] otherwise. They share so
    /// many descriptors, of which the last eighth is left to the switch.
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub fn within(config: Config, ring: Ring, stacks: &Path, descriptors: usize) -> Result<Self, Refusal> {
        let interface = interface(&config);
        let mut gateway = Self::with_port(config, Port::within(ring), interface, stacks)?;
        gateway.streams.flows.limit_to(descriptors / 8 * 5);
        gateway.datagrams.flows.limit_to(descriptors / 8 * 2);
        Ok(gateway)
    }

    fn with_port(
        config: Config,
        port: Port,
        interface: InterfaceConfig,
        stacks: &Path,
    ) -> Result<Self, Refusal> {
        let what = MAKE;
        let failed = |errno: Errno| Refusal::system(what, errno);
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Refusal::system(what, e))?;
        let (now, _) = clocks();
        let filter = config.filter.clone();
        let stack = StackConfig { interfaces: vec![interface], filter, ..StackConfig::default() };
        let mut engine = Engine::new(&stack, seed, now)?;
        let caller = Caller {
            pid: std::process::id() as i32,
            uid: rustix::process::geteuid().as_raw(),
            fd: -1,
            rights: true,
        };
        let listener = engine.stand_for_others(now, &caller).map_err(failed)?;
        let link = IfIndex(LOOPBACK.0 + 1);
        engine.plug(now, link, true);
        engine.hear_group(now, link, services::ALL_ROUTERS);
        engine.hear_group(now, link, services::ALL_SERVERS);
        let mac = engine.tables().links.get(&link).map_or([0; 6], |link| link.mac.0);
        let services = Services::new(now, &config, mac, stacks);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let policy = Policy::new(config.rules.clone(), config.ip.clone());
        let way = config.via.as_ref().map(Way::find).transpose()?;
        let scratch = vec![0; host::LONGEST + 1];
        let (nameserver, dns64) = (None, false);
        let hall = Hall { engine, policy, epoll, link, caller, listener, nameserver, dns64, way, scratch };
        for (fd, flags) in port.sources() {
            hall.watch(&fd, Place::Port, flags).map_err(failed)?;
        }
        Ok(Self {
            config,
            hall,
            port,
            port_ready: true,
            unfinished: true,
            turned_at: now,
            frame: vec![0; BUFFER_LEN],
            streams: Streams::new(),
            datagrams: Datagrams::new(),
            doors: Doors::new(),
            questions: Questions::new(),
            services,
            counts: Counts::default(),
        })
    }

    /// What it is like.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// From now on these rules hold for new flows.
    pub fn set_rules(&mut self, rules: Rules) {
        self.config.rules.clone_from(&rules);
        self.hall.policy.rules = rules;
    }

    /// Changes the packet filter, if so said, and shows it.
    ///
    /// # Errors
    /// The change makes no sense.
    pub fn filter(&mut self, change: Option<&FilterChange>) -> Result<Listing, Refusal> {
        let listing = self.hall.engine.packet_filter(change)?;
        if change.is_some() {
            self.config.filter = self.hall.engine.filter_rules().0;
        }
        Ok(listing)
    }

    /// Publishes ports until `life` hangs up.
    ///
    /// # Errors
    /// A port cannot be had, or there is no such stack in the gateway's network: then none is published.
    pub fn publish(&mut self, inside: Inside, what: &[Publish], life: OwnedFd) -> Result<(), Refusal> {
        self.doors.publish(clocks().0, inside, what, life, &mut self.hall)
    }

    /// Publishes ports no more: those of a stack or of all, the named ones or all. How many it were.
    pub fn unpublish(&mut self, stack: Option<&str>, ports: &[Ports]) -> usize {
        self.doors.unpublish(stack, ports)
    }

    /// Has published ports lead to another stack, until `life` hangs up. How many it were.
    ///
    /// # Errors
    /// There is no such stack in the gateway's network.
    pub fn move_ports(&mut self, inside: Inside, ports: &[Ports], life: OwnedFd) -> Result<usize, Refusal> {
        self.doors.move_to(inside, ports, life, &mut self.hall)
    }

    /// Is the switch still there?
    pub fn is_alive(&self) -> bool {
        self.port.has_carrier()
    }

    /// What it has done, and does.
    pub fn figures(&self) -> Figures {
        let mut inside: std::collections::BTreeMap<IpAddr, usize> = Default::default();
        for (address, count) in self.streams.flows.owners().chain(self.datagrams.owners()) {
            *inside.entry(address).or_default() += count;
        }
        Figures {
            streams: self.streams.flows.len(),
            mappings: self.datagrams.len(),
            opened: self.counts.opened,
            refused: self.counts.refused,
            prohibited: self.counts.prohibited + self.datagrams.prohibited,
            leases: self.services.leases(),
            evicted: self.counts.evicted + self.datagrams.evicted + self.datagrams.associations.evicted,
            unsent: self.datagrams.unsent + self.datagrams.associations.unsent,
            inside: inside.into_iter().collect(),
            published: self.doors.published(),
            watched: self.doors.watched(),
        }
    }

    /// When to call [`Gateway::turn`], if nothing happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.unfinished {
            return Some(self.turned_at);
        }
        let flows = [
            self.streams.flows.poll_timeout(),
            self.datagrams.flows.poll_timeout(),
            self.datagrams.associations.flows.poll_timeout(),
            self.questions.flows.poll_timeout(),
        ];
        flows
            .into_iter()
            .chain([self.hall.engine.poll_timeout(), self.services.poll_timeout(), self.doors.poll_timeout()])
            .flatten()
            .min()
    }

    /// Something else that [`Gateway::turn`] is to wait for; a set of descriptors, as a rule.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn wait_for(&self, what: &impl AsFd) -> Result<(), Errno> {
        self.hall.watch(what, Place::Beside, EpollFlags::EPOLLIN)
    }

    /// Takes frames from the port. True: there may be more.
    fn receive(&mut self, now: Instant) -> bool {
        if !std::mem::take(&mut self.port_ready) {
            return false;
        }
        for _ in 0..FRAMES {
            let Some((header, frame)) = self.port.receive(now, &mut self.frame) else { return false };
            let hall = &mut self.hall;
            match hall.engine.handle_frame_for_others(now, hall.link, &header, frame) {
                Arrived::Nothing => {}
                Arrived::Lent(lent) => {
                    let taken = self.streams.hand_over(now, lent.socket, &frame[lent.at.clone()]);
                    hall.engine.settle(now, &lent, frame, taken);
                }
                Arrived::Packet(packet) => {
                    let udp = packet.protocol == libc::IPPROTO_UDP as u8;
                    if !(udp && self.doors.answer(now, &packet)) {
                        handle_packet(now, &packet, hall, &mut self.datagrams, &mut self.services);
                    }
                }
                // Nothing else that it says of our datagrams concerns anybody: the host has them already.
                Arrived::Error(error, quoted) => {
                    let sent = || self.datagrams.sent(&error, &quoted) || self.doors.sent(&error, &quoted);
                    if error.errno == Errno::EMSGSIZE && sent() {
                        hall.engine.learn_path_mtu(now, error.destination, error.info);
                    }
                }
            }
            while let Some(knocked) = hall.engine.poll_knock() {
                self.services.refresh(now, hall);
                match hall.engine.ends(knocked.1) {
                    Some((inside, to)) if self.services.is_nameserver(to, hall) => {
                        self.questions.knock(now, knocked, inside, hall.server(to), hall);
                    }
                    _ => self.streams.knock(now, knocked, hall, &mut self.counts),
                }
            }
        }
        self.port_ready = true;
        true
    }

    /// Puts the engine's frames on the port. True: there would be more at once.
    fn transmit(&mut self, now: Instant) -> bool {
        if !self.port.has_room() {
            return false;
        }
        let port = &mut self.port;
        self.hall.engine.poll_transmit(now, &mut |_, header, frame| {
            let _ = port.send(now, header, frame);
        })
    }
}

/// A packet of the inside that is not TCP.
fn handle_packet(
    now: Instant,
    packet: &Packet<'_>,
    hall: &mut Hall,
    datagrams: &mut Datagrams,
    services: &mut Services,
) {
    let v4 = packet.source.is_ipv4();
    let protocol = i32::from(packet.protocol);
    if protocol == libc::IPPROTO_UDP {
        match services.handle_udp(now, packet, hall) {
            Outcome::Done => return,
            Outcome::Ask(server) => return datagrams.handle_question(now, packet, server, hall),
            Outcome::Pass => {}
        }
    } else if protocol == libc::IPPROTO_ICMPV6 {
        services.handle_message(now, packet, hall);
    }
    match protocol {
        _ if packet.group_frame || packet.destination.is_multicast() => {}
        libc::IPPROTO_UDP => datagrams.handle_udp(now, packet, hall),
        libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => {
            // The network layer answers for itself.
            let asks = packet.payload.first() == Some(if v4 { &8 } else { &128 });
            if asks && !hall.policy.is_own(packet.destination) {
                datagrams.handle_echo(now, packet, hall);
            }
        }
        libc::IPPROTO_IGMP => {}
        _ => hall.engine.refuse_protocol(now, packet),
    }
}

#[cfg(test)]
mod tests;

//! What the gateway itself does for its network: addresses, router advertisements, names.
//!
//! # Theory of operation
//! DHCP and advertisements are answers of cores ([`super::dhcp`], [`crate::dhcp6::server`], [`mod@super::advertise`]). A question about names that [`names`]
//! knows is answered from a list of the user's stacks, which is asked for at most once in [`FRESH`], and for no longer
//! than [`PATIENCE`]. All other questions to the gateway's own addresses go to the host's nameserver, as
//! resolv.conf(5) names it at that moment, over UDP and TCP; when that is not there, the next one is tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use msocket_proto::line::Line;
use msocket_proto::proto::Request;
use serde::{Deserialize, Serialize};

use super::advertise::{self, HOPS, advertisement};
use super::dhcp::{Dhcp6, Leases};
use super::names::{self, Answer, Question};
use super::policy::Families;
use super::{Config, Hall, clocks, host};
use crate::dhcp6::{self, server::Server};
use crate::serve::Description;
use crate::smol::net::Packet;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
/// The port of nameservers.
pub(super) const DOMAIN: u16 = 53;
/// Where the host's nameservers are said.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long what was read, or asked of others, is believed.
const FRESH: Duration = Duration::from_secs(1);
/// How long one stack, and all of them, may take to say their addresses.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));
/// Stacks that are asked.
const MAX_STACKS: usize = 1024;
/// Bytes of a UDP header.
const HEADER: usize = 8;
/// The link-local address from which routers advertise.
pub(super) const LINK_LOCAL: &str = "fe80::1/64";
const ALL_NODES: IpAddr = IpAddr::V6(Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1));
pub(super) const ALL_ROUTERS: IpAddr = IpAddr::V6(Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2));
pub(super) const ALL_SERVERS: IpAddr = IpAddr::V6(dhcp6::ALL_SERVERS);

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was for a service, which is done with it.
    Done,
    /// It is a question for this nameserver of the host.
    Ask(SocketAddr),
    /// It is for no service.
    Pass,
}

/// The services of a gateway.
#[derive(Debug)]
pub(super) struct Services {
    leases: Option<Leases>,
    leases_v6: Option<Server>,
    /// What DHCPv6 gives, as advertisements say.
    v6: Dhcp6,
    advertise_at: Option<Instant>,
    resolver: Resolver,
    directory: Directory,
    dns64: Dns64,
}

/// When questions for IPv6 addresses are asked for IPv4 addresses (RFC 6147).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dns64 {
    /// While the host has IPv4 and no IPv6.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Services {
    /// `mac`: the hardware address on the inside.
    pub(super) fn new(now: Instant, config: &Config, mac: [u8; 6], stacks: &Path) -> Self {
        let own = &config.ip;
        let leases = own.iter().find_map(|net| match net {
            IpNet::V4(net) => Some(Leases::new(*net, config.dhcp.clone())),
            IpNet::V6(_) => None,
        });
        let v6 = own.iter().find_map(|net| match net {
            IpNet::V6(net) => Some(*net),
            IpNet::V4(_) => None,
        });
        let (mode, said) = (config.dhcp.v6, &config.dhcp);
        let leases_v6 = v6
            .filter(|_| mode != Dhcp6::Off)
            .map(|net| Server::new(net, mac, mode == Dhcp6::Stateful, said.clone()));
        Self {
            leases,
            leases_v6,
            v6: mode,
            advertise_at: v6.is_some().then_some(now),
            resolver: Resolver::default(),
            dns64: config.dns64,
            directory: Directory { stacks: stacks.to_owned(), asked_at: None, views: Vec::new() },
        }
    }

    /// How many addresses are leased.
    pub(super) fn leases(&self) -> usize {
        self.leases.as_ref().map_or(0, Leases::len) + self.leases_v6.as_ref().map_or(0, Server::len)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.advertise_at
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, hall: &mut Hall) {
        if self.advertise_at.is_some_and(|at| at <= now) {
            self.advertise_at = Some(now + advertise::INTERVAL);
            advertise(now, ALL_NODES, self.v6, hall);
        }
    }

    /// A message of ICMPv6 to us or to a group of ours.
    pub(super) fn handle_message(&mut self, now: Instant, packet: &Packet<'_>, hall: &mut Hall) {
        let solicits = packet.payload.first() == Some(&advertise::SOLICITATION) && packet.ttl == HOPS;
        if solicits && self.advertise_at.is_some() {
            // Who has no address yet hears what all hear.
            let to = if packet.source.is_unspecified() { ALL_NODES } else { packet.source };
            advertise(now, to, self.v6, hall);
        }
    }

    /// A UDP datagram.
    pub(super) fn handle_udp(&mut self, now: Instant, packet: &Packet<'_>, hall: &mut Hall) -> Outcome {
        let Some((head, data)) = packet.payload.split_first_chunk::<HEADER>() else { return Outcome::Done };
        let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let own = hall.policy.is_own(packet.destination);
        match port(2) {
            DHCP_SERVER if own || packet.destination == IpAddr::V4(Ipv4Addr::BROADCAST) => {
                self.lease(now, data, hall);
                Outcome::Done
            }
            dhcp6::SERVER if packet.destination == ALL_SERVERS => {
                self.lease_v6(now, packet.source, data, hall);
                Outcome::Done
            }
            DOMAIN if hall.policy.is_inside(packet.source) => {
                self.refresh(now, hall);
                let named = self.resolver.servers.contains(&packet.destination);
                if !own && !named {
                    return Outcome::Pass;
                }
                let deaf = hall.way.is_some() || own && hall.names().is_none();
                let refused = || deaf.then(|| names::answer(data, &Answer::Refused));
                if let Some(message) = self.answer(now, data, hall).or_else(|| refused().flatten()) {
                    let from = SocketAddr::new(packet.destination, DOMAIN);
                    let to = SocketAddr::new(packet.source, port(0));
                    let _ = hall.engine.send_as(now, (from, to), None, &message, 0);
                    return Outcome::Done;
                }
                match hall.server(SocketAddr::new(packet.destination, DOMAIN)) {
                    // Others are asked without us, unless their answers are to be translated.
                    Some(server) if own || hall.dns64 => Outcome::Ask(server),
                    _ => Outcome::Pass,
                }
            }
            _ => Outcome::Pass,
        }
    }

    /// The nameserver in use did not answer: somebody said that it is not there.
    pub(super) fn next_nameserver(&mut self, hall: &mut Hall) {
        self.resolver.turn = self.resolver.turn.wrapping_add(1);
        hall.nameserver = self.resolver.server();
    }

    /// The answer to a question, if it is known here.
    pub(super) fn answer(&mut self, now: Instant, message: &[u8], hall: &mut Hall) -> Option<Vec<u8>> {
        let question = names::question(message);
        let known = question.as_ref().and_then(|question| self.directory.answer(now, question, hall));
        match (known, &mut hall.way) {
            (Some(answer), _) => names::answer(message, &answer),
            (None, Some(way)) => {
                let has = |v4| hall.policy.own(v4).is_some();
                names::answer(message, &way.answer(message, question.as_ref(), has)?)
            }
            (None, None) => None,
        }
    }

    /// Is this where questions for names go, which are answered here or sent on?
    pub(super) fn is_nameserver(&self, to: SocketAddr, hall: &Hall) -> bool {
        to.port() == DOMAIN && (hall.policy.is_own(to.ip()) || self.resolver.servers.contains(&to.ip()))
    }

    /// What the host is like now: its nameservers, its families.
    pub(super) fn refresh(&mut self, now: Instant, hall: &mut Hall) {
        // What the host's network is like, a proxy makes no difference of.
        if self.resolver.refresh(now) && hall.way.is_none() {
            hall.policy.families = host::families();
            hall.dns64 = match self.dns64 {
                Dns64::Auto => hall.policy.families == Families::V4,
                Dns64::Always => true,
                Dns64::Never => false,
            };
        }
        hall.nameserver = self.resolver.server();
    }

    fn lease(&mut self, now: Instant, message: &[u8], hall: &mut Hall) {
        let Some(answer) = self.leases.as_mut().and_then(|leases| leases.handle(now, message)) else {
            return;
        };
        let Some(own) = hall.policy.own(true) else { return };
        let ends = (SocketAddr::new(own, DHCP_SERVER), SocketAddr::new(answer.to.into(), DHCP_CLIENT));
        let _ = hall.engine.send_as(now, ends, Some(hall.link), &answer.bytes, 0);
    }

    fn lease_v6(&mut self, now: Instant, from: IpAddr, message: &[u8], hall: &mut Hall) {
        let Some(server) = self.leases_v6.as_mut().filter(|_| is_link_local(from)) else { return };
        let (Some(answer), Some(own)) = (server.handle(now, message), link_local()) else { return };
        let ends = (SocketAddr::new(own, dhcp6::SERVER), SocketAddr::new(from, dhcp6::CLIENT));
        let _ = hall.engine.send_as(now, ends, Some(hall.link), &answer, 0);
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Our address on the link.
fn link_local() -> Option<IpAddr> {
    LINK_LOCAL.parse::<IpNet>().ok().map(|net| net.addr())
}

fn advertise(now: Instant, to: IpAddr, dhcp: Dhcp6, hall: &mut Hall) {
    let net = hall.policy.networks().iter().find_map(|net| match net {
        IpNet::V6(net) => Some(*net),
        IpNet::V4(_) => None,
    });
    let (Some(net), Some(link)) = (net, hall.engine.tables().links.get(&hall.link)) else { return };
    let message = advertisement(link.mac.0, link.mtu, net, Some(net.addr()), dhcp);
    let _ = hall.engine.send_message_as(now, (link_local(), to), Some(hall.link), HOPS, &[&message]);
}

/// The host's nameservers.
#[derive(Debug, Default)]
struct Resolver {
    read_at: Option<Instant>,
    modified: Option<SystemTime>,
    servers: Vec<IpAddr>,
    turn: usize,
}

impl Resolver {
    fn server(&self) -> Option<SocketAddr> {
        let count = self.servers.len().max(1);
        self.servers.get(self.turn % count).map(|address| SocketAddr::new(*address, DOMAIN))
    }

    /// True: it looked.
    fn refresh(&mut self, now: Instant) -> bool {
        if self.read_at.is_some_and(|at| now.saturating_duration_since(at) < FRESH) {
            return false;
        }
        self.read_at = Some(now);
        let modified = std::fs::metadata(RESOLV_CONF).and_then(|meta| meta.modified()).ok();
        if modified != self.modified || self.servers.is_empty() {
            self.modified = modified;
            self.servers = nameservers();
        }
        true
    }
}

/// The nameservers that resolv.conf(5) names; without any, the one on the machine.
pub(crate) fn nameservers() -> Vec<IpAddr> {
    let named = names::nameservers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    if named.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { named }
}

/// The user's views and their addresses.
#[derive(Debug)]
struct Directory {
    stacks: PathBuf,
    asked_at: Option<Instant>,
    views: Vec<(String, Vec<IpAddr>)>,
}

impl Directory {
    /// The answer to a question, if it is for us.
    fn answer(&mut self, now: Instant, question: &Question, hall: &Hall) -> Option<Answer> {
        match question {
            Question::Name(address) if !hall.policy.is_inside(*address) && !hall.policy.is_own(*address) => {
                None
            }
            Question::Name(address) => {
                self.refresh(now, hall);
                let found = self.views.iter().find(|(_, addresses)| addresses.contains(address));
                Some(found.map_or(Answer::Nobody, |(view, _)| Answer::Name(view.clone())))
            }
            Question::Addresses { view, v4 } => {
                self.refresh(now, hall);
                let found = self.views.iter().find(|(name, _)| name.eq_ignore_ascii_case(view));
                let wanted = |address: &&IpAddr| Some(address.is_ipv4()) == *v4;
                Some(found.map_or(Answer::Nobody, |(_, addresses)| {
                    Answer::Addresses(addresses.iter().filter(wanted).copied().collect())
                }))
            }
        }
    }

    fn refresh(&mut self, now: Instant, hall: &Hall) {
        if self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < FRESH) {
            return;
        }
        self.asked_at = Some(now);
        self.views.clear();
        let Ok(entries) = std::fs::read_dir(&self.stacks) else { return };
        for entry in entries.flatten().take(MAX_STACKS) {
            let Some(stack) = describe(&entry.path()) else { continue };
            let addresses = stack.interfaces.iter().flat_map(|interface| &interface.addresses);
            let addresses = addresses.filter_map(|text| text.parse::<IpNet>().ok()).map(|net| net.addr());
            let addresses: Vec<IpAddr> =
                addresses.filter(|address| hall.policy.is_inside(*address)).collect();
            if !addresses.is_empty() {
                self.views.push((stack.name, addresses));
            }
            if clocks().0.saturating_duration_since(now) > PATIENCE.1 {
                break;
            }
        }
    }
}

fn describe(path: &Path) -> Option<Description> {
    let mut line = Line::connect(path).ok()?;
    line.stream().set_read_timeout(Some(PATIENCE.0)).ok()?;
    line.stream().set_write_timeout(Some(PATIENCE.0)).ok()?;
    line.call(&Request::Show, &[]).ok().map(|(stack, _)| stack)
}

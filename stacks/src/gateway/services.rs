//! What the gateway itself does for its network: addresses, router advertisements, names.
//!
//! # Theory of operation
//! DHCP and advertisements are answers of cores ([`super::dhcp`], [`crate::dhcp6::server`], [`mod@super::advertise`]). A
//! question about names that [`names`] knows is answered from the list of the user's stacks ([`super::directory`]). All
//! other questions to the gateway's own addresses go to the host's nameserver, as
//! resolv.conf(5) names it at that moment, over UDP and TCP; when that is not there, the next one is tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::advertise::{self, HOPS, advertisement};
use super::dhcp::{Dhcp6, Leases};
use super::directory::{Directory, Kept, Known};
use super::names::{self, Answer};
use super::policy::Families;
use super::{Config, Hall, host};
use crate::dhcp6::{self, server::Server};
use crate::smol::net::Packet;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
/// The port of nameservers.
pub(super) const DOMAIN: u16 = 53;
/// Where the host's nameservers are said.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long what was read is believed.
const FRESH: Duration = Duration::from_secs(1);
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
    pub(super) directory: Directory,
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
            directory: Directory::new(stacks.to_owned()),
        }
    }

    /// How many addresses are leased.
    pub(super) fn leases(&self) -> usize {
        self.leases.as_ref().map_or(0, Leases::len) + self.leases_v6.as_ref().map_or(0, Server::len)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.advertise_at.into_iter().chain(self.directory.poll_timeout()).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, hall: &mut Hall) {
        self.directory.handle_timeout(now);
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
                let from = SocketAddr::new(packet.destination, DOMAIN);
                let to = SocketAddr::new(packet.source, port(0));
                let Some(known) = self.answer(now, data, hall) else {
                    self.directory.keep(Kept { from: to, to: from, message: data.to_owned() });
                    return Outcome::Done;
                };
                if let Some(message) = known.or_else(|| refused().flatten()) {
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

    /// The answer to a question, if one is known here; `None`: not yet, but once the stacks have answered
    /// ([`Directory::take_kept`]).
    pub(super) fn answer(
        &mut self,
        now: Instant,
        message: &[u8],
        hall: &mut Hall,
    ) -> Option<Option<Vec<u8>>> {
        let question = names::question(message);
        let known =
            question.as_ref().map_or(Known::Nothing, |question| self.directory.answer(now, question, hall));
        Some(match (known, &mut hall.way) {
            (Known::Later, _) => return None,
            (Known::Answer(answer), _) => names::answer(message, &answer),
            (Known::Nothing, Some(way)) => {
                let has = |v4| hall.policy.own(v4).is_some();
                let answer = way.answer(message, question.as_ref(), has);
                answer.and_then(|answer| names::answer(message, &answer))
            }
            (Known::Nothing, None) => None,
        })
    }

    /// Answers datagrams that waited for what is known now.
    pub(super) fn answer_kept(&mut self, now: Instant, kept: Vec<Kept>, hall: &mut Hall) {
        for Kept { from, to, message } in kept {
            if let Some(Some(answer)) = self.answer(now, &message, hall) {
                let _ = hall.engine.send_as(now, (to, from), None, &answer, 0);
            }
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
        // Who ends before its link-local address is its own has another one.
        let near = is_link_local(from) || hall.policy.is_inside(from);
        let Some(server) = self.leases_v6.as_mut().filter(|_| near) else { return };
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

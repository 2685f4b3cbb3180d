//! An interface that listens to IPv6 routers: what they say of DHCPv6 and of nameservers. A core.
//!
//! # Theory of operation
//! Prefixes, routers and their lifetimes are the stack's own business: a kernel hears them itself, an engine too. Here is what
//! neither does: where a router says that addresses are given by DHCPv6 (M), a [`Client`] asks for one, and keeps it; where it
//! says that names are (O), and does not name a nameserver itself, one asks for them. Nameservers are known as long as
//! the routers that named them say (RFC 8106 section 5.1), those of DHCPv6 as long as nobody says others.
//!
//! Advertisements come by a raw socket, which is open as long as the stack; those that a router has forwarded are not
//! heard. Port 546 is open only while an answer is waited for: at other times it is a program's.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{LONGEST, Sockets, TURN};
use crate::config::{InterfaceConfig, Mac};
use crate::dhcp6::client::{Client, Told, Wish};
use crate::dhcp6::{ALL_SERVERS, SERVER};
use crate::gateway::advertise::{Advertisement, Heard, INFINITY};

/// Most nameservers that are remembered: more than resolvers ask (MAXNS of resolv.h), so that some may end.
const MAX_NAMESERVERS: usize = 8;

/// An interface, its routers and its server.
#[derive(Debug)]
pub(super) struct Listener<I> {
    pub(super) interface: String,
    mac: Mac,
    host: Option<String>,
    id: u32,
    /// The router that was heard before there was a stack.
    first: Option<Ipv6Addr>,
    /// Where advertisements come; a stack that gives none hears nothing.
    routers: Option<I>,
    client: Option<Client>,
    /// Where answers to the client come.
    socket: Option<I>,
    /// Nameservers of routers, and until when.
    nameservers: Vec<(Ipv6Addr, Option<Instant>)>,
}

impl<I: Copy + PartialEq> Listener<I> {
    /// For an interface that was configured by what it heard; `id` is a number that others do not use.
    pub(super) fn new<S: Sockets<Id = I>>(
        now: Instant,
        sockets: &mut S,
        config: &InterfaceConfig,
        id: u32,
    ) -> Option<Self> {
        if config.heard.is_none() && config.lease_v6.is_none() {
            return None;
        }
        let mac = config.mac?;
        let routers = sockets.routers(&config.name);
        if let Err(errno) = &routers {
            log::warn!("{}: routers are not heard: {errno}", config.name);
        }
        let lease = config.lease_v6.clone();
        let names = config.lease.as_ref().and_then(|lease| lease.host.clone());
        let host = lease.as_ref().and_then(|lease| lease.host.clone()).or(names);
        let client = lease.map(|lease| Client::with_lease(now, mac, id, lease));
        let (interface, routers, nameservers) = (config.name.clone(), routers.ok(), Vec::new());
        let first = config.heard.as_ref().map(|heard| heard.router);
        let mut made = Self { interface, mac, host, id, first, routers, client, socket: None, nameservers };
        if let Some(heard) = &config.heard {
            made.hear(now, &heard.said);
        }
        Some(made)
    }

    pub(super) fn owns(&self, id: I) -> bool {
        self.routers == Some(id) || self.socket == Some(id)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.client.as_ref().and_then(Client::poll_timeout)
    }

    /// For how long it has its lease.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.client.as_ref().and_then(|client| client.left(now))
    }

    /// The nameservers that are known now.
    pub(super) fn nameservers(&self, now: Instant) -> impl Iterator<Item = Ipv6Addr> {
        let good = move |until: &Option<Instant>| until.is_none_or(|until| until > now);
        let told = self.client.iter().flat_map(|client| client.nameservers().iter().copied());
        self.nameservers.iter().filter(move |(_, until)| good(until)).map(|(address, _)| *address).chain(told)
    }

    pub(super) fn turn<S: Sockets<Id = I>>(&mut self, now: Instant, sockets: &mut S) {
        let mut buffer = [0; LONGEST];
        for _ in 0..TURN {
            let Some(routers) = self.routers else { break };
            let Some((length, router)) = sockets.advertisement(routers, &mut buffer) else { break };
            let Some(said) = Advertisement::parse(&buffer[..length]) else { continue };
            self.hear(now, &said);
            if self.first == Some(router) {
                sockets.heard(&self.interface, &Heard { router, said });
            }
        }
        let Some(client) = &mut self.client else { return };
        let told = client.handle_timeout(now);
        self.tell(now, told, sockets);
        for _ in 0..TURN {
            let (Some(socket), Some(client)) = (self.socket, &mut self.client) else { break };
            let Some((length, from)) = sockets.receive(socket, &mut buffer) else { break };
            if from.port() == SERVER {
                let told = client.handle_message(now, &buffer[..length]);
                self.tell(now, told, sockets);
            }
        }
        if self.client.as_ref().is_none_or(|client| !client.asks()) {
            self.hush(sockets);
        }
    }

    /// The stack ends: the address is another's to have.
    pub(super) fn end<S: Sockets<Id = I>>(&mut self, now: Instant, sockets: &mut S) {
        let message = self.client.as_mut().and_then(|client| client.release(now));
        if message.is_some() {
            self.tell(now, (None, message), sockets);
        }
        self.hush(sockets);
    }

    fn hush<S: Sockets<Id = I>>(&mut self, sockets: &mut S) {
        if let Some(socket) = self.socket.take() {
            sockets.close(socket);
        }
    }

    fn hear(&mut self, now: Instant, said: &Advertisement) {
        for (address, lifetime) in &said.nameservers {
            self.nameservers
                .retain(|(known, until)| known != address && until.is_none_or(|until| until > now));
            let until = (*lifetime != INFINITY).then(|| now + Duration::from_secs((*lifetime).into()));
            if *lifetime > 0 && self.nameservers.len() < MAX_NAMESERVERS {
                self.nameservers.push((*address, until));
            }
        }
        let has = self.client.as_ref().map(Client::wish);
        let wish = match has {
            Some(Wish::Address) => return,
            _ if said.managed => Wish::Address,
            None if said.other && said.nameserver().is_none() => Wish::Names,
            _ => return,
        };
        self.id = self.id.wrapping_add(1);
        self.client = Some(Client::new(now, self.mac, self.id, wish, self.host.as_deref()));
    }

    fn tell<S: Sockets<Id = I>>(&mut self, now: Instant, (change, message): Told, sockets: &mut S) {
        if let Some(change) = change {
            log::info!("{}: {change:?}", self.interface);
            sockets.change_v6(now, &self.interface, &change);
        }
        if let Some(message) = message {
            if self.socket.is_none() {
                // A program has the port: next time, perhaps.
                self.socket = sockets.client_v6(&self.interface).ok();
            }
            if let Some(socket) = self.socket {
                sockets.send(socket, SocketAddr::new(ALL_SERVERS.into(), SERVER), &message);
            }
        }
    }
}

#[cfg(test)]
#[path = "routers/tests.rs"]
mod tests;

//! Keeping what DHCP gave: a client whose stack is there already (RFC 2131 section 4.4.5). A core.
//!
//! # Theory of operation
//! ```text
//!  Bound ─ half of the lease ─► Renewing ─ 7/8 of it ─► Rebinding ─ all of it ─► Seeking
//!    ▲ ACK                        │ the server is asked   │ everybody is asked      │ DISCOVER … REQUEST
//!    └────────────────────────────┴───────────────────────┴──────── ACK ◄───────────┘
//! ```
//! A NAK ends the lease at once. Whoever seeks asks after 4, 8, 16 … 64 seconds, and never gives up: the stack lives on.
//! Messages go by a UDP socket, as the stack has an address; while it has none any more they still leave by its interface.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr};

use crate::config::Mac;
use crate::gateway::dhcp;

/// Ports of DHCP.
pub(crate) const SERVER: u16 = 67;
pub(crate) const CLIENT: u16 = 68;
/// Nobody asks again sooner, for a lease that is there (RFC 2131 section 4.4.5) and for none.
const AGAIN: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_secs(4);
const LAST: Duration = Duration::from_secs(64);
/// A lease that is told as shorter is taken for as long as this: a server that says 0 would have us ask without end.
const SHORTEST: Duration = Duration::from_secs(8);

/// What DHCP gave an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The address with its network.
    pub ip: Ipv4Net,
    /// The router, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// For how long, in seconds.
    pub seconds: u32,
    /// The name that the server was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Lease {
    /// What an ACK gives.
    pub(crate) fn of(said: &DhcpRepr<'_>) -> Option<Self> {
        let mask = said.subnet_mask.unwrap_or(Ipv4Addr::BROADCAST);
        Some(Self {
            ip: Ipv4Net::with_netmask(said.your_ip, mask).ok()?,
            router: said.router,
            server: said.server_identifier?,
            seconds: said.lease_duration.unwrap_or(u32::MAX),
            host: None,
        })
    }

    fn name(&self) -> Option<DhcpOption<'_>> {
        self.host.as_deref().map(dhcp::host_name)
    }

    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds.into()).max(SHORTEST)
    }
}

/// What is to change in the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The lease is over: its address goes, and with it the routes through it.
    Lost(Lease),
    /// There is another one in the place of the first, or of none.
    Got(Option<Lease>, Lease),
}

/// A message to be sent from port 68.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// To whom.
    pub to: SocketAddr,
    /// The message.
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Bound,
    Asking,
    /// Nobody has offered anything, or this address, by this server.
    Seeking(Option<(Ipv4Addr, Ipv4Addr)>),
}

/// A client with a lease.
#[derive(Debug)]
pub struct Renewal {
    mac: Mac,
    id: u32,
    lease: Lease,
    /// When the lease began; it is over and gone if it is nothing.
    since: Option<Instant>,
    state: State,
    at: Instant,
    patience: Duration,
}

impl Renewal {
    /// Whoever has just got a lease; `id` is a number that others do not use.
    pub fn new(now: Instant, mac: Mac, id: u32, lease: Lease) -> Self {
        let at = now + lease.length() / 2;
        Self { mac, id, lease, since: Some(now), state: State::Bound, at, patience: FIRST }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Instant {
        self.at
    }

    /// Whether it waits for an answer, so that somebody is to listen.
    pub fn asks(&self) -> bool {
        self.state != State::Bound
    }

    /// For how long the lease is good.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| (since + self.lease.length()).saturating_duration_since(now))
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> (Option<Change>, Option<Message>) {
        if now < self.at {
            return (None, None);
        }
        let length = self.lease.length();
        let over = self.since.map(|since| since + length);
        let lost = match (self.state, over) {
            (State::Seeking(_), _) => None,
            (_, Some(over)) if now < over => {
                let (early, left) = (now < over - length / 8, over - now);
                self.state = State::Asking;
                // Half of what is left until everybody is asked, or until the end.
                let left = if early { left - length / 8 } else { left };
                self.at = now + (left / 2).max(AGAIN.min(left));
                return (None, Some(self.renew(early)));
            }
            _ => Some(self.lose()),
        };
        self.at = now + self.patience;
        self.patience = (self.patience * 2).min(LAST);
        if self.state == State::Seeking(None) {
            self.id = self.id.wrapping_add(1);
        }
        let message = self.seek();
        // If that offer is not confirmed, the next question is for another.
        if let State::Seeking(offer) = &mut self.state {
            *offer = None;
        }
        (lost, Some(message))
    }

    fn lose(&mut self) -> Change {
        (self.since, self.state, self.patience) = (None, State::Seeking(None), FIRST);
        Change::Lost(self.lease.clone())
    }

    /// A datagram that came to port 68.
    pub fn handle_message(&mut self, now: Instant, bytes: &[u8]) -> (Option<Change>, Option<Message>) {
        let nothing = (None, None);
        let Ok(packet) = DhcpPacket::new_checked(bytes) else { return nothing };
        let Ok(said) = DhcpRepr::parse(&packet) else { return nothing };
        if said.transaction_id != self.id || said.client_hardware_address.0 != self.mac.0 {
            return nothing;
        }
        match (said.message_type, self.state) {
            (DhcpMessageType::Offer, State::Seeking(None)) => {
                let Some(server) = said.server_identifier else { return nothing };
                self.state = State::Seeking(Some((said.your_ip, server)));
                (None, Some(self.seek()))
            }
            (DhcpMessageType::Ack, State::Asking | State::Seeking(_)) => {
                let Some(mut lease) = Lease::of(&said) else { return nothing };
                lease.host.clone_from(&self.lease.host);
                let old = self.since.map(|_| self.lease.clone());
                let same = old.as_ref().is_some_and(|old| (old.ip, old.router) == (lease.ip, lease.router));
                let change = (!same).then(|| Change::Got(old, lease.clone()));
                *self = Self::new(now, self.mac, self.id.wrapping_add(1), lease);
                (change, None)
            }
            (DhcpMessageType::Nak, State::Asking | State::Seeking(_)) => {
                let lost = self.since.is_some().then(|| self.lose());
                self.state = State::Seeking(None);
                self.at = now;
                (lost, None)
            }
            _ => nothing,
        }
    }

    /// The lease again, of its server or of anybody.
    fn renew(&self, server: bool) -> Message {
        let name = self.lease.name();
        let request = DhcpRepr {
            additional_options: name.as_slice(),
            client_ip: self.lease.ip.addr(),
            broadcast: false,
            ..dhcp::message(DhcpMessageType::Request, self.id, self.mac.0)
        };
        let to = if server { self.lease.server } else { Ipv4Addr::BROADCAST };
        Message { to: SocketAddr::new(to.into(), SERVER), bytes: dhcp::bytes(&request) }
    }

    /// Another lease: the one that is offered, or whichever.
    fn seek(&self) -> Message {
        let name = self.lease.name();
        let additional_options = name.as_slice();
        let question = match self.state {
            State::Seeking(Some((address, server))) => DhcpRepr {
                additional_options,
                requested_ip: Some(address),
                server_identifier: Some(server),
                ..dhcp::message(DhcpMessageType::Request, self.id, self.mac.0)
            },
            _ => DhcpRepr {
                additional_options,
                requested_ip: Some(self.lease.ip.addr()),
                ..dhcp::message(DhcpMessageType::Discover, self.id, self.mac.0)
            },
        };
        let to = SocketAddr::new(Ipv4Addr::BROADCAST.into(), SERVER);
        Message { to, bytes: dhcp::bytes(&question) }
    }
}

#[cfg(test)]
#[path = "renewal/tests.rs"]
mod tests;

//! A DHCPv6 client: an address for an interface, or names alone (RFC 8415 section 18.2). A core.
//!
//! # Theory of operation
//! ```text
//!  Soliciting ── ADVERTISE ──► Requesting          Informing ── REPLY ──► Informed
//!    ▲  └─ REPLY (rapid commit) ─┐ │ REPLY             ▲ information refresh time │
//!    │                           ▼ ▼                   └──────────────────────────┘
//!    │ end of the lease         Bound ─ T1 ─► Renewing ─ T2 ─► Rebinding
//!    │                            ▲ REPLY       │ its server is asked │ all are
//!    └────────────────────────────┴─────────────┴─────────────────────┘
//! ```
//! One association with one address for each interface; the DUID is that of the interface's hardware address. The first
//! offer is taken, as of DHCPv4. Who asks in vain asks again, ever later (RFC 8415 section 15), and never gives up: a
//! stack lives on. A server that does not know the association any more (NoBinding) is asked for it anew; one that says that
//! the address is of another link (NotOnLink), or over, ends the lease.
//!
//! It is used twice: before a stack is made ([`crate::autoconf`]), and while it lives ([`crate::steward`]), when it begins with
//! the lease that the first one got.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{DOMAINS, Duid, INFINITY, Ia, IaAddress, Kind, Message, NAMESERVERS, REFRESH, Status};
use crate::config::Mac;

/// When a question is asked again for the first time, and at the latest (RFC 8415 section 7.6).
const SOLICIT: (u64, u64) = (1, 3600);
const REQUEST: (u64, u64) = (1, 30);
const RENEW: (u64, u64) = (10, 600);
const INFORM: (u64, u64) = (1, 3600);
/// Requests to one server, before another is looked for (REQ_MAX_RC).
const REQUESTS: u32 = 10;
/// A lease that is told as shorter is taken for as long as this: a server that says 1 would have us ask without end.
const SHORTEST: u32 = 8;
/// When names are asked for again: unless it is said, and at the earliest (IRT_DEFAULT, IRT_MINIMUM), in seconds.
const REFRESH_S: (u32, u32) = (86_400, 600);

/// What DHCPv6 gave an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The address.
    pub address: Ipv6Addr,
    /// For how long it is good, in seconds; [`INFINITY`]: for ever.
    pub valid_s: u32,
    /// For how long it is preferred.
    pub preferred_s: u32,
    /// After how many seconds its server is asked again.
    pub renew_s: u32,
    /// After how many seconds everybody is.
    pub rebind_s: u32,
    /// Who gave it.
    pub server: Duid,
    /// The name that the server was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Lease {
    /// What an association gives: the address `known`, if it has that.
    fn of(ia: &Ia, server: &Duid, known: Option<Ipv6Addr>, host: Option<&String>) -> Option<Self> {
        let good = || ia.addresses.iter().filter(|it| it.valid_s > 0);
        let it = good().find(|it| Some(it.address) == known).or_else(|| good().next())?;
        let valid_s = it.valid_s.max(SHORTEST);
        let preferred_s = it.preferred_s.max(SHORTEST).min(valid_s);
        // Half and four fifths, where the server does not say (RFC 8415 section 14.2), or what makes no sense.
        let part = |of: u32| {
            if preferred_s == INFINITY {
                INFINITY
            } else {
                (u64::from(preferred_s) * u64::from(of) / 10) as u32
            }
        };
        let sense = ia.renew_s > 0 && ia.renew_s <= ia.rebind_s && ia.rebind_s <= valid_s;
        let (renew_s, rebind_s) = if sense { (ia.renew_s, ia.rebind_s) } else { (part(5), part(8)) };
        let least = SHORTEST / 2;
        let renew_s = renew_s.max(least);
        Some(Self {
            address: it.address,
            valid_s,
            preferred_s,
            renew_s,
            rebind_s: rebind_s.max(renew_s),
            server: server.clone(),
            host: host.cloned(),
        })
    }
}

/// What is to change in the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The lease is over: its address goes.
    Lost(Lease),
    /// There is one: instead of the first, or the same for longer.
    Got(Option<Lease>, Lease),
}

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nameservers alone.
    Names,
    /// An address, and they.
    Address,
}

/// What there is to do.
pub type Told = (Option<Change>, Option<Vec<u8>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Soliciting,
    /// That address of that server.
    Requesting(Duid, Option<Ipv6Addr>),
    Bound,
    Renewing,
    Rebinding,
    Informing,
    Informed,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    duid: Duid,
    /// The association's number.
    ia: u32,
    host: Option<String>,
    id: u32,
    state: State,
    /// The lease, and since when.
    lease: Option<(Lease, Instant)>,
    nameservers: Vec<Ipv6Addr>,
    /// Since when it asks, how often it did, and when and after how long it does again.
    since: Instant,
    count: u32,
    at: Option<Instant>,
    patience: Duration,
}

impl Client {
    /// Somebody with this hardware address and this name; `id` is a number that others do not use.
    pub fn new(now: Instant, mac: Mac, id: u32, wish: Wish, host: Option<&str>) -> Self {
        let [_, _, a, b, c, d] = mac.0;
        let state = if wish == Wish::Names { State::Informing } else { State::Soliciting };
        Self {
            duid: Duid::of_mac(mac.0),
            ia: u32::from_be_bytes([a, b, c, d]),
            host: host.map(str::to_owned),
            id: id & 0xFF_FFFF,
            state,
            lease: None,
            nameservers: Vec::new(),
            since: now,
            count: 0,
            at: Some(now),
            patience: Duration::ZERO,
        }
    }

    /// Whoever has just got a lease.
    pub fn with_lease(now: Instant, mac: Mac, id: u32, lease: Lease) -> Self {
        let mut client = Self::new(now, mac, id, Wish::Address, lease.host.as_deref());
        client.bind(now, lease);
        client
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }

    /// Whether it waits for an answer, so that somebody is to listen.
    pub fn asks(&self) -> bool {
        !matches!(self.state, State::Bound | State::Informed)
    }

    /// What for.
    pub fn wish(&self) -> Wish {
        if matches!(self.state, State::Informing | State::Informed) { Wish::Names } else { Wish::Address }
    }

    /// The lease.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref().map(|(lease, _)| lease)
    }

    /// The nameservers that it was told.
    pub fn nameservers(&self) -> &[Ipv6Addr] {
        &self.nameservers
    }

    /// For how long the lease is good.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let (lease, since) = self.lease.as_ref()?;
        Some((*since + seconds(lease.valid_s)).saturating_duration_since(now))
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Told {
        if self.at.is_none_or(|at| now < at) {
            return (None, None);
        }
        let mut lost = None;
        if let Some((lease, since)) = &self.lease {
            let (rebind, over) = (*since + seconds(lease.rebind_s), *since + seconds(lease.valid_s));
            if now >= over && lease.valid_s != INFINITY {
                lost = self.lose(now);
            } else if now >= rebind && self.state != State::Rebinding {
                self.turn(now, State::Rebinding);
            } else if self.state == State::Bound {
                self.turn(now, State::Renewing);
            }
        }
        match self.state {
            State::Informed => self.turn(now, State::Informing),
            State::Requesting(..) if self.count >= REQUESTS => self.turn(now, State::Soliciting),
            _ => {}
        }
        (lost, Some(self.ask(now)))
    }

    /// A datagram that came to port 546.
    pub fn handle_message(&mut self, now: Instant, bytes: &[u8]) -> Told {
        let nothing = (None, None);
        let Some(said) = Message::parse(bytes) else { return nothing };
        let Some(server) = said.server.clone() else { return nothing };
        if said.id != self.id || said.client.as_ref() != Some(&self.duid) {
            return nothing;
        }
        let refused = said.status != Status::SUCCESS;
        match (said.kind, &self.state) {
            (Kind::Advertise, State::Soliciting) if !refused => {
                let Some(ia) = self.own(&said).filter(|ia| ia.status == Status::SUCCESS) else {
                    return nothing;
                };
                let Some(lease) = Lease::of(ia, &server, None, None) else { return nothing };
                self.turn(now, State::Requesting(server, Some(lease.address)));
                (None, Some(self.ask(now)))
            }
            (Kind::Reply, State::Informing) if !refused => {
                self.nameservers = said.nameservers;
                let refresh = said.refresh_s.unwrap_or(REFRESH_S.0).max(REFRESH_S.1);
                self.state = State::Informed;
                self.at = (refresh != INFINITY).then(|| now + seconds(refresh));
                nothing
            }
            // Only with the option it is a reply to what was asked (RFC 8415 section 18.2.10.1).
            (Kind::Reply, State::Soliciting) if !said.rapid_commit => nothing,
            (Kind::Reply, State::Soliciting | State::Requesting(..) | State::Renewing | State::Rebinding) => {
                self.handle_reply(now, &said, server)
            }
            _ => nothing,
        }
    }

    fn handle_reply(&mut self, now: Instant, said: &Message, server: Duid) -> Told {
        let ia = self.own(said);
        let status =
            ia.map_or(said.status, |ia| if ia.status == Status::SUCCESS { said.status } else { ia.status });
        let known = self.lease.as_ref().map(|(lease, _)| lease.address);
        match status {
            Status::SUCCESS => {}
            Status::NO_BINDING if known.is_some() => {
                self.turn(now, State::Requesting(server, known));
                return (None, Some(self.ask(now)));
            }
            Status::NOT_ON_LINK | Status::NO_ADDRESSES if !matches!(self.state, State::Soliciting) => {
                let lost = self.lose(now);
                return (lost, None);
            }
            // Later, perhaps: it is asked again as if nobody had said anything.
            _ => return (None, None),
        }
        let Some(ia) = ia else { return (None, None) };
        let Some(lease) = Lease::of(ia, &server, known, self.host.as_ref()) else {
            let over = |it: &IaAddress| Some(it.address) == known;
            let lost = if ia.addresses.iter().any(over) { self.lose(now) } else { None };
            return (lost, None);
        };
        self.nameservers.clone_from(&said.nameservers);
        let old = self.lease.take().map(|(lease, _)| lease);
        self.bind(now, lease.clone());
        (Some(Change::Got(old, lease)), None)
    }

    /// Gives the lease back: what to send to its server.
    pub fn release(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (lease, _) = self.lease.take()?;
        self.turn(now, State::Soliciting);
        self.at = None;
        let mut message = self.message(now, Kind::Release);
        message.server = Some(lease.server.clone());
        message.ias = vec![self.association(Some(lease.address))];
        Some(message.bytes())
    }

    fn own<'m>(&self, said: &'m Message) -> Option<&'m Ia> {
        said.ias.iter().find(|ia| ia.id == self.ia)
    }

    fn bind(&mut self, now: Instant, lease: Lease) {
        self.state = State::Bound;
        self.at = (lease.renew_s != INFINITY).then(|| now + seconds(lease.renew_s));
        self.id = self.id.wrapping_add(1) & 0xFF_FFFF;
        self.lease = Some((lease, now));
    }

    fn lose(&mut self, now: Instant) -> Option<Change> {
        self.turn(now, State::Soliciting);
        self.lease.take().map(|(lease, _)| Change::Lost(lease))
    }

    /// Begins to ask another question.
    fn turn(&mut self, now: Instant, state: State) {
        self.state = state;
        self.id = self.id.wrapping_add(1) & 0xFF_FFFF;
        (self.since, self.count, self.patience, self.at) = (now, 0, Duration::ZERO, Some(now));
    }

    /// The question, and when it is asked again.
    fn ask(&mut self, now: Instant) -> Vec<u8> {
        let (first, most) = match self.state {
            State::Soliciting => SOLICIT,
            State::Requesting(..) => REQUEST,
            State::Informing | State::Informed => INFORM,
            State::Bound | State::Renewing | State::Rebinding => RENEW,
        };
        let next = (self.patience * 2).min(Duration::from_secs(most)).max(Duration::from_secs(first));
        // A tenth more or less, so that those who began together do not go on so (RAND, RFC 8415 section 15).
        self.patience = next;
        let next = next * (900 + self.id.wrapping_mul(2_654_435_761) % 201) / 1000;
        self.count += 1;
        let at = now + next;
        // Nothing is asked beyond the time when another question is due.
        let due = self.lease.as_ref().map(|(lease, since)| {
            *since + seconds(if self.state == State::Renewing { lease.rebind_s } else { lease.valid_s })
        });
        self.at = Some(due.filter(|due| *due > now).map_or(at, |due| due.min(at)));
        self.question(now).bytes()
    }

    fn question(&self, now: Instant) -> Message {
        let known = self.lease.as_ref().map(|(lease, _)| lease);
        let (kind, server, address) = match &self.state {
            State::Soliciting => (Kind::Solicit, None, None),
            State::Requesting(server, address) => (Kind::Request, Some(server), *address),
            State::Bound | State::Renewing => {
                (Kind::Renew, known.map(|it| &it.server), known.map(|it| it.address))
            }
            State::Rebinding => (Kind::Rebind, None, known.map(|it| it.address)),
            State::Informing | State::Informed => (Kind::InformationRequest, None, None),
        };
        let mut message = self.message(now, kind);
        message.server = server.cloned();
        message.asked = vec![NAMESERVERS, DOMAINS];
        if kind == Kind::InformationRequest {
            message.asked.push(REFRESH);
        } else {
            message.ias = vec![self.association(address)];
            message.name.clone_from(&self.host);
        }
        message.rapid_commit = kind == Kind::Solicit;
        message
    }

    fn message(&self, now: Instant, kind: Kind) -> Message {
        let elapsed = now.saturating_duration_since(self.since).as_millis() / 10;
        let mut message = Message::new(kind, self.id);
        message.client = Some(self.duid.clone());
        message.elapsed = Some(u16::try_from(elapsed).unwrap_or(u16::MAX));
        message
    }

    fn association(&self, address: Option<Ipv6Addr>) -> Ia {
        let addresses = address.map(|address| IaAddress { address, preferred_s: 0, valid_s: 0 });
        Ia { id: self.ia, addresses: addresses.into_iter().collect(), ..Ia::default() }
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

#[cfg(test)]
#[path = "client/tests.rs"]
mod tests;

//! A peer: its session, where it is, what it is owed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{DATA, HANDSHAKE_LEN, INITIATION, RESPONSE};
use crate::wg::batch::{MAX_DATAGRAM, Outbox};
use crate::wg::quick::{self, Endpoint, Key};

/// Between two looks at a session's timers while one may be due: the finest of them are seconds.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// The same while a session is only kept.
pub(super) const SLOW_TICK: Duration = Duration::from_secs(1);
/// A handshake is tried for so long (REKEY_ATTEMPT_TIME), and some ticks more.
pub(super) const TRYING: Duration = Duration::from_secs(95);
/// A handshake without an answer for so long may be one with an address that is no longer the peer's.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(15);
/// Between two questions for an endpoint's name: what a short-lived record is valid.
pub(super) const BETWEEN_QUESTIONS: Duration = Duration::from_secs(30);

/// A peer as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its key.
    pub public_key: Key,
    /// It has a preshared key.
    pub preshared: bool,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Its addresses.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds since the last handshake.
    pub handshake_s: Option<u64>,
    /// Bytes of datagrams from it.
    pub received: u64,
    /// Bytes of datagrams to it.
    pub sent: u64,
    /// Seconds.
    pub keepalive: Option<u16>,
}

/// What the tunnel knows of it.
pub(super) struct Peer {
    pub(super) tunn: Tunn,
    pub(super) key: Key,
    pub(super) preshared: bool,
    pub(super) allowed: Vec<IpNet>,
    pub(super) endpoint: Option<SocketAddr>,
    /// Where the file says it is, if by a name.
    pub(super) name: Option<Endpoint>,
    pub(super) keepalive: Option<u16>,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) handshake: Option<Instant>,
    /// There is a session, for all we know.
    pub(super) live: bool,
    /// We answered a handshake and have not heard whether the answer came.
    pub(super) unconfirmed: bool,
    /// Since when a handshake has been tried.
    pub(super) trying: Option<Instant>,
    pub(super) asked: Option<Instant>,
    /// Bytes of the longest datagram.
    pub(super) longest: usize,
    /// The last attempt was given up; when the next is due, for peers with a keepalive.
    pub(super) again: Option<Instant>,
}

impl Peer {
    pub(super) fn new(
        config: &quick::Peer,
        private: &StaticSecret,
        index: u32,
        limiter: &Arc<RateLimiter>,
    ) -> Self {
        let preshared = config.preshared_key.map(|key| key.0);
        let tunn = Tunn::new(
            private.clone(),
            PublicKey::from(config.public_key.0),
            preshared,
            config.keepalive,
            index,
            Some(Arc::clone(limiter)),
        );
        let endpoint = config.endpoint.as_ref().and_then(Endpoint::address);
        Self {
            tunn,
            key: config.public_key,
            preshared: preshared.is_some(),
            allowed: config.allowed_ips.clone(),
            endpoint,
            name: config.endpoint.clone().filter(|name| name.address().is_none()),
            keepalive: config.keepalive,
            received: 0,
            sent: 0,
            handshake: None,
            live: false,
            unconfirmed: false,
            trying: None,
            asked: None,
            longest: MAX_DATAGRAM,
            again: None,
        }
    }

    /// The first `len` bytes of the outbox's room are a message for this peer.
    pub(super) fn send(&mut self, now: Instant, kind: u8, len: usize, outbox: &mut Outbox) {
        let Some(to) = self.endpoint else { return };
        self.sent += len as u64;
        if kind == INITIATION {
            self.trying.get_or_insert(now);
        }
        outbox.commit(to, len);
    }

    /// How long its timers need no look.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self.trying {
            Some(_) => Some(TICK),
            None if self.live || self.keepalive.is_some() => Some(SLOW_TICK),
            None => None,
        }
    }

    /// It has sent something that only it could send: it is there.
    pub(super) fn authentic(&mut self, now: Instant, kind: u8, from: SocketAddr, len: usize) {
        self.received += len as u64;
        self.endpoint = Some(from);
        self.live = true;
        match kind {
            RESPONSE => self.established(now),
            INITIATION => self.unconfirmed = true,
            _ => {}
        }
    }

    pub(super) fn established(&mut self, now: Instant) {
        self.handshake = Some(now);
        (self.trying, self.again, self.unconfirmed) = (None, None, false);
    }

    /// Data came, by which a handshake that it began is known to be complete.
    pub(super) fn confirm(&mut self, now: Instant, from: SocketAddr, len: usize, outbox: &mut Outbox) {
        self.authentic(now, DATA, from, len);
        if self.unconfirmed {
            self.established(now);
            self.send_waiting(now, outbox);
        }
    }

    /// Sends what waited for a session.
    pub(super) fn send_waiting(&mut self, now: Instant, outbox: &mut Outbox) {
        while let Some(room) = outbox.room(self.longest) {
            let TunnResult::WriteToNetwork(datagram) = self.tunn.decapsulate(None, &[], room) else { return };
            let (kind, len) = (datagram[0], datagram.len());
            self.send(now, kind, len, outbox);
        }
    }

    pub(super) fn initiate(&mut self, now: Instant, outbox: &mut Outbox) {
        if self.endpoint.is_none() {
            return;
        }
        let Some(room) = outbox.room(HANDSHAKE_LEN) else { return };
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.format_handshake_initiation(room, false) {
            let (kind, len) = (datagram[0], datagram.len());
            self.send(now, kind, len, outbox);
        }
    }

    pub(super) fn tick(&mut self, now: Instant, began: bool, outbox: &mut Outbox) {
        // Room for a keepalive or a handshake.
        let Some(room) = outbox.room(HANDSHAKE_LEN) else { return };
        match self.tunn.update_timers(room) {
            TunnResult::WriteToNetwork(datagram) => {
                let (kind, len) = (datagram[0], datagram.len());
                self.send(now, kind, len, outbox);
            }
            TunnResult::Err(_) => {
                // It gave up, until there is something to send. A keepalive is such a thing.
                self.trying = None;
                if let Some(seconds) = self.keepalive {
                    let pause = Duration::from_secs(seconds.into());
                    let again = *self.again.get_or_insert_with(|| now + pause);
                    if now >= again {
                        self.again = None;
                        self.initiate(now, outbox);
                    }
                }
            }
            // What there was no room for.
            _ if self.live => self.send_waiting(now, outbox),
            _ => {}
        }
        self.live = self.tunn.time_since_last_handshake().is_some();
        if began && self.keepalive.is_some() {
            self.initiate(now, outbox);
        }
        if self.trying.is_some_and(|since| now.saturating_duration_since(since) > TRYING) {
            self.trying = None;
        }
    }

    /// The endpoint's name, if it is time to ask for it: at the beginning, and when nobody answers.
    pub(super) fn question(&mut self, now: Instant) -> Option<Endpoint> {
        let name = self.name.as_ref()?;
        let since = |at: Instant| now.saturating_duration_since(at);
        let lost = self.trying.is_some_and(|at| since(at) >= ASK_AGAIN);
        if (self.endpoint.is_none() || lost) && self.asked.is_none_or(|at| since(at) >= BETWEEN_QUESTIONS) {
            self.asked = Some(now);
            return Some(name.clone());
        }
        None
    }

    pub(super) fn info(&self, now: Instant) -> PeerInfo {
        PeerInfo {
            public_key: self.key,
            preshared: self.preshared,
            endpoint: self.endpoint,
            allowed_ips: self.allowed.clone(),
            handshake_s: self.handshake.map(|at| now.saturating_duration_since(at).as_secs()),
            received: self.received,
            sent: self.sent,
            keepalive: self.keepalive,
        }
    }
}

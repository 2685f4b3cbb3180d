//! What was learned of single destinations: path MTUs and better routers.
//!
//! # Theory of operation
//! As the kernel's route exceptions (fib_nh_exception, rt6_exception): an entry per destination that overrides
//! what its route says, until it grows old. A path MTU never falls below what every host has to carry
//! (RFC 1191 clause 3 in Linux's reading, min_pmtu; RFC 8201 clause 4) and only falls (RFC 8201 clause 5.4); ten
//! minutes later the way is tried again (mtu_expires).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::timers::Timer;
use super::{Net, Path};
use crate::smol::tables::IfIndex;

/// How long a path MTU holds (mtu_expires; RFC 8201 clause 5.3).
const LIFETIME: Duration = Duration::from_secs(600);
/// Lowest path MTU of IPv4 (min_pmtu).
const LOWEST_V4: u32 = 552;
/// Lowest path MTU of IPv6 (IPV6_MIN_MTU).
const LOWEST_V6: u32 = 1280;
/// Destinations remembered, at most: each is 64 bytes, and a peer can only make us learn about itself.
const MAX_EXCEPTIONS: usize = 4096;

/// What is known of a destination.
#[derive(Debug, Clone, Copy, Default)]
struct Exception {
    mtu: Option<u32>,
    /// A better router, on this link.
    gateway: Option<(IfIndex, IpAddr)>,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Exceptions(BTreeMap<IpAddr, Exception>);

impl Net {
    /// A path MTU was learned, or, with 0, is to be forgotten. Whoever calls has made sure that the packet the
    /// router quotes is one of ours (RFC 5927 clause 7).
    pub fn set_path_mtu(&mut self, now: Instant, destination: IpAddr, mtu: u32) {
        if mtu == 0 {
            self.exception_due(destination);
            return;
        }
        let mtu = match destination {
            IpAddr::V4(_) => mtu.max(LOWEST_V4),
            // A lower value is a lie or a translator's; the packets are not to be fragmented for it.
            IpAddr::V6(_) if mtu < LOWEST_V6 => return,
            IpAddr::V6(_) => mtu,
        };
        let known = self.exceptions.0.get(&destination).and_then(|known| known.mtu);
        match known {
            Some(known) if known < mtu => {}
            Some(known) if known == mtu => self.timers.set(Timer::Exception(destination), now + LIFETIME),
            _ => self.learn(now, destination, |exception| exception.mtu = Some(mtu)),
        }
    }

    /// A router says that another one is nearer to `destination`.
    pub(super) fn set_gateway(&mut self, now: Instant, destination: IpAddr, link: IfIndex, gateway: IpAddr) {
        self.learn(now, destination, |exception| exception.gateway = Some((link, gateway)));
    }

    fn learn(&mut self, now: Instant, destination: IpAddr, change: impl FnOnce(&mut Exception)) {
        let exceptions = &mut self.exceptions.0;
        if exceptions.len() >= MAX_EXCEPTIONS && !exceptions.contains_key(&destination) {
            return;
        }
        change(exceptions.entry(destination).or_default());
        self.timers.set(Timer::Exception(destination), now + LIFETIME);
        self.generation += 1;
    }

    /// What was learned of a destination is old.
    pub(super) fn exception_due(&mut self, destination: IpAddr) {
        self.timers.clear(Timer::Exception(destination));
        if self.exceptions.0.remove(&destination).is_some() {
            self.generation += 1;
        }
    }

    /// Routes changed: better routers may be none any more.
    pub(super) fn forget_gateways(&mut self) {
        for exception in self.exceptions.0.values_mut() {
            exception.gateway = None;
        }
    }

    /// Applies what was learned of a destination to a path.
    pub(super) fn except(&self, destination: IpAddr, path: &mut Path) {
        let Some(exception) = self.exceptions.0.get(&destination) else { return };
        path.mtu = path.mtu.min(exception.mtu.unwrap_or(u32::MAX));
        if let Some((link, gateway)) = exception.gateway.filter(|(link, _)| *link == path.link) {
            path.link = link;
            path.next_hop = gateway;
        }
    }
}

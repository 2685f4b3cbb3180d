//! Duplicate address detection (RFC 4862 clause 5.4; RFC 7527), as addrconf_dad_* of net/ipv6/addrconf.c.
//!
//! # Theory of operation
//! An IPv6 address that is flagged IFA_F_TENTATIVE is asked for, once, after up to a second; a second later it
//! is ours, unless somebody has answered or asked the same: then it is flagged IFA_F_DADFAILED for good. It
//! starts when the address appears and its interface runs, whichever is last. An address that has become
//! usable, of either family, is announced once.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::Net;
use super::ndp::ALL_NODES;
use super::timers::Timer;
use crate::smol::tables::{Address, IfIndex};

/// Before the first question, at most (MAX_RTR_SOLICITATION_DELAY), so that machines started together differ.
const MAX_DELAY: Duration = Duration::from_secs(1);
/// From the last question until the address is ours (RetransTimer).
const WAIT: Duration = Duration::from_secs(1);
/// Questions (DupAddrDetectTransmits).
const QUESTIONS: u8 = 1;

/// Links on which nobody is asked or told (addrconf_dad_begin).
const UNASKED: u32 = (libc::IFF_LOOPBACK | libc::IFF_NOARP) as u32;

/// An address under suspicion.
#[derive(Debug)]
struct Detection {
    left: u8,
    nonce: [u8; 6],
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Detections(FxHashMap<(IfIndex, Ipv6Addr), Detection>);

impl Net {
    /// An address is new or different, or its interface is.
    pub(super) fn consider(&mut self, now: Instant, link: IfIndex, address: IpAddr) {
        let Some(device) = self.tables.links.get(&link) else { return };
        let (running, unasked) = (device.is_running(), device.flags() & UNASKED != 0);
        let Some(flags) = self.flags_of(link, address).map(|flags| *flags) else { return };
        let IpAddr::V6(address) = address else {
            if running && !unasked {
                self.announce_once(now, link, address);
            }
            return;
        };
        let tentative = flags & libc::IFA_F_TENTATIVE != 0;
        if !running || flags & libc::IFA_F_DADFAILED != 0 {
            return;
        }
        if tentative && (unasked || flags & libc::IFA_F_NODAD != 0) {
            self.accept(now, link, address);
        } else if tentative && !self.detections.0.contains_key(&(link, address)) {
            let [a, b, c, d, e, f, ..] = self.random.next().to_be_bytes();
            let detection = Detection { left: QUESTIONS, nonce: [a, b, c, d, e, f] };
            self.detections.0.insert((link, address), detection);
            let due = now + self.random.delay(MAX_DELAY);
            self.timers.set(Timer::Detection(link, address), due);
        } else if !tentative && !unasked {
            self.announce_once(now, link, IpAddr::V6(address));
        }
    }

    /// An address has gone, or is no longer in question.
    pub(super) fn abandon(&mut self, link: IfIndex, address: IpAddr) {
        self.announced.remove(&(link, address));
        if let IpAddr::V6(address) = address {
            self.detections.0.remove(&(link, address));
            self.timers.clear(Timer::Detection(link, address));
        }
    }

    /// A detection's deadline.
    pub(super) fn detection_due(&mut self, now: Instant, link: IfIndex, address: Ipv6Addr) {
        let Some(detection) = self.detections.0.get_mut(&(link, address)) else { return };
        if detection.left == 0 {
            self.accept(now, link, address);
            return;
        }
        detection.left -= 1;
        let nonce = detection.nonce;
        self.send_detection(now, link, address, nonce);
        self.timers.set(Timer::Detection(link, address), now + WAIT);
    }

    /// Is a question about `address` the one that we asked ourselves?
    pub(super) fn is_own_nonce(&self, link: IfIndex, address: Ipv6Addr, nonce: Option<[u8; 6]>) -> bool {
        let detection = self.detections.0.get(&(link, address));
        nonce.is_some() && detection.map(|detection| detection.nonce) == nonce
    }

    /// Somebody else has the address.
    pub(super) fn detected(&mut self, link: IfIndex, address: Ipv6Addr) {
        let failed = |flags: &mut u32| *flags & libc::IFA_F_DADFAILED != 0;
        if self.flags_of(link, IpAddr::V6(address)).is_none_or(failed) {
            return;
        }
        log::warn!("interface {}: {address} is used by somebody else", link.0);
        self.abandon(link, IpAddr::V6(address));
        self.conclude(link, address, false);
    }

    /// Nobody objects.
    fn accept(&mut self, now: Instant, link: IfIndex, address: Ipv6Addr) {
        self.abandon(link, IpAddr::V6(address));
        self.conclude(link, address, true);
        let device = self.tables.links.get(&link);
        if device.is_some_and(|device| device.flags() & UNASKED == 0) {
            self.announce_once(now, link, IpAddr::V6(address));
        }
    }

    /// Tells the link about an address of ours, unless it was told since the interface came up.
    fn announce_once(&mut self, now: Instant, link: IfIndex, address: IpAddr) {
        if !self.announced.insert((link, address)) {
            return;
        }
        match address {
            IpAddr::V4(address) => self.announce_v4(link, address),
            IpAddr::V6(address) => self.send_advertisement(now, link, address, ALL_NODES, (false, true)),
        }
    }

    fn flags_of(&mut self, link: IfIndex, address: IpAddr) -> Option<&mut u32> {
        let same = |have: &&mut Address| have.link == link && have.net.addr() == address;
        self.tables.addresses.iter_mut().find(same).map(|have| &mut have.flags)
    }

    /// The verdict, for the tables.
    fn conclude(&mut self, link: IfIndex, address: Ipv6Addr, unique: bool) {
        self.tables.dad_done(link, address, unique);
        self.tables_changed();
    }
}

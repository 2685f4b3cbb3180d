//! What a port may bring in: how much, how much of it to everybody, and from how many stations.
//!
//! # Theory of operation
//! All limits are of the port a frame arrives on, and are kept by token buckets:
//!
//! - *police*: bits per second of everything; what is more is dropped, or marked as drop eligible;
//! - *storm control*: frames per second that go to every member of the VLAN: broadcasts, multicasts, and frames to
//!   stations nobody knows;
//! - *port security*: how many stations may be learned behind the port. A frame from one more, or from a station
//!   that was pinned to another port, breaks the rule: it is dropped, or the port is shut until it is opened again.
//!
//! A port without limits has no [`Guard`], and costs a look at that.
//!
//! Read: RFC 2697 and RFC 4115 (policing and marking), 802.1Q-2018 clause 8.6.5 (flow metering).

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::frame::{MAX_FRAME, Priority};
use crate::port::DropReason;
use crate::qos::bucket::Bucket;
use crate::qos::rate::Rate;

/// What a policer lets through at once unless told otherwise, in milliseconds of its rate; senders' bursts are not to
/// be dropped one and all.
const BURST_MS: u64 = 20;
/// Frames of a storm that always may come at once: names are looked up in threes and fours.
const STORM_BURST: u64 = 8;

/// A rate that arriving frames keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Police {
    /// Bits per second.
    #[serde(rename = "rate_bps")]
    pub rate: Rate,
    /// Bytes that may come at once; absent: what comes in 20 ms, and a super-segment at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u32>,
    /// What happens to the others.
    #[serde(default)]
    pub exceed: Exceed,
}

/// What happens to frames beyond a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exceed {
    /// They are dropped.
    #[default]
    Drop,
    /// They become drop eligible, and are dropped where a queue is half full.
    Mark,
}

/// Limits of a port; absent ones do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardRules {
    /// Broadcasts per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broadcast_fps: Option<u32>,
    /// Multicasts per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_fps: Option<u32>,
    /// Frames per second to stations nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_fps: Option<u32>,
    /// Stations behind the port, pinned ones included; one that is in two VLANs counts twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// What one station too many, or one that belongs elsewhere, leads to.
    pub violation: Violation,
}

/// What happens when a station is where it may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Violation {
    /// Its frames are dropped.
    #[default]
    Drop,
    /// The port is shut.
    Shutdown,
}

/// Why a port is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shut {
    /// Somebody shut it.
    Admin,
    /// One station too many came.
    MacLimit,
    /// A station came that belongs elsewhere.
    WrongPort,
}

impl Shut {
    /// The port whose station broke the rule for this reason.
    pub(crate) fn of(reason: DropReason) -> Self {
        if reason == DropReason::WrongPort { Self::WrongPort } else { Self::MacLimit }
    }
}

/// Frames that go to every member of a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// To ff:ff:ff:ff:ff:ff.
    Broadcast,
    /// To another group.
    Multicast,
    /// To a station nobody knows.
    Unknown,
}

/// A policer at work.
#[derive(Debug, Clone)]
pub struct Policer {
    rules: Police,
    bucket: Bucket,
}

impl Policer {
    /// One that has seen nothing yet.
    pub fn new(rules: Police) -> Self {
        let usual = (rules.rate.bps() / 8 * BURST_MS / 1000).max(MAX_FRAME as u64);
        let burst = rules.burst_bytes.map_or(usual, u64::from).max(1);
        Self { rules, bucket: Bucket::new(rules.rate.bps(), 8 * burst) }
    }

    /// What it was told.
    pub fn rules(&self) -> Police {
        self.rules
    }

    /// A frame of so many bytes came: may it go on, and with which priority?
    pub fn judge(&mut self, now: Instant, bytes: usize, priority: Priority) -> Option<Priority> {
        if self.bucket.take(now, 8 * bytes as u64) {
            return Some(priority);
        }
        (self.rules.exceed == Exceed::Mark).then(|| Priority::new(priority.pcp(), true))
    }
}

/// The limits of one port at work.
#[derive(Debug, Clone)]
pub struct Guard {
    rules: GuardRules,
    police: Option<Policer>,
    storms: [Option<Bucket>; 3],
}

impl Guard {
    /// `None` if there is nothing to guard.
    pub fn new(rules: GuardRules, police: Option<Police>) -> Option<Box<Self>> {
        if rules == GuardRules::default() && police.is_none() {
            return None;
        }
        let storm = |fps: Option<u32>| {
            fps.map(u64::from).map(|fps| Bucket::new(fps, (fps / 10).max(STORM_BURST.min(fps))))
        };
        let storms = [rules.broadcast_fps, rules.multicast_fps, rules.unknown_fps].map(storm);
        Some(Box::new(Self { rules, police: police.map(Policer::new), storms }))
    }

    /// What it was told about storms and stations.
    pub fn rules(&self) -> GuardRules {
        self.rules
    }

    /// What it was told about rates.
    pub fn police(&self) -> Option<Police> {
        self.police.as_ref().map(Policer::rules)
    }

    /// A frame of so many bytes came.
    ///
    /// # Errors
    /// It is dropped.
    pub fn judge(&mut self, now: Instant, bytes: usize, priority: Priority) -> Result<Priority, DropReason> {
        match &mut self.police {
            None => Ok(priority),
            Some(police) => police.judge(now, bytes, priority).ok_or(DropReason::RateLimit),
        }
    }

    /// A frame is about to go to every member.
    ///
    /// # Errors
    /// It is dropped.
    pub fn judge_flood(&mut self, now: Instant, flood: Flood) -> Result<(), DropReason> {
        let (storm, reason) = match flood {
            Flood::Broadcast => (0, DropReason::StormBroadcast),
            Flood::Multicast => (1, DropReason::StormMulticast),
            Flood::Unknown => (2, DropReason::StormUnknown),
        };
        let passes =
            self.storms[storm].as_mut().is_none_or(|bucket| bucket.take(now, 1) && bucket.burst() > 0);
        if passes { Ok(()) } else { Err(reason) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn nothing_to_guard_is_no_guard() {
        assert!(Guard::new(GuardRules::default(), None).is_none());
        let rules: GuardRules = serde_json::from_str(r#"{"mac_limit":3,"violation":"shutdown"}"#).unwrap();
        assert_eq!(Guard::new(rules, None).unwrap().rules(), rules);
    }

    #[test]
    fn storms_are_told_apart() {
        let rules = GuardRules { broadcast_fps: Some(100), multicast_fps: Some(0), ..GuardRules::default() };
        let (now, mut guard) = (start(), Guard::new(rules, None).unwrap());
        let mut pass = |now, flood| (0..200).filter(|_| guard.judge_flood(now, flood).is_ok()).count();
        assert_eq!(pass(now, Flood::Broadcast), 10);
        assert_eq!(pass(now + Duration::from_millis(50), Flood::Broadcast), 5);
        assert_eq!((pass(now, Flood::Multicast), pass(now, Flood::Unknown)), (0, 200));
    }

    #[test]
    fn what_is_too_much_is_dropped_or_marked() {
        let mut police =
            Police { rate: "8M".parse().unwrap(), burst_bytes: Some(10_000), exceed: Exceed::Drop };
        let (now, priority) = (start(), Priority::new(5, false));
        let count = |police: Police, now| {
            let mut policer = Policer::new(police);
            let judged: Vec<_> = (0..20).map(|_| policer.judge(now, 1000, priority)).collect();
            (judged.iter().filter(|p| **p == Some(priority)).count(), judged[19])
        };
        assert_eq!(count(police, now), (10, None));
        police.exceed = Exceed::Mark;
        assert_eq!(count(police, now), (10, Some(Priority::new(5, true))));
    }
}

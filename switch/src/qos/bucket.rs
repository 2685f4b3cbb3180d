//! The token bucket: so much a second, and so much at once.
//!
//! # Theory of operation
//! A bucket fills at its rate up to its burst; what passes takes its amount out. Amounts are bits or frames, as the
//! owner likes. The level is kept in billionths of an amount, so that nothing is lost to rounding: after any time t no
//! more than rate × t + burst has passed. An amount larger than the burst passes when the bucket is full, and
//! leaves it in debt; the bound is then rate × t + that amount. (RFC 2697 has the same bucket without debts.)

use std::time::{Duration, Instant};

/// Parts of an amount, and nanoseconds in a second: rate × nanoseconds is a level.
const PARTS: i128 = 1_000_000_000;

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Per second.
    rate: u64,
    burst: u64,
    /// In billionths; below zero after an amount larger than the burst.
    level: i128,
    /// When the level was right; `None` before it was first used.
    at: Option<Instant>,
}

impl Bucket {
    /// A full bucket of `burst` that fills by `rate` a second.
    pub fn new(rate: u64, burst: u64) -> Self {
        Self { rate, burst, level: i128::from(burst) * PARTS, at: None }
    }

    /// What it fills by in a second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// What it holds at most.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// May `amount` pass now?
    pub fn has(&mut self, now: Instant, amount: u64) -> bool {
        self.fill(now);
        self.level >= self.needed(amount)
    }

    /// Takes `amount` out, whether or not it is there.
    pub fn charge(&mut self, now: Instant, amount: u64) {
        self.fill(now);
        self.level -= i128::from(amount) * PARTS;
    }

    /// Takes `amount` out if it may pass.
    pub fn take(&mut self, now: Instant, amount: u64) -> bool {
        let has = self.has(now, amount);
        if has {
            self.level -= i128::from(amount) * PARTS;
        }
        has
    }

    /// When `amount` may pass, if nothing else does before; `None`: never, or in more than an hour.
    pub fn ready_at(&mut self, now: Instant, amount: u64) -> Option<Instant> {
        const HOUR: i128 = 3600 * PARTS;
        self.fill(now);
        let lacks = self.needed(amount) - self.level;
        if lacks <= 0 {
            return Some(now);
        }
        let rate = i128::from(self.rate);
        // Rounded up, as a moment too early would be in vain.
        let wait = (rate > 0).then(|| (lacks + rate - 1) / rate).filter(|nanos| *nanos <= HOUR)?;
        Some(now + Duration::from_nanos(wait as u64))
    }

    fn needed(&self, amount: u64) -> i128 {
        i128::from(amount.min(self.burst)) * PARTS
    }

    fn fill(&mut self, now: Instant) {
        let since = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        // Time that went backwards is no time at all.
        self.at = self.at.max(Some(now));
        let full = i128::from(self.burst) * PARTS;
        let grown = i128::from(self.rate) * i128::try_from(since.as_nanos()).unwrap_or(i128::MAX >> 64);
        self.level = (self.level + grown).min(full);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_large_amount_passes_when_full_and_leaves_a_debt() {
        let (now, mut bucket) = (start(), Bucket::new(1000, 100));
        assert!(bucket.take(now, 500));
        assert!(!bucket.take(now, 1));
        assert_eq!(bucket.ready_at(now, 1), Some(now + Duration::from_millis(401)));
        assert_eq!(bucket.ready_at(now, 500), Some(now + Duration::from_millis(500)));
        assert_eq!(Bucket::new(0, 0).ready_at(now, 0), Some(now));
        let mut none = Bucket::new(0, 10);
        assert!(none.take(now, 10));
        assert_eq!(none.ready_at(now, 1), None);
    }

    proptest! {
        /// Whatever is asked when: in no span of time more than rate × t + burst passes, and what waits until it is
        /// ready passes.
        #[test]
        fn never_more_than_rate_and_burst(
            rate in 1..10_000_000_000u64,
            burst in 1..10_000_000u64,
            asked in prop::collection::vec((0..50_000_000u64, 1..100u64, any::<bool>()), 1..200),
        ) {
            let (mut now, mut bucket, mut passed) = (start(), Bucket::new(rate, burst), Vec::new());
            for (wait, percent, patient) in asked {
                now += Duration::from_nanos(wait);
                let amount = (burst * percent / 100).max(1);
                if patient && let Some(at) = bucket.ready_at(now, amount) {
                    now = at;
                    prop_assert!(bucket.has(now, amount));
                }
                if bucket.take(now, amount) {
                    passed.push((now, amount));
                }
            }
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0u128;
                for (to, amount) in &passed[first..] {
                    sum += u128::from(*amount) * PARTS as u128;
                    let bound = u128::from(rate) * (*to - *from).as_nanos() + u128::from(burst) * PARTS as u128;
                    prop_assert!(sum <= bound);
                }
            }
        }

        /// One who always waits gets the whole rate.
        #[test]
        fn the_whole_rate_is_had(rate in 1_000..1_000_000_000u64, amount in 1..100_000u64) {
            let begin = start();
            let (mut now, mut bucket) = (begin, Bucket::new(rate, amount));
            for _ in 0..=100 {
                now = bucket.ready_at(now, amount).unwrap_or(now);
                prop_assert!(bucket.take(now, amount));
            }
            let (took, ideal) = ((now - begin).as_nanos(), u128::from(amount) * 100 * PARTS as u128 / u128::from(rate));
            prop_assert!(took >= ideal && took <= ideal + 101, "{took} {ideal}");
        }
    }
}

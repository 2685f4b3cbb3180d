//! What a stack has used of what it may use.
//!
//! # Theory of operation
//! Memory is as much as there is at the moment. Processor time and packets are counted in *windows* that slide
//! over the last while in steps: a burst that the window as a whole has room for is no harm. The window of
//! the processor is long, as any busy stack has all of it for some time.

use std::time::{Duration, Instant};

use crate::config::Limits;

/// Steps of a window.
const STEPS: usize = 10;
/// How long a stack may take more than its part of the processor.
const CPU_WINDOW: Duration = Duration::from_secs(10);
/// Packets are counted by the second.
const PACKET_WINDOW: Duration = Duration::from_secs(1);

/// What a stack may use and has used.
#[derive(Debug)]
pub(super) struct Bounds {
    limits: Limits,
    cpu: Window,
    packets: Window,
}

/// A sum over the last while.
#[derive(Debug)]
struct Window {
    step: Duration,
    /// When the step that is counted in began.
    began: Instant,
    at: usize,
    counts: [u64; STEPS],
    sum: u64,
}

impl Window {
    fn new(now: Instant, length: Duration) -> Self {
        Self { step: length / STEPS as u32, began: now, at: 0, counts: [0; STEPS], sum: 0 }
    }

    /// Counts something, and forgets what was too long ago. The sum.
    fn add(&mut self, now: Instant, count: u64) -> u64 {
        let passed = now.saturating_duration_since(self.began).as_nanos() / self.step.as_nanos();
        for _ in 0..passed.min(STEPS as u128) {
            self.at = (self.at + 1) % STEPS;
            self.sum -= std::mem::take(&mut self.counts[self.at]);
        }
        self.began += self.step * u32::try_from(passed).unwrap_or(u32::MAX);
        self.counts[self.at] += count;
        self.sum += count;
        self.sum
    }
}

impl Bounds {
    /// Nothing was used yet.
    pub(super) fn new(now: Instant, limits: Limits) -> Self {
        Self { limits, cpu: Window::new(now, CPU_WINDOW), packets: Window::new(now, PACKET_WINDOW) }
    }

    /// Whether anybody wants to know of processor time.
    pub(super) fn measures_time(&self) -> bool {
        self.limits.cpu.is_some()
    }

    /// How much more memory than `memory` bytes the stack may have.
    pub(super) fn memory_left(&self, memory: usize) -> u64 {
        self.limits.memory.0.saturating_sub(memory as u64)
    }

    /// The stack has `memory` bytes now; since the last time it took so much time and passed so many packets.
    /// What is too much, if anything is.
    pub(super) fn check(
        &mut self,
        now: Instant,
        memory: usize,
        time: Duration,
        packets: u64,
    ) -> Option<String> {
        if memory as u64 > self.limits.memory.0 {
            return Some(format!("it used more memory than its limit of {}", self.limits.memory));
        }
        if let Some(limit) = self.limits.cpu {
            let most = CPU_WINDOW.as_nanos() as u64 / 100 * u64::from(limit.0);
            if self.cpu.add(now, time.as_nanos() as u64) > most {
                let seconds = CPU_WINDOW.as_secs();
                return Some(format!(
                    "it took more than its limit of {limit} of a processor for {seconds} s"
                ));
            }
        }
        if let Some(limit) = self.limits.packets
            && self.packets.add(now, packets) > limit.0
        {
            return Some(format!("it passed more packets than its limit of {limit}"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StackConfig;

    #[expect(clippy::disallowed_methods, reason = "a test may read the clock")]
    fn now() -> Instant {
        Instant::now()
    }

    fn bounds(limit: &str, now: Instant) -> Bounds {
        let mut config = StackConfig::default();
        config.add_limit(limit).unwrap();
        Bounds::new(now, config.limits)
    }

    #[test]
    fn packets_of_the_last_second_count() {
        let start = now();
        let mut bounds = bounds("packets=100/s", start);
        for ms in (0..5000).step_by(10) {
            let now = start + Duration::from_millis(ms);
            assert_eq!(bounds.check(now, 0, Duration::ZERO, 1), None, "{ms}");
        }
        let now = start + Duration::from_secs(9);
        assert_eq!(bounds.check(now, 0, Duration::ZERO, 100), None, "a burst");
        assert!(bounds.check(now + Duration::from_millis(800), 0, Duration::ZERO, 1).is_some());
    }

    #[test]
    fn a_busy_while_is_no_harm_and_a_long_one_is() {
        let start = now();
        let mut bounds = bounds("cpu=50%", start);
        let mut busy =
            |ms: u64| bounds.check(start + Duration::from_millis(ms), 0, Duration::from_millis(100), 0);
        assert!((0..4900).step_by(100).all(|ms| busy(ms).is_none()));
        assert!((4900..5300).step_by(100).any(|ms| busy(ms).is_some()));
    }

    #[test]
    fn memory_counts_at_once() {
        let start = now();
        let mut bounds = bounds("memory=64K", start);
        assert_eq!(bounds.check(start, 64 << 10, Duration::ZERO, 0), None);
        let why = bounds.check(start, (64 << 10) + 1, Duration::ZERO, 0).unwrap();
        assert!(why.contains("64K"), "{why}");
    }
}

//! When to send again, and when to give up: RFC 6298 with the numbers of Linux.

use std::time::{Duration, Instant};

/// Least that the retransmission timeout lies above the round-trip time (TCP_RTO_MIN).
const LEAST_MARGIN: Duration = Duration::from_millis(200);
/// Longest retransmission timeout. Linux's TCP_RTO_MAX is 120 s; smoltcp sends again after 60 s by itself, and
/// RFC 6298 clause 2.5 asks for no more.
const LONGEST_RTO: Duration = Duration::from_secs(60);
/// Before the first measurement (RFC 6298 clause 2.1).
const INITIAL_RTO: Duration = Duration::from_secs(1);
/// tcp_retries2: how often data goes out again, as a time (retransmits_timed_out() in tcp_timer.c).
const DATA_RETRIES: u32 = 15;
/// tcp_syn_linear_timeouts: as many SYNs go out again at even intervals, beside those that were asked for.
const LINEAR_SYNS: u32 = 4;
/// tcp_orphan_retries: 8 for an orphan that the peer does not answer.
const ORPHAN_RETRIES: u32 = 8;

/// How long a connection without data sockets (an orphan) may go unanswered: a user timeout to set for it.
pub const ORPHAN_PATIENCE: Duration = patience(ORPHAN_RETRIES);
/// How long data may go unanswered without TCP_USER_TIMEOUT: 924.6 s.
pub(super) const DATA_PATIENCE: Duration = patience(DATA_RETRIES);

/// The time that so many retransmissions take, the first after TCP_RTO_MIN, the gaps doubling up to 120 s.
const fn patience(retries: u32) -> Duration {
    /// ilog2(TCP_RTO_MAX / TCP_RTO_MIN)
    const DOUBLINGS: u32 = 9;
    let least = LEAST_MARGIN.as_millis() as u64;
    let millis = if retries <= DOUBLINGS {
        ((2 << retries) - 1) * least
    } else {
        ((2 << DOUBLINGS) - 1) * least + (retries - DOUBLINGS) as u64 * 120_000
    };
    Duration::from_millis(millis)
}

/// The round-trip time as measured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RoundTrip {
    /// Smoothed; absent before the first measurement.
    pub(super) smoothed: Option<Duration>,
    /// Mean deviation.
    pub(super) variation: Duration,
}

impl RoundTrip {
    /// A measurement (RFC 6298 clause 2).
    pub(super) fn sample(&mut self, measured: Duration) {
        if let Some(smoothed) = self.smoothed {
            self.variation = (self.variation * 3 + smoothed.abs_diff(measured)) / 4;
            self.smoothed = Some((smoothed * 7 + measured) / 8);
        } else {
            self.smoothed = Some(measured);
            self.variation = measured / 2;
        }
    }

    /// Retransmission timeout, before any backing off.
    pub(super) fn timeout(&self) -> Duration {
        let Some(smoothed) = self.smoothed else { return INITIAL_RTO };
        (smoothed + (self.variation * 4).max(LEAST_MARGIN)).min(LONGEST_RTO)
    }
}

/// What one connection waits for.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    pub(super) round_trip: RoundTrip,
    /// A sequence number whose acknowledgement ends a measurement that began then.
    pub(super) timed: Option<(u32, Instant)>,
    /// When the oldest segment goes out again.
    pub(super) retransmit_at: Option<Instant>,
    /// How often it did, in a row.
    pub(super) backoff: u32,
    /// Since when the peer has acknowledged nothing, though something is on its way.
    pub(super) stalled_since: Option<Instant>,
    /// When the peer was last heard.
    pub(super) heard_at: Option<Instant>,
    /// When it last sent data.
    pub(super) data_at: Option<Instant>,
    /// Keep-alive probes sent since.
    pub(super) probes: u32,
    /// When the last of them went.
    pub(super) probed_at: Option<Instant>,
    /// TIME-WAIT ends.
    pub(super) time_wait_until: Option<Instant>,
    /// What smoltcp would acknowledge is acknowledged without it.
    pub(super) ack_at: Option<Instant>,
    /// The memory may go.
    pub(super) discard_at: Option<Instant>,
    /// TCP_CORK lets go.
    pub(super) uncork_at: Option<Instant>,
    /// No challenge before.
    pub(super) challenge_at: Option<Instant>,
}

impl Timers {
    /// The timeout in force.
    pub(super) fn timeout(&self) -> Duration {
        let backed_off = 1u32.checked_shl(self.backoff).unwrap_or(u32::MAX);
        self.round_trip.timeout().saturating_mul(backed_off).min(LONGEST_RTO)
    }

    /// Something that the peer must acknowledge went out.
    pub(super) fn sent(&mut self, now: Instant) {
        if self.retransmit_at.is_none() {
            self.retransmit_at = Some(now + self.timeout());
        }
        self.stalled_since.get_or_insert(now);
    }

    /// The peer acknowledged something; `all` that was on its way?
    pub(super) fn acknowledged(&mut self, now: Instant, ack: u32, all: bool) {
        if let Some((seq, at)) = self.timed
            && !super::segment::before(ack, seq)
        {
            self.round_trip.sample(now.saturating_duration_since(at));
            self.timed = None;
        }
        self.backoff = 0;
        self.retransmit_at = (!all).then(|| now + self.timeout());
        self.stalled_since = (!all).then_some(now);
    }

    /// The peer's window is open again: what was a probe counts as sent now (tcp_ack_probe()).
    pub(super) fn reopened(&mut self, now: Instant) {
        self.backoff = 0;
        self.stalled_since = self.stalled_since.map(|_| now);
        self.retransmit_at = self.retransmit_at.map(|_| now + self.timeout());
    }

    /// The retransmission timer ran out.
    pub(super) fn expired(&mut self, now: Instant) {
        self.timed = None;
        self.backoff += 1;
        self.retransmit_at = Some(now + self.timeout());
    }
}

/// When a SYN (`linear`) or a SYN with ACK goes out again after `sent` were repeated; `None`: give up.
pub(super) fn handshake_gap(repeated: u32, retries: u32, linear: bool) -> (Duration, bool) {
    let even = if linear { LINEAR_SYNS } else { 0 };
    let doubled = repeated.saturating_sub(even);
    let gap = INITIAL_RTO.saturating_mul(1u32.checked_shl(doubled).unwrap_or(u32::MAX));
    (gap.min(Duration::from_secs(120)), repeated >= retries.saturating_add(even))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_that_of_linux() {
        assert_eq!(DATA_PATIENCE, Duration::from_millis(924_600));
        assert_eq!(ORPHAN_PATIENCE, Duration::from_millis(102_200));
    }

    #[test]
    fn a_connect_gives_up_after_131_seconds_and_a_syn_with_ack_after_63() {
        let total = |retries, linear| {
            let mut sum = Duration::ZERO;
            for repeated in 0.. {
                let (gap, last) = handshake_gap(repeated, retries, linear);
                sum += gap;
                if last {
                    return (sum, repeated);
                }
            }
            unreachable!()
        };
        assert_eq!(total(6, true), (Duration::from_secs(131), 10));
        assert_eq!(total(5, false), (Duration::from_secs(63), 5));
    }

    #[test]
    fn the_timeout_follows_the_round_trip_time() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.timeout(), INITIAL_RTO);
        for _ in 0..50 {
            trip.sample(Duration::from_millis(20));
        }
        assert_eq!(trip.timeout().as_millis(), 220);
        trip.sample(Duration::from_secs(300));
        assert_eq!(trip.timeout(), LONGEST_RTO);
    }
}

//! How many frames to ask a socket for at once.
//!
//! # Theory of operation
//! A system call for many costs more than one for a single frame, whether or not they come: half a microsecond. So a
//! socket whose frames come one at a time is asked for one; whether there are others, epoll says, and the turn that
//! follows at once expects some. As long as all that were asked for come, the next call asks for twice as many.

use std::time::{Duration, Instant};

/// Asked for when there may be several.
const FEW: usize = 4;
/// Asked for at most: a turn of a port (`serve::plugs::BATCH`).
pub(super) const MANY: usize = 64;
/// What comes so soon after the last is part of a burst: less than the way to a program and back takes.
const SOON: Duration = Duration::from_micros(20);

/// What is expected of one socket.
#[derive(Debug)]
pub(super) struct Expectation {
    count: usize,
    /// When something came last.
    last: Option<Instant>,
}

impl Default for Expectation {
    fn default() -> Self {
        Self { count: 1, last: None }
    }
}

impl Expectation {
    /// How many to ask for.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// So many came of those that were asked for. True if there may be more in this turn.
    pub(super) fn came(&mut self, now: Instant, came: usize, asked: usize) -> bool {
        let before = self.last.replace(now);
        let is_burst = before.is_some_and(|before| now.saturating_duration_since(before) < SOON);
        self.count = match came {
            // Epoll says whether there is another.
            _ if asked == 1 && is_burst => FEW,
            _ if asked == 1 => 1,
            _ if came == asked => (2 * asked).min(MANY),
            0 | 1 if !is_burst => 1,
            _ => (2 * came).clamp(FEW, MANY),
        };
        asked > 1 && came == asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_expected_where_they_come() {
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut some = Expectation::default();
        // Questions and answers.
        for n in 0..5 {
            assert_eq!(some.count(), 1);
            assert!(!some.came(at(60 * n), 1, 1));
        }
        // A burst: the second comes at once.
        assert!(!some.came(at(400), 1, 1) && !some.came(at(403), 1, 1));
        let asked = [4, 8, 16, 32, 64, 64].map(|expected| {
            assert_eq!(some.count(), expected);
            assert!(some.came(at(405), expected, expected));
            expected
        });
        assert_eq!(asked.len(), 6);
        assert!(!some.came(at(405), 10, 64));
        assert_eq!(some.count(), 20);
        assert!(!some.came(at(410), 1, 20));
        assert_eq!(some.count(), FEW, "it goes on");
        assert!(!some.came(at(500), 1, FEW));
        assert_eq!(some.count(), 1);
    }
}

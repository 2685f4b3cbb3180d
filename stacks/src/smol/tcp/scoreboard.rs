//! What the peer has beyond what it acknowledges: SACK blocks (RFC 2018 clause 5).

use super::segment::{before, later};

/// Most ranges that are remembered; what does not fit is sent again for nothing.
const MOST_RANGES: usize = 64;

/// Ranges that the peer has, in order, neither touching nor overlapping. Without loss it takes no memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Scoreboard {
    ranges: Vec<(u32, u32)>,
}

impl Scoreboard {
    /// The peer has these, of `una..max` that is on its way. Is that news?
    pub(super) fn note(&mut self, blocks: &[Option<(u32, u32)>], una: u32, max: u32) -> bool {
        let mut news = false;
        for &(left, right) in blocks.iter().flatten() {
            // What is acknowledged already, or was never sent, is a duplicate's report (RFC 2883) or nonsense.
            if !before(left, una) && before(left, right) && !before(max, right) && !self.has(left, right) {
                news |= self.insert(left, right);
            }
        }
        news
    }

    /// All of it is there.
    pub(super) fn has(&self, left: u32, right: u32) -> bool {
        self.ranges.iter().any(|range| !before(left, range.0) && !before(range.1, right))
    }

    /// Everything before `una` is acknowledged.
    pub(super) fn acknowledge(&mut self, una: u32) {
        if self.ranges.is_empty() {
            return;
        }
        self.ranges.retain(|range| before(una, range.1));
        if let Some(first) = self.ranges.first_mut() {
            first.0 = later(first.0, una);
        }
        if self.ranges.is_empty() {
            self.ranges = Vec::new();
        }
    }

    /// The peer may have dropped what it had (RFC 2018 clause 8).
    pub(super) fn forget(&mut self) {
        self.ranges = Vec::new();
    }

    fn insert(&mut self, mut left: u32, mut right: u32) -> bool {
        let first = self.ranges.iter().position(|range| !before(range.1, left)).unwrap_or(self.ranges.len());
        let mut last = first;
        while let Some(range) = self.ranges.get(last)
            && !before(right, range.0)
        {
            left = if before(range.0, left) { range.0 } else { left };
            right = later(right, range.1);
            last += 1;
        }
        if first == last && self.ranges.len() == MOST_RANGES {
            return false;
        }
        self.ranges.splice(first..last, [(left, right)]);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together_and_go() {
        let start = u32::MAX - 500;
        let at = |offset: u32| start.wrapping_add(offset);
        let mut board = Scoreboard::default();
        let mut note = |left, right| board.note(&[Some((at(left), at(right)))], start, at(2000));
        assert!(note(100, 200) && note(1000, 1100) && note(300, 400));
        assert!(!note(120, 180), "known");
        assert!(!note(1900, 2100), "never sent");
        assert!(note(200, 300));
        assert!(!board.note(&[Some((start.wrapping_sub(5), at(50)))], start, at(2000)), "a duplicate");
        assert!(board.has(at(100), at(400)) && !board.has(at(50), at(150)));
        assert_eq!(board.ranges.len(), 2);
        board.acknowledge(at(350));
        assert!(board.has(at(350), at(400)) && !board.has(at(300), at(400)));
        board.acknowledge(at(1100));
        assert!(board.ranges.is_empty());
    }
}

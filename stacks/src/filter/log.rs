//! Lines that rules write: few at a time, the last ones kept. A core.
//!
//! # Theory of operation
//! A packet that a rule logs becomes a line of text. Lines are rationed, so that nobody who sends packets fills
//! memory or keeps the stack busy: [`BURST`] at once, [`PER_SECOND`] on the average; what is beyond is counted and said
//! with the next line. The last [`MAX_LINES`] are kept to be read.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::judge::Ends;
use super::packet::View;
use super::rule::{Hook, protocol_name};

/// Lines kept: a few screens.
pub const MAX_LINES: usize = 256;
/// Lines in a second, on the average: a person reads no more.
const PER_SECOND: u32 = 10;
/// Lines at once.
const BURST: u32 = 50;

/// A packet that a rule logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// From 1, without gaps.
    pub number: u64,
    /// Packets before it that were to be logged and were too many.
    pub skipped: u64,
    /// `PREFIX input in eth0 tcp 10.0.0.2:1234 > 10.0.0.1:22 len 60`
    pub text: String,
}

impl Line {
    /// What there is to say of a packet.
    pub fn text(prefix: &str, hook: Hook, ends: Ends<'_>, view: &View<'_>) -> String {
        let mut text = String::new();
        let mut word = |word: &str| {
            if !word.is_empty() {
                text += if text.is_empty() { "" } else { " " };
                text += word;
            }
        };
        word(prefix);
        word(hook.name());
        for (name, end) in [("in", ends.arrives), ("out", ends.leaves)] {
            if !end.is_empty() {
                word(name);
                word(end);
            }
        }
        word(&protocol_name(view.protocol));
        let (source, destination) = match view.ports() {
            Some((sport, dport)) => {
                let with = |address, port| std::net::SocketAddr::new(address, port).to_string();
                (with(view.source, sport), with(view.destination, dport))
            }
            None => (view.source.to_string(), view.destination.to_string()),
        };
        word(&format!("{source} > {destination}"));
        if let Some(kind) = view.kind() {
            word(&format!("type {kind}"));
        }
        word(&format!("len {}", view.len));
        text
    }
}

/// The last lines.
#[derive(Debug, Default)]
pub struct Lines {
    kept: VecDeque<Line>,
    number: u64,
    skipped: u64,
    full_at: Option<Instant>,
}

impl Lines {
    /// Adds a line, if it is its turn.
    pub fn add(&mut self, now: Instant, text: impl FnOnce() -> String) {
        let price = Duration::from_secs(1) / PER_SECOND;
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + price;
        if full_at > now + price * BURST {
            self.skipped += 1;
            return;
        }
        self.full_at = Some(full_at);
        self.number += 1;
        let line = Line { number: self.number, skipped: std::mem::take(&mut self.skipped), text: text() };
        if self.kept.len() == MAX_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }

    /// Those that are kept, oldest first.
    pub fn all(&self) -> Vec<Line> {
        self.kept.iter().cloned().collect()
    }
}

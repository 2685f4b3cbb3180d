//! The packet filter: stateful rules in one small language, for stacks of both kinds and for the gateway.
//!
//! # Theory of operation
//! ```text
//!            ┌─► input ─► sockets ─► output ─┐
//! prerouting ┤                               ├─► postrouting
//!            └────────► forward ─────────────┘
//! ```
//! [`language`] reads rules and [`rule`] holds and prints them. A stack in a library and the gateway have [`judge`],
//! with [`track`] for its connections, [`packet`] for what is in a packet and [`log`] for what rules write; a kernel
//! stack has the same rules as nftables of its namespace (`kernel/nftables`). In each hook the
//! filtering rules are asked in their order, then, once per connection, the translating ones. Every packet is
//! tracked, so fragments are put together before prerouting.

pub mod judge;
pub mod language;
pub mod log;
pub mod packet;
pub mod rule;
pub mod track;

use msocket_proto::line::Refusal;
use msocket_proto::proto::FilterChange;
use serde::{Deserialize, Serialize};

pub use judge::{Ends, Filter, Verdict};
pub use language::FilterError;
pub use packet::View;
pub use rule::{Hook, Rule, Ruleset};
pub use track::Tracked;

/// What a rule has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets; a super-segment is one.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

impl Counts {
    fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// A rule with its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// By which it can be removed.
    pub handle: u64,
    /// As it would be written.
    pub rule: String,
    /// What it has taken.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What happens to packets that no rule decides about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Where.
    pub hook: String,
    /// `accept` or `drop`.
    pub action: String,
    /// How many there were.
    #[serde(flatten)]
    pub counts: Counts,
}

impl From<(String, String, Counts)> for Rest {
    fn from((hook, action, counts): (String, String, Counts)) -> Self {
        Self { hook, action, counts }
    }
}

/// A filter as `viewnet filter ls` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// In the order in which they are asked.
    pub rules: Vec<Named>,
    /// By hook.
    pub defaults: Vec<Rest>,
    /// Connections that are tracked.
    pub flows: usize,
    /// Connections that found no room or no port.
    pub crowded: u64,
    /// What rules logged.
    #[serde(default)]
    pub lines: Vec<log::Line>,
}

impl Listing {
    /// The rules that it shows.
    ///
    /// # Errors
    /// They are none: it comes from another version.
    pub fn ruleset(&self) -> Result<Ruleset, FilterError> {
        let defaults = self.defaults.iter().map(|rest| format!("default {} {}\n", rest.hook, rest.action));
        let rules = self.rules.iter().map(|named| format!("{}\n", named.rule));
        let mut set = Ruleset::default();
        set.extend(&defaults.chain(rules).collect::<String>())?;
        Ok(set)
    }
}

impl FilterError {
    /// For the person who wrote it, and tried `what`.
    pub fn refusal(&self, what: impl Into<String>) -> Refusal {
        let place = format!("line {}, column {}: {}", self.line, self.column, self.why);
        Refusal::new(what, place).hint(self.fix.clone())
    }
}

/// What rules become by a change; `handles` are theirs.
///
/// # Errors
/// The rules to be added are none, or there is no rule of that number.
pub fn changed(rules: &Ruleset, handles: &[u64], change: &FilterChange) -> Result<Ruleset, Refusal> {
    let mut rules = rules.clone();
    match change {
        FilterChange::Add { rules: text } => {
            rules.extend(text).map_err(|why| why.refusal("cannot add to the filter"))?;
        }
        FilterChange::Set { rules: text } => {
            rules = Ruleset::default();
            rules.extend(text).map_err(|why| why.refusal("cannot set the filter"))?;
        }
        FilterChange::Remove { handle } => {
            let at = handles.iter().position(|one| one == handle).filter(|at| *at < rules.rules.len());
            let at = at.ok_or_else(|| no_rule(*handle))?;
            rules.rules.remove(at);
        }
        FilterChange::Flush => rules = Ruleset::default(),
    }
    Ok(rules)
}

/// Nobody has this number.
pub(crate) fn no_rule(handle: u64) -> Refusal {
    Refusal::new(format!("cannot remove rule {handle}"), "there is none of that number")
        .hint("`viewnet filter ls` shows the numbers of the rules")
}

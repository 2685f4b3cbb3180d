//! Rules as they are held, and how they print: what [`super::language`] reads back as the same rule.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A point on a packet's way through a stack (netfilter's hooks of the same names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// It arrived; nobody has looked where it goes.
    Prerouting,
    /// It is for this stack.
    Input,
    /// It is somebody else's and passes through.
    Forward,
    /// This stack sends it.
    Output,
    /// It is about to leave.
    Postrouting,
}

impl Hook {
    /// All, in the order of a packet's way.
    pub const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// Is it known there where a packet came in?
    pub fn has_in(self) -> bool {
        matches!(self, Self::Prerouting | Self::Input | Self::Forward)
    }

    /// Is it known there where a packet leaves?
    pub fn has_out(self) -> bool {
        matches!(self, Self::Forward | Self::Output | Self::Postrouting)
    }
}

/// What becomes of packets of a hook that no rule decides about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// They go on.
    #[default]
    Accept,
    /// They end.
    Drop,
}

/// A condition: any of these, or with `not` none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T> {
    /// None of them.
    pub not: bool,
    /// They; one at least.
    pub any: Vec<T>,
}

impl<T> List<T> {
    /// Does the condition hold, if `is` says which of them fits?
    pub fn holds(&self, is: impl FnMut(&T) -> bool) -> bool {
        self.any.iter().any(is) != self.not
    }
}

/// How a packet stands to the connections that are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It begins one, or nobody has answered yet.
    New,
    /// Both sides have spoken.
    Established,
    /// An error about a packet of one.
    Related,
    /// It fits none and may not begin one.
    Invalid,
    /// It belongs to IPv6's neighbour discovery, which is not tracked.
    Untracked,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::New, Self::Established, Self::Related, Self::Invalid, Self::Untracked];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Related => "related",
            Self::Invalid => "invalid",
            Self::Untracked => "untracked",
        }
    }
}

/// A unit of time of a [`Limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// `/s`
    Second,
    /// `/m`
    Minute,
    /// `/h`
    Hour,
}

impl Per {
    /// How many seconds it has.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
        }
    }
}

/// How often a rule may fit: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// So many packets …
    pub packets: u32,
    /// … in this time.
    pub per: Per,
    /// So many at once.
    pub burst: u32,
}

/// Packets at once, if nobody says how many: nft(8)'s default.
pub const BURST: u32 = 5;

/// Whom an address is replaced by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The new address.
    pub address: IpAddr,
    /// The new port, or those to choose from; absent: the old one, if it is free.
    pub ports: Option<RangeInclusive<u16>>,
}

/// What a rule does with what fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Counts it; the next rule is asked.
    Count,
    /// It goes on.
    Accept,
    /// It ends here.
    Drop,
    /// It ends here, and its sender is told: a reset for TCP, else ICMP's port unreachable.
    Reject,
    /// Its connection leaves in another name.
    Snat(Target),
    /// Its connection goes to somebody else.
    Dnat(Target),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where.
    pub hook: Hook,
    /// IPv4 (true) or IPv6 alone.
    pub v4: Option<bool>,
    /// Names of the interfaces that it came in by.
    pub arrives: Option<List<String>>,
    /// Names of the interfaces that it leaves by.
    pub leaves: Option<List<String>>,
    /// Upper-layer protocols, IPPROTO_*.
    pub protocols: Option<List<u8>>,
    /// Senders.
    pub from: Option<List<IpNet>>,
    /// Receivers.
    pub to: Option<List<IpNet>>,
    /// Senders' ports.
    pub sport: Option<List<RangeInclusive<u16>>>,
    /// Receivers' ports.
    pub dport: Option<List<RangeInclusive<u16>>>,
    /// ICMP's types.
    pub types: Option<List<u8>>,
    /// How it stands to connections.
    pub states: Option<List<State>>,
    /// How often at most.
    pub limit: Option<Limit>,
    /// A line for the log, that begins so.
    pub log: Option<String>,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// One that fits everything.
    pub fn new(hook: Hook, action: Action) -> Self {
        Self {
            hook,
            v4: None,
            arrives: None,
            leaves: None,
            protocols: None,
            from: None,
            to: None,
            sport: None,
            dport: None,
            types: None,
            states: None,
            limit: None,
            log: None,
            action,
        }
    }

    /// Does it replace addresses? Such rules are asked after all others of their hook, once per connection.
    pub fn translates(&self) -> bool {
        matches!(self.action, Action::Snat(_) | Action::Dnat(_))
    }

    /// The one family of packets that can fit, if it is one.
    pub fn family(&self) -> Option<bool> {
        let nets = [&self.from, &self.to].into_iter().flatten().find_map(|list| list.any.first());
        let target = match &self.action {
            Action::Snat(target) | Action::Dnat(target) => Some(target.address.is_ipv4()),
            _ => None,
        };
        self.v4.or_else(|| nets.map(|net| net.addr().is_ipv4())).or(target)
    }
}

/// All rules of a stack, and what happens to the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Texts", into = "Vec<String>")]
pub struct Ruleset {
    /// By [`Hook`], in its order.
    pub otherwise: [Otherwise; 5],
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
}

/// Rules in a file of another kind: one piece of text, or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    /// One rule a line.
    One(String),
    /// The same, in pieces.
    Many(Vec<String>),
}

impl Ruleset {
    /// Nothing is ever stopped, changed or counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What happens to packets of a hook that no rule decides about.
    pub fn otherwise(&self, hook: Hook) -> Otherwise {
        self.otherwise[hook as usize]
    }

    /// One piece of text each: the defaults that are none, then the rules.
    pub fn lines(&self) -> Vec<String> {
        let dropped = Hook::ALL.into_iter().filter(|hook| self.otherwise(*hook) == Otherwise::Drop);
        let defaults = dropped.map(|hook| format!("default {} drop", hook.name()));
        defaults.chain(self.rules.iter().map(Rule::to_string)).collect()
    }
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.hook.name())?;
        match self.v4 {
            Some(true) => f.write_str(" ipv4")?,
            Some(false) => f.write_str(" ipv6")?,
            None => {}
        }
        list(f, "in", &self.arrives, String::clone)?;
        list(f, "out", &self.leaves, String::clone)?;
        list(f, "proto", &self.protocols, |it| protocol_name(*it))?;
        list(f, "from", &self.from, net)?;
        list(f, "sport", &self.sport, range)?;
        list(f, "to", &self.to, net)?;
        list(f, "dport", &self.dport, range)?;
        list(f, "type", &self.types, |it| it.to_string())?;
        list(f, "state", &self.states, |it| it.name().to_owned())?;
        if let Some(Limit { packets, per, burst }) = self.limit {
            write!(f, " limit {packets}/{}", per.letter())?;
            if burst != BURST {
                write!(f, " burst {burst}")?;
            }
        }
        match self.log.as_deref() {
            None => {}
            Some("") => f.write_str(" log")?,
            Some(prefix) => write!(f, " log \"{prefix}\"")?,
        }
        write!(f, " {}", self.action)
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => f.write_str("count"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject => f.write_str("reject"),
            Self::Snat(target) => write!(f, "snat to {target}"),
            Self::Dnat(target) => write!(f, "dnat to {target}"),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, &self.ports) {
            (address, None) => write!(f, "{address}"),
            (IpAddr::V4(address), Some(ports)) => write!(f, "{address}:{}", range(ports)),
            (IpAddr::V6(address), Some(ports)) => write!(f, "[{address}]:{}", range(ports)),
        }
    }
}

/// Protocols that have a word; `protocols`(5).
pub(super) const PROTOCOLS: [(&str, u8); 8] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv6", 58),
    ("igmp", 2),
    ("sctp", 132),
    ("dccp", 33),
    ("udplite", 136),
];

/// Its word, or its number.
pub(super) fn protocol_name(protocol: u8) -> String {
    let named = PROTOCOLS.iter().find(|(_, number)| *number == protocol);
    named.map_or_else(|| protocol.to_string(), |(name, _)| (*name).to_owned())
}

fn net(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn range(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    list: &Option<List<T>>,
    text: impl Fn(&T) -> String,
) -> fmt::Result {
    let Some(list) = list else { return Ok(()) };
    let not = if list.not { "not " } else { "" };
    let any: Vec<String> = list.any.iter().map(text).collect();
    write!(f, " {word} {not}{}", any.join(","))
}

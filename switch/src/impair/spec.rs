//! What a link does to frames, as text and as values.
//!
//! # Theory of operation
//! One state is a list of properties:
//!
//! ```text
//! delay 20ms normal 5ms, loss 1%, duplicate 0.1%, corrupt 0.01%, reorder 2%, rate 10M, mtu 1400, capacity 64k
//! ```
//!
//! `delay` is constant, or varies: `uniform 5ms` by at most so much, `normal 5ms` with that standard deviation; or
//! `delay table 1ms/1ms/2ms/30ms`, one of these, each as likely. `loss` is a share of the frames, or comes in bursts:
//! `loss gilbert P R [BAD [GOOD]]` after Gilbert and Elliott, with the chances of turning bad and of turning good
//! again, and those of losing a frame while bad (100%) and while good (0%). Several states make a Markov chain,
//! which takes a step at every interval; what no arrow takes elsewhere stays:
//!
//! ```text
//! state good: delay 5ms; state bad: delay 50ms, loss 30%; every 100ms: good>bad 5%, bad>good 20%
//! ```
//!
//! The text is what goes through the control protocol, and [`Spec`]'s display is read back as the same.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest delay, variation or interval: a link to the moon and back, many times over.
pub const MAX_DELAY: Duration = Duration::from_secs(60);
/// Entries of a table of delays: a measured distribution in good resolution.
pub const MAX_TABLE: usize = 1024;
/// States of a chain.
pub const MAX_STATES: usize = 16;
/// Longest text.
pub const MAX_TEXT: usize = 32 << 10;
/// Most bytes in flight that may be asked for: 10 Gb/s for 200 ms.
pub const MAX_CAPACITY: usize = 256 << 20;
/// Bytes in flight at most, if nothing is said: 1 Gb/s for 130 ms.
pub const DEFAULT_CAPACITY: usize = 16 << 20;
/// Shortest interval between two steps of a chain.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// Fastest rate: what fits the arithmetic in nanoseconds, and no real link reaches.
const MAX_RATE: u64 = 1_000_000_000_000;
/// Smallest MTU (RFC 791).
const MIN_MTU: usize = 68;

/// A probability, in parts of a billion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Chance(u32);

impl Chance {
    /// It never happens.
    pub const NEVER: Self = Self(0);
    /// It always happens.
    pub const ALWAYS: Self = Self(1_000_000_000);

    /// Does it happen, given a number that is evenly distributed?
    pub fn happens(self, random: u32) -> bool {
        u64::from(random) * 1_000_000_000 < u64::from(self.0) << 32
    }
}

/// How long a frame takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delay {
    /// Always so long.
    Constant(Duration),
    /// Evenly distributed around the first, by at most the second.
    Uniform(Duration, Duration),
    /// Normally distributed: mean and standard deviation. Never negative, and never more than six deviations off.
    Normal(Duration, Duration),
    /// One of these, each as likely.
    Table(Vec<Duration>),
}

impl Default for Delay {
    fn default() -> Self {
        Self::Constant(Duration::ZERO)
    }
}

/// Which frames are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Each with the same chance.
    Uniform(Chance),
    /// In bursts: Gilbert and Elliott's two states.
    Gilbert {
        /// From good to bad, before each frame.
        to_bad: Chance,
        /// From bad to good, before each frame.
        to_good: Chance,
        /// Loss while bad.
        bad: Chance,
        /// Loss while good.
        good: Chance,
    },
}

impl Default for Loss {
    fn default() -> Self {
        Self::Uniform(Chance::NEVER)
    }
}

/// What a link does in one state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// How long a frame takes.
    pub delay: Delay,
    /// Which frames are lost.
    pub loss: Loss,
    /// Which arrive twice.
    pub duplicate: Chance,
    /// In which one bit changes, behind the addresses.
    pub corrupt: Chance,
    /// Which skip the delay, and overtake others.
    pub reorder: Chance,
    /// Bits a second.
    pub rate: Option<u64>,
    /// Longest payload, in bytes; longer frames are lost.
    pub mtu: Option<usize>,
    /// Bytes in flight; what is too much is lost.
    pub capacity: Option<usize>,
}

/// The states of a link and how it changes between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Spec {
    /// At least one, with its name; a single one's is empty.
    states: Vec<(String, Settings)>,
    /// Between two steps.
    interval: Duration,
    /// From, to, and how likely at each step.
    arrows: Vec<(usize, usize, Chance)>,
}

/// The text is no description of a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSpec {
    /// An unknown property, or one with the wrong number of values.
    #[error(
        "`{0}` is no property of a link; there are delay, loss, duplicate, corrupt, reorder, rate, mtu, capacity"
    )]
    Property(String),
    /// The value cannot be read.
    #[error("`{value}` is no {what}")]
    Value {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: String,
    },
    /// The chain makes no sense.
    #[error("{0}")]
    Chain(String),
}

impl Spec {
    /// How many states there are.
    pub fn count(&self) -> usize {
        self.states.len()
    }

    /// A state's name and settings.
    pub fn state(&self, index: usize) -> (&str, &Settings) {
        let (name, settings) = &self.states[index];
        (name, settings)
    }

    /// Does it leave every frame as it is?
    pub fn is_nothing(&self) -> bool {
        self.states.iter().all(|(_, settings)| *settings == Settings::default())
    }

    /// How long a state lasts at least; `None` if there is only one.
    pub fn interval(&self) -> Option<Duration> {
        (self.count() > 1).then_some(self.interval)
    }

    /// The state after a step from `index`, given a number that is evenly distributed.
    pub fn step(&self, index: usize, random: u32) -> usize {
        let mut reached = Chance::NEVER;
        for &(_, to, chance) in self.arrows.iter().filter(|(from, ..)| *from == index) {
            reached.0 += chance.0;
            if reached.happens(random) {
                return to;
            }
        }
        index
    }
}

impl Default for Spec {
    /// One that leaves every frame as it is.
    fn default() -> Self {
        Settings::default().into()
    }
}

impl From<Settings> for Spec {
    fn from(settings: Settings) -> Self {
        Self { states: vec![(String::new(), settings)], interval: Duration::ZERO, arrows: Vec::new() }
    }
}

impl From<Spec> for String {
    fn from(spec: Spec) -> Self {
        spec.to_string()
    }
}

impl TryFrom<String> for Spec {
    type Error = BadSpec;

    fn try_from(text: String) -> Result<Self, BadSpec> {
        text.parse()
    }
}

impl FromStr for Spec {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        let chain = |why: String| BadSpec::Chain(why);
        if text.len() > MAX_TEXT {
            return Err(chain(format!("the text is longer than {MAX_TEXT} bytes")));
        }
        if text.trim() == "none" {
            return Ok(Settings::default().into());
        }
        if !text.trim_start().starts_with("state ") {
            return Ok(text.parse::<Settings>()?.into());
        }
        let mut spec = Self { states: Vec::new(), interval: Duration::ZERO, arrows: Vec::new() };
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (head, body) = part.split_once(':').ok_or_else(|| chain(format!("`{part}` has no colon")))?;
            match head.split_whitespace().collect::<Vec<_>>()[..] {
                ["state", name] if is_name(name) && spec.find(name).is_none() => {
                    spec.states.push((name.to_owned(), body.parse()?));
                }
                ["state", name] => {
                    return Err(chain(format!(
                        "`{name}` is there twice, or is no name of letters and digits"
                    )));
                }
                ["every", interval] if spec.interval.is_zero() => {
                    spec.interval = duration(interval)?;
                    spec.read_arrows(body)?;
                }
                _ => {
                    return Err(chain(format!(
                        "`{head}` is neither `state NAME` nor the one `every INTERVAL`"
                    )));
                }
            }
            if spec.states.len() > MAX_STATES {
                return Err(chain(format!("there are more than {MAX_STATES} states")));
            }
        }
        if spec.count() > 1 && spec.interval < MIN_INTERVAL {
            return Err(chain(
                "several states need `every INTERVAL: FROM>TO CHANCE`, of 1ms at least".into(),
            ));
        }
        Ok(spec)
    }
}

impl Spec {
    fn find(&self, name: &str) -> Option<usize> {
        self.states.iter().position(|(other, _)| other == name)
    }

    fn read_arrows(&mut self, text: &str) -> Result<(), BadSpec> {
        for arrow in text.split(',').map(str::trim).filter(|arrow| !arrow.is_empty()) {
            let bad =
                || BadSpec::Chain(format!("`{arrow}` is not `FROM>TO CHANCE` of two states named before"));
            let (ends, likely) = arrow.rsplit_once(char::is_whitespace).ok_or_else(bad)?;
            let (from, to) = ends.split_once('>').ok_or_else(bad)?;
            let from = self.find(from.trim()).ok_or_else(bad)?;
            let to = self.find(to.trim()).ok_or_else(bad)?;
            if from == to || self.arrows.iter().any(|&(f, t, _)| (f, t) == (from, to)) {
                return Err(bad());
            }
            self.arrows.push((from, to, chance(likely)?));
            let leaving = self.arrows.iter().filter(|(f, ..)| *f == from).map(|(_, _, c)| u64::from(c.0));
            if leaving.sum::<u64>() > u64::from(Chance::ALWAYS.0) {
                return Err(BadSpec::Chain(format!("`{arrow}`: what leaves a state is more than 100%")));
            }
        }
        Ok(())
    }
}

impl FromStr for Settings {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        let mut settings = Self::default();
        for property in text.split(',').map(str::trim).filter(|property| !property.is_empty()) {
            match property.split_whitespace().collect::<Vec<_>>()[..] {
                ["delay", "table", list] => settings.delay = Delay::Table(table(list)?),
                ["delay", mean] => settings.delay = Delay::Constant(duration(mean)?),
                ["delay", mean, "uniform", by] => {
                    settings.delay = Delay::Uniform(duration(mean)?, duration(by)?);
                }
                ["delay", mean, "normal", by] => {
                    settings.delay = Delay::Normal(duration(mean)?, duration(by)?);
                }
                ["loss", share] => settings.loss = Loss::Uniform(chance(share)?),
                ["loss", "gilbert", to_bad, to_good, ref rest @ ..] if rest.len() <= 2 => {
                    settings.loss = Loss::Gilbert {
                        to_bad: chance(to_bad)?,
                        to_good: chance(to_good)?,
                        bad: rest.first().map_or(Ok(Chance::ALWAYS), |bad| chance(bad))?,
                        good: rest.get(1).map_or(Ok(Chance::NEVER), |good| chance(good))?,
                    };
                }
                ["duplicate", share] => settings.duplicate = chance(share)?,
                ["corrupt", share] => settings.corrupt = chance(share)?,
                ["reorder", share] => settings.reorder = chance(share)?,
                ["rate", rate] => {
                    let bits = number(rate.strip_suffix("bit").unwrap_or(rate), 1000);
                    let bits = bits.filter(|bits| (1..=MAX_RATE).contains(bits));
                    settings.rate =
                        Some(bits.ok_or_else(|| bad("rate in bits a second, as 64k, 10M, 1G", rate))?);
                }
                ["mtu", mtu] => {
                    let bytes =
                        number(mtu, 1024).map(|n| n as usize).filter(|n| (MIN_MTU..=65_535).contains(n));
                    settings.mtu = Some(bytes.ok_or_else(|| bad("MTU, 68 to 65535", mtu))?);
                }
                ["capacity", size] => {
                    let bytes =
                        number(size, 1024).map(|n| n as usize).filter(|n| (1..=MAX_CAPACITY).contains(n));
                    settings.capacity = Some(bytes.ok_or_else(|| bad("capacity in bytes, 1 to 256M", size))?);
                }
                _ => return Err(BadSpec::Property(property.to_owned())),
            }
        }
        Ok(settings)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.states.iter().all(|(name, _)| name.is_empty()) {
            if self.is_nothing() {
                return out.write_str("none");
            }
            return self.states.iter().try_for_each(|(_, settings)| settings.fmt(out));
        }
        let names = |index: usize| &self.states[index].0;
        for (n, (name, settings)) in self.states.iter().enumerate() {
            write!(out, "{}state {name}: {settings}", if n > 0 { "; " } else { "" })?;
        }
        if !self.interval.is_zero() {
            write!(out, "; every {}:", Nice(self.interval))?;
            for (n, (from, to, chance)) in self.arrows.iter().enumerate() {
                write!(out, "{} {}>{} {chance}", if n > 0 { "," } else { "" }, names(*from), names(*to))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut properties: Vec<String> = Vec::new();
        match &self.delay {
            Delay::Constant(Duration::ZERO) => {}
            Delay::Constant(mean) => properties.push(format!("delay {}", Nice(*mean))),
            Delay::Uniform(mean, by) => {
                properties.push(format!("delay {} uniform {}", Nice(*mean), Nice(*by)));
            }
            Delay::Normal(mean, by) => properties.push(format!("delay {} normal {}", Nice(*mean), Nice(*by))),
            Delay::Table(list) => {
                let list: Vec<String> = list.iter().map(|d| Nice(*d).to_string()).collect();
                properties.push(format!("delay table {}", list.join("/")));
            }
        }
        match self.loss {
            Loss::Uniform(Chance::NEVER) => {}
            Loss::Uniform(share) => properties.push(format!("loss {share}")),
            Loss::Gilbert { to_bad, to_good, bad, good } => {
                properties.push(format!("loss gilbert {to_bad} {to_good} {bad} {good}"));
            }
        }
        let shares = [("duplicate", self.duplicate), ("corrupt", self.corrupt), ("reorder", self.reorder)];
        for (name, share) in shares.into_iter().filter(|(_, share)| *share != Chance::NEVER) {
            properties.push(format!("{name} {share}"));
        }
        properties.extend(self.rate.map(|rate| format!("rate {rate}")));
        properties.extend(self.mtu.map(|mtu| format!("mtu {mtu}")));
        properties.extend(self.capacity.map(|capacity| format!("capacity {capacity}")));
        out.write_str(&properties.join(", "))
    }
}

impl fmt::Display for Chance {
    /// In percent, without needless zeros.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:07}", self.0 / 10_000_000, self.0 % 10_000_000);
        write!(out, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A duration in the largest unit that needs no fraction.
struct Nice(Duration);

impl fmt::Display for Nice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
        let (unit, name) = units.into_iter().find(|(unit, _)| ns.is_multiple_of(*unit)).unwrap_or((1, "ns"));
        write!(out, "{}{name}", ns / unit)
    }
}

fn bad(what: &'static str, value: &str) -> BadSpec {
    BadSpec::Value { what, value: value.to_owned() }
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Digits with at most one point, as a multiple of 10^-`decimals`; `None` if it is none, or needs more.
fn decimal(text: &str, decimals: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !(digits(whole) && digits(fraction))
        || whole.is_empty()
        || whole.len() > 13
        || fraction.len() > decimals
    {
        return None;
    }
    format!("{whole}{fraction:0<decimals$}").parse().ok()
}

fn chance(text: &str) -> Result<Chance, BadSpec> {
    let parts = text.strip_suffix('%').and_then(|number| decimal(number, 7));
    let parts = parts.and_then(|parts| u32::try_from(parts).ok()).filter(|parts| *parts <= Chance::ALWAYS.0);
    parts.map(Chance).ok_or_else(|| bad("share, as 1% or 0.05%", text))
}

fn duration(text: &str) -> Result<Duration, BadSpec> {
    // The longer suffixes first: all of them end in `s`.
    let units = [("ns", 0), ("us", 3), ("ms", 6), ("s", 9)];
    let found = units.into_iter().find_map(|(unit, decimals)| Some((text.strip_suffix(unit)?, decimals)));
    let ns = found.and_then(|(number, decimals)| decimal(number.trim_end(), decimals));
    let ns = ns.map(Duration::from_nanos).filter(|d| *d <= MAX_DELAY);
    ns.ok_or_else(|| bad("time up to 60s, as 20ms, 1.5ms, 300us", text))
}

fn table(text: &str) -> Result<Vec<Duration>, BadSpec> {
    let list: Vec<Duration> = text.split('/').map(duration).collect::<Result<_, _>>()?;
    if list.len() > MAX_TABLE { Err(bad("table of up to 1024 times", "that many")) } else { Ok(list) }
}

/// A whole number with k, M or G behind it.
fn number(text: &str, kilo: u64) -> Option<u64> {
    let units = [("k", 1), ("K", 1), ("M", 2), ("G", 3)];
    let found = units.into_iter().find_map(|(unit, power)| Some((text.strip_suffix(unit)?, power)));
    let (digits, power) = found.unwrap_or((text, 0));
    decimal(digits, 0)?.checked_mul(kilo.pow(power))
}

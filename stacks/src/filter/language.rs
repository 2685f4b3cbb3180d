//! Rules as they are written, one a line.
//!
//! # Theory of operation
//! ```text
//! line    = "default" hook ("accept" | "drop") | hook ":" word* | ""      # what follows a `#` is a comment
//! word    = "ipv4" | "ipv6" | "in" names | "out" names | "proto" list | "from" nets | "to" nets
//!         | "sport" ports | "dport" ports | "type" list | "state" list
//!         | "limit" N "/" ("s"|"m"|"h") ["burst" N] | "log" ['"' text '"'] | action
//! action  = "accept" | "drop" | "reject" | "count" | "snat" "to" ADDR[":" ports] | "dnat" "to" ADDR[":" ports]
//! ```
//! Each condition stands once, in any order, its values with commas between them and `not` before them where
//! all but these are meant; `tcp`, `udp`, `icmp` and `icmpv6` alone are short for `proto` and the word. All conditions
//! of a rule have to hold. A mistake is named with its line and column and what would be right. Reading is
//! [`Ruleset::parse`]; printing, in one form, is `Display`.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use super::rule::{
    Action, BURST, Hook, Limit, List, Otherwise, PROTOCOLS, Per, Rule, Ruleset, State, Target, Texts,
};
use crate::config::MAX_INTERFACE_NAME;

/// Rules of one stack, at most: each packet may be compared with all of its hook.
pub const MAX_RULES: usize = 1024;
/// Values of one condition, at most, for the same reason.
const MAX_VALUES: usize = 64;
/// Bytes of the rules of one stack, at most: as many rules as there may be, none of them long.
pub const MAX_TEXT: usize = 256 << 10;
/// Bytes of what stands before a log line, at most (NF_LOG_PREFIXLEN is 128).
const MAX_PREFIX: usize = 64;
/// Packets of a limit and its burst, at most: a bucket is counted in nanoseconds.
const MAX_RATE: u32 = 1_000_000;

/// A line that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {why}; {fix}")]
pub struct FilterError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub why: String,
    /// What would be right.
    pub fix: String,
}

/// What is wrong, and what would be right.
type Wrong = (String, String);

/// A word, or a text in quotation marks, and where it begins.
#[derive(Debug, Clone, Copy)]
struct Token<'t> {
    text: &'t str,
    column: usize,
    quoted: bool,
}

/// The words of a line that nobody has read yet.
struct Words<'t> {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token<'t>>>,
    /// Of the word that was read last, for mistakes.
    column: usize,
}

impl Ruleset {
    /// Rules, one a line.
    ///
    /// # Errors
    /// The first line that is none.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut rules = Self::default();
        rules.extend(text)?;
        Ok(rules)
    }

    /// Adds rules behind those that are there; a default takes the place of the one before.
    ///
    /// # Errors
    /// The first line that is none. Nothing is added then.
    pub fn extend(&mut self, text: &str) -> Result<(), FilterError> {
        let at_start = |(why, fix)| FilterError { line: 1, column: 1, why, fix };
        if text.len() > MAX_TEXT {
            return Err(at_start(wrong("there is too much text", format!("{MAX_TEXT} bytes are the most"))));
        }
        let mut all = self.clone();
        for (index, line) in text.lines().enumerate() {
            let named = |column, (why, fix)| FilterError { line: index + 1, column, why, fix };
            let tokens = tokens(line).map_err(|(column, wrong)| named(column, wrong))?;
            let mut words = Words { tokens: tokens.into_iter().peekable(), column: 1 };
            read(&mut all, &mut words).map_err(|wrong| named(words.column, wrong))?;
            if all.rules.len() > MAX_RULES {
                return Err(named(1, wrong("there are too many rules", format!("{MAX_RULES} are the most"))));
            }
        }
        *self = all;
        Ok(())
    }
}

impl FromStr for Rule {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut rules = Ruleset::parse(text)?.rules;
        match (rules.pop(), rules.is_empty()) {
            (Some(rule), true) => Ok(rule),
            _ => {
                let (why, fix) = wrong("it is not one rule", "write one, such as `input: proto tcp drop`");
                Err(FilterError { line: 1, column: 1, why, fix })
            }
        }
    }
}

impl TryFrom<Texts> for Ruleset {
    type Error = FilterError;

    fn try_from(texts: Texts) -> Result<Self, FilterError> {
        match texts {
            Texts::One(text) => Self::parse(&text),
            Texts::Many(texts) => Self::parse(&texts.join("\n")),
        }
    }
}

impl From<Ruleset> for Vec<String> {
    fn from(rules: Ruleset) -> Self {
        rules.lines()
    }
}

fn wrong(why: impl Into<String>, fix: impl Into<String>) -> Wrong {
    (why.into(), fix.into())
}

/// `word` is none of `known`.
fn unknown(what: &str, word: &str, known: &[&str]) -> Wrong {
    let near = known.iter().map(|one| (strsim::osa_distance(word, one), one)).min();
    let fix = match near {
        // One slip in four letters.
        Some((slips, one)) if slips <= one.len().div_ceil(4) => format!("did you mean `{one}`?"),
        _ => format!("known are {}", known.join(", ")),
    };
    wrong(format!("`{}` is no {what}", word.escape_debug()), fix)
}

/// Cuts a line into words. A colon right behind a hook's name is a word of its own.
fn tokens(line: &str) -> Result<Vec<Token<'_>>, (usize, Wrong)> {
    let mut found: Vec<Token<'_>> = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        let column = line[..line.len() - rest.len()].chars().count() + 1;
        match rest.chars().next() {
            None | Some('#') => return Ok(found),
            Some('"') => {
                let Some(end) = rest[1..].find('"') else {
                    return Err((column, wrong("the text does not end", "put a `\"` behind it")));
                };
                found.push(Token { text: &rest[1..=end], column, quoted: true });
                rest = &rest[end + 2..];
            }
            Some(_) => {
                let head = found.is_empty();
                let ends = |c: char| c.is_whitespace() || c == '#' || c == '"' || (head && c == ':');
                let end = rest.find(ends).unwrap_or(rest.len());
                let colon = usize::from(head && rest[end..].starts_with(':'));
                found.push(Token { text: &rest[..end + colon], column, quoted: false });
                rest = &rest[end + colon..];
            }
        }
    }
}

impl<'t> Words<'t> {
    /// The next word; `what` it should be.
    fn next(&mut self, what: &str) -> Result<&'t str, Wrong> {
        match self.tokens.next() {
            Some(token) if !token.quoted => {
                self.column = token.column;
                Ok(token.text)
            }
            Some(token) => {
                self.column = token.column;
                Err(wrong("a text in quotation marks stands there", format!("write {what}, without them")))
            }
            None => Err(wrong("something is missing behind it", format!("write {what}"))),
        }
    }

    /// Takes the next word if it is this one.
    fn take(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| !token.quoted && token.text == word).is_some()
    }

    /// `[not] VALUE[,VALUE]…`
    fn list<T>(
        &mut self,
        what: &str,
        mut value: impl FnMut(&str) -> Result<T, Wrong>,
    ) -> Result<List<T>, Wrong> {
        let not = self.take("not");
        let text = self.next(what)?;
        let mut any = Vec::new();
        let start = self.column;
        let mut at = 0;
        for piece in text.split(',') {
            self.column = start + text[..at].chars().count();
            if piece.is_empty() {
                let fix = format!("write {what}; commas without blanks stand between several");
                return Err(wrong("a value is missing", fix));
            }
            any.push(value(piece)?);
            at += piece.len() + 1;
        }
        if any.len() > MAX_VALUES {
            return Err(wrong(
                "there are too many values",
                format!("{MAX_VALUES} are the most; use two rules"),
            ));
        }
        Ok(List { not, any })
    }
}

const HOOKS: &str = "a hook: `prerouting`, `input`, `forward`, `output` or `postrouting`";
const WORDS: [&str; 22] = [
    "accept", "drop", "reject", "count", "snat", "dnat", "log", "limit", "state", "type", "dport", "sport",
    "to", "from", "proto", "out", "in", "ipv4", "ipv6", "tcp", "udp", "icmp",
];

/// One line.
fn read(rules: &mut Ruleset, words: &mut Words<'_>) -> Result<(), Wrong> {
    if words.tokens.peek().is_none() {
        return Ok(());
    }
    let head = words.next("`default` or a hook")?;
    if head == "default" {
        let hook = hook(words.next(HOOKS)?)?;
        rules.otherwise[hook as usize] = match words.next("`accept` or `drop`")? {
            "accept" => Otherwise::Accept,
            "drop" => Otherwise::Drop,
            other => return Err(unknown("default", other, &["accept", "drop"])),
        };
        return end(words);
    }
    let Some(name) = head.strip_suffix(':') else {
        hook(head)?;
        return Err(wrong("there is no colon behind the hook", format!("write `{head}:`")));
    };
    let mut rule = Rule::new(hook(name)?, Action::Count);
    let mut decided = false;
    while words.tokens.peek().is_some() {
        if decided {
            return end(words);
        }
        decided = condition(&mut rule, words)?;
    }
    if !decided && rule.log.is_none() {
        return Err(wrong(
            "the rule does nothing",
            "end it with accept, drop, reject, count, log, snat or dnat",
        ));
    }
    check(&rule)?;
    rules.rules.push(rule);
    Ok(())
}

fn end(words: &mut Words<'_>) -> Result<(), Wrong> {
    match words.tokens.next() {
        None => Ok(()),
        Some(token) => {
            words.column = token.column;
            let why = format!("`{}` stands behind the end", token.text.escape_debug());
            Err(wrong(why, "an action is a line's last word; put conditions before it, or use two lines"))
        }
    }
}

fn hook(word: &str) -> Result<Hook, Wrong> {
    let found = Hook::ALL.into_iter().find(|hook| hook.name() == word);
    found.ok_or_else(|| unknown("hook", word, &Hook::ALL.map(Hook::name)))
}

/// The next condition or action of a rule. True: an action.
fn condition(rule: &mut Rule, words: &mut Words<'_>) -> Result<bool, Wrong> {
    let word = words.next("a condition or an action")?;
    match word {
        "ipv4" | "ipv6" => once(&mut rule.v4, word, word == "ipv4")?,
        "in" => once(&mut rule.arrives, word, words.list("an interface's name", name)?)?,
        "out" => once(&mut rule.leaves, word, words.list("an interface's name", name)?)?,
        "proto" => once(&mut rule.protocols, word, words.list("a protocol: tcp, udp, icmp, …", protocol)?)?,
        "tcp" | "udp" | "icmp" | "icmpv6" => {
            once(&mut rule.protocols, word, List { not: false, any: vec![protocol(word)?] })?;
        }
        "from" => once(&mut rule.from, word, words.list("an address or prefix", net)?)?,
        "to" => once(&mut rule.to, word, words.list("an address or prefix", net)?)?,
        "sport" => once(&mut rule.sport, word, words.list("a port or a range of ports", ports)?)?,
        "dport" => once(&mut rule.dport, word, words.list("a port or a range of ports", ports)?)?,
        "type" => {
            let v6 = rule.protocols.as_ref().is_some_and(|list| list.any == [ICMPV6]);
            once(&mut rule.types, word, words.list("a type of ICMP", |text| icmp_type(text, v6))?)?;
        }
        "state" => once(&mut rule.states, word, words.list("a state: new, established, …", state)?)?,
        "limit" => {
            let limit = limit(words)?;
            once(&mut rule.limit, word, limit)?;
        }
        "log" => {
            let prefix = words.tokens.next_if(|token| token.quoted).map_or("", |token| token.text);
            let plain = |c: char| c.is_ascii_graphic() || c == ' ';
            if prefix.len() > MAX_PREFIX || !prefix.chars().all(plain) {
                let fix = format!("write up to {MAX_PREFIX} plain characters");
                return Err(wrong("a log line cannot begin so", fix));
            }
            once(&mut rule.log, word, prefix.to_owned())?;
        }
        "accept" => rule.action = Action::Accept,
        "drop" => rule.action = Action::Drop,
        "reject" => rule.action = Action::Reject,
        "count" => {}
        "snat" => rule.action = Action::Snat(target(words)?),
        "dnat" => rule.action = Action::Dnat(target(words)?),
        "not" => {
            return Err(wrong("`not` stands before a condition", "put it behind: `from not 10.0.0.0/8`"));
        }
        other => return Err(unknown("condition or action", other, &WORDS)),
    }
    Ok(matches!(word, "accept" | "drop" | "reject" | "count" | "snat" | "dnat"))
}

fn once<T>(place: &mut Option<T>, word: &str, value: T) -> Result<(), Wrong> {
    if place.is_some() {
        let fix = "put all values behind one, with commas between them, or use two rules";
        return Err(wrong(format!("`{word}` says again what was said before"), fix));
    }
    *place = Some(value);
    Ok(())
}

fn name(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if text.len() <= MAX_INTERFACE_NAME && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(wrong(
        format!("`{}` is no name of an interface", text.escape_debug()),
        "write one as `ip link` shows it",
    ))
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Protocols whose headers begin with two ports.
const PORTED: [u8; 5] = [TCP, UDP, 132, 33, 136];

fn protocol(text: &str) -> Result<u8, Wrong> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    named.or_else(|| number(text)).ok_or_else(|| unknown("protocol", text, &PROTOCOLS.map(|(name, _)| name)))
}

/// A number that is written in digits alone.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn net(text: &str) -> Result<IpNet, Wrong> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map(|net| net.trunc()).map_err(|_| {
        let why = format!("`{}` is no address or prefix", text.escape_debug());
        wrong(why, "write 10.0.0.1, 10.0.0.0/8, fd00::1 or fd00::/8")
    })
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first).zip(number(last)).map(|(first, last)| first..=last);
    range.filter(|range| !range.is_empty()).ok_or_else(|| {
        wrong(format!("`{}` is no port", text.escape_debug()), "write 22, 8000-8080 or 80,443")
    })
}

/// Types that have a word, with their numbers in ICMP and ICMPv6 (RFC 792, RFC 4443).
const TYPES: [(&str, Option<u8>, Option<u8>); 11] = [
    ("echo-request", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("unreachable", Some(3), Some(1)),
    ("packet-too-big", None, Some(2)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("redirect", Some(5), Some(137)),
    ("router-solicit", Some(10), Some(133)),
    ("router-advert", Some(9), Some(134)),
    ("neighbour-solicit", None, Some(135)),
    ("neighbour-advert", None, Some(136)),
];

fn icmp_type(text: &str, v6: bool) -> Result<u8, Wrong> {
    let of = |(name, v4_type, v6_type): &(&'static str, Option<u8>, Option<u8>)| {
        if v6 { *v6_type } else { *v4_type }.map(|number| (*name, number))
    };
    let named: Vec<_> = TYPES.iter().filter_map(of).collect();
    let found = named.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    let names: Vec<_> = named.iter().map(|(name, _)| *name).collect();
    found.or_else(|| number(text)).ok_or_else(|| unknown("type of ICMP", text, &names))
}

fn state(text: &str) -> Result<State, Wrong> {
    let found = State::ALL.into_iter().find(|state| state.name() == text);
    found.ok_or_else(|| unknown("state", text, &State::ALL.map(State::name)))
}

/// `10/s burst 20`
fn limit(words: &mut Words<'_>) -> Result<Limit, Wrong> {
    let text = words.next("a rate, such as 10/s")?;
    let rate = text.split_once('/').and_then(|(packets, per)| {
        let per = match per {
            "s" | "second" => Per::Second,
            "m" | "minute" => Per::Minute,
            "h" | "hour" => Per::Hour,
            _ => return None,
        };
        Some((number(packets)?, per))
    });
    let fits = |count: &u32| (1..=MAX_RATE).contains(count);
    let Some((packets, per)) = rate.filter(|(packets, _)| fits(packets)) else {
        let why = format!("`{}` is no rate", text.escape_debug());
        return Err(wrong(why, format!("write 10/s, 10/m or 10/h; {MAX_RATE} is the most")));
    };
    let burst = if words.take("burst") {
        let text = words.next("a number of packets")?;
        let burst = number(text).filter(fits);
        burst.ok_or_else(|| {
            let why = format!("`{}` is no number of packets", text.escape_debug());
            wrong(why, format!("write 1 to {MAX_RATE}"))
        })?
    } else {
        BURST
    };
    Ok(Limit { packets, per, burst })
}

/// `to 10.0.0.1:80`
fn target(words: &mut Words<'_>) -> Result<Target, Wrong> {
    if !words.take("to") {
        return Err(wrong("`to` is missing behind it", "write `snat to 10.0.0.1` or `dnat to 10.0.0.1:80`"));
    }
    let text = words.next("an address")?;
    let no_address = || {
        let why = format!("`{}` is no address to translate to", text.escape_debug());
        wrong(why, "write 10.0.0.1, 10.0.0.1:80, 10.0.0.1:1000-2000, fd00::1 or [fd00::1]:80")
    };
    let (address, behind) = if let Ok(address) = text.parse() {
        (address, None)
    } else if let Some((address, behind)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        (IpAddr::V6(address.parse().map_err(|_| no_address())?), Some(behind))
    } else {
        let (address, behind) = text.split_once(':').ok_or_else(no_address)?;
        (IpAddr::V4(address.parse().map_err(|_| no_address())?), Some(behind))
    };
    if address.is_unspecified() || address.is_multicast() {
        return Err(no_address());
    }
    let ports = behind.map(ports).transpose()?.filter(|ports| *ports.start() > 0 || *ports.end() > 0);
    if behind.is_some() && ports.is_none() {
        return Err(no_address());
    }
    Ok(Target { address, ports })
}

/// Do the parts of a rule fit together?
fn check(rule: &Rule) -> Result<(), Wrong> {
    let hook = rule.hook;
    if rule.arrives.is_some() && !hook.has_in() {
        return Err(wrong(
            "nobody knows there where a packet came in",
            "use `in` with prerouting, input and forward",
        ));
    }
    if rule.leaves.is_some() && !hook.has_out() {
        return Err(wrong(
            "nobody knows there where a packet leaves",
            "use `out` with forward, output and postrouting",
        ));
    }
    let nets = [&rule.from, &rule.to].into_iter().flatten().flat_map(|list| &list.any);
    let families = nets.map(|net| net.addr().is_ipv4()).chain(rule.v4);
    let target = match &rule.action {
        Action::Snat(target) | Action::Dnat(target) => Some(target),
        _ => None,
    };
    let mut families = families.chain(target.map(|target| target.address.is_ipv4()));
    let first = families.next();
    if families.any(|v4| Some(v4) != first) {
        return Err(wrong("it has addresses of both families", "write a rule for each"));
    }
    let only = |known: &[u8]| {
        rule.protocols
            .as_ref()
            .is_some_and(|list| !list.not && list.any.iter().all(|one| known.contains(one)))
    };
    if (rule.sport.is_some() || rule.dport.is_some()) && !only(&PORTED) {
        return Err(wrong(
            "not all packets have ports",
            "put `proto tcp`, `proto udp` or `proto tcp,udp` before them",
        ));
    }
    if rule.types.is_some() && !(only(&[ICMP]) || only(&[ICMPV6])) {
        return Err(wrong("only ICMP has types", "put `proto icmp` or `proto icmpv6` before `type`"));
    }
    if target.is_some_and(|target| target.ports.is_some()) && !only(&[TCP, UDP]) {
        return Err(wrong("not all packets have ports", "put `proto tcp` or `proto udp` before it"));
    }
    match rule.action {
        Action::Reject if hook == Hook::Postrouting => {
            Err(wrong("nothing is rejected that late", "reject in output or forward, or drop it"))
        }
        Action::Snat(_) if hook != Hook::Postrouting => {
            Err(wrong("senders are replaced when packets leave", "use `snat` with postrouting"))
        }
        Action::Dnat(_) if !matches!(hook, Hook::Prerouting | Hook::Output) => {
            let fix = "use `dnat` with prerouting, or with output for this stack's own";
            Err(wrong("receivers are replaced before the way is chosen", fix))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

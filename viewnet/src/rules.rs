//! Rules of a view: which stack answers a destination.
//!
//! # Theory of operation
//! A rule is a line of words, on the command line (`--rule`) as in a file of TOML (`rules = ["…", …]`):
//! ```text
//! rule   = condition… action | "default" family… action
//! condition = "to" PREFIX[,PREFIX…] | "port" PORT[-PORT][,…] | "tcp" | "udp" | "bind"
//! action = "via" STACK | "deny" | "unreachable"
//! family = "inet" | "inet6" | "netlink" | "packet" | a number of AF_*
//! ```
//! Each condition may stand once, in any order, and all have to hold. **The first rule that matches decides**; how long
//! its prefix is does not matter. If none does, the default of the destination's family decides, and without one the view's
//! own stack. `default` without families is the default of all that have none of their own; where it stands
//! does not matter. A family's default is also where its sockets are made, and so where servers listen.
//!
//! A rule with `bind` is about the address and port that a socket is bound to (bind(2), any port but 0), and about no
//! destination. If none matches, the socket is on the stack that has the address.
//!
//! STACK is a stack's name or path, `none`, `host` (the network that viewnet was started in), or `own`, the stack
//! that the view has without rules. `deny` is EACCES, as `prohibit` of ip-rule(8); `unreachable` is
//! ENETUNREACH, as there.
//!
//! This is a core: text in, decisions out. Who asks is [`crate::steer`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Most rules of a view, defaults included: each is looked at for each connection.
pub(crate) const MAX_RULES: usize = 256;
/// Most stacks that the rules of a view name: each is joined for as long as the view lasts.
pub(crate) const MAX_STACKS: usize = 64;
/// Most prefixes, or port ranges, of one rule: a rule is a line.
const MAX_ITEMS: usize = 64;

/// The word for the stack that the view has without rules.
const OWN: &str = "own";
/// Families that have a word, as View-OS names them.
const FAMILIES: [(&str, i32); 4] = [
    ("inet", libc::AF_INET),
    ("inet6", libc::AF_INET6),
    ("netlink", libc::AF_NETLINK),
    ("packet", libc::AF_PACKET),
];
/// First number that is no family, linux/socket.h.
const AF_MAX: i32 = 46;

/// All rules of a view, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub(crate) struct Rules {
    list: Vec<Rule>,
    /// By AF_*.
    defaults: BTreeMap<i32, Target>,
    /// Of the families that have none of their own.
    default: Option<Target>,
    stacks: Vec<String>,
    texts: Vec<String>,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The stack that the view has without rules.
    Own,
    /// The stack with this place in [`Rules::stacks`].
    Stack(usize),
    /// Nobody.
    Fail(Errno),
}

/// A protocol that a rule can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a program wants to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The address; an IPv4 address that is mapped into IPv6 is an IPv4 address.
    pub(crate) address: IpAddr,
    /// The port, if the protocol has ports.
    pub(crate) port: Option<u16>,
    /// The protocol, if it is one that a rule can name.
    pub(crate) transport: Option<Transport>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Conditions {
    to: Option<Vec<IpNet>>,
    ports: Option<Vec<RangeInclusive<u16>>>,
    transport: Option<Transport>,
    /// It is about bind(2).
    bind: Option<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Conditions,
    target: Target,
}

/// A rule that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleError {
    /// The rule.
    pub(crate) rule: String,
    /// Which word is wrong, and why.
    pub(crate) why: String,
    /// What to write in its place.
    pub(crate) hint: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use the rule `{}`: {}; {}", self.rule, self.why, self.hint)
    }
}

/// What is wrong with a word, and what to write instead.
type Wrong = (String, String);

fn wrong<T>(why: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
    Err((why.into(), hint.into()))
}

impl TryFrom<Vec<String>> for Rules {
    type Error = RuleError;

    fn try_from(texts: Vec<String>) -> Result<Self, RuleError> {
        let mut rules = Self::default();
        texts.iter().try_for_each(|text| rules.add(text))?;
        Ok(rules)
    }
}

impl From<Rules> for Vec<String> {
    fn from(rules: Rules) -> Self {
        rules.texts
    }
}

impl Rules {
    /// Adds a rule behind the others.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), RuleError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let added = if self.texts.len() >= MAX_RULES {
            wrong(
                format!("it is number {}", MAX_RULES + 1),
                "several prefixes can share a rule: `to A,B via STACK`",
            )
        } else if let Some((&"default", rest)) = words.split_first() {
            self.add_default(rest)
        } else {
            self.add_rule(&words)
        };
        added.map_err(|(why, hint)| RuleError { rule: text.to_owned(), why, hint })?;
        self.texts.push(words.join(" "));
        Ok(())
    }

    fn add_rule(&mut self, words: &[&str]) -> Result<(), Wrong> {
        let mut conditions = Conditions::default();
        let mut rest = words;
        while let Some((word, behind)) = rest.split_first() {
            rest = match *word {
                "to" => {
                    let (list, behind) = operand("to", "a prefix such as 10.8.0.0/16", behind)?;
                    once("to", &mut conditions.to, items(list, prefix)?)?;
                    behind
                }
                "port" => {
                    let (list, behind) = operand("port", "a port such as 25 or 8000-8999", behind)?;
                    once("port", &mut conditions.ports, items(list, ports)?)?;
                    behind
                }
                "tcp" | "udp" => {
                    let transport = if *word == "tcp" { Transport::Tcp } else { Transport::Udp };
                    once("tcp or udp", &mut conditions.transport, transport)?;
                    behind
                }
                "bind" => {
                    once("bind", &mut conditions.bind, ())?;
                    behind
                }
                _ => break,
            };
        }
        let target = self.action(rest)?;
        if conditions.bind.is_some() && target == Target::Fail(Errno::ENETUNREACH) {
            return wrong("nothing is unreachable to bind(2)", "write `deny`");
        }
        if conditions == Conditions::default() {
            return wrong("it has no condition", format!("write `default {}`", rest.join(" ")));
        }
        self.list.push(Rule { conditions, target });
        Ok(())
    }

    fn add_default(&mut self, words: &[&str]) -> Result<(), Wrong> {
        let count = words.iter().position(|word| ["via", "deny", "unreachable"].contains(word));
        let (names, action) = words.split_at(count.unwrap_or(words.len()));
        let families = names.iter().map(|name| family(name)).collect::<Result<Vec<i32>, Wrong>>()?;
        let target = self.action(action)?;
        let twice = "leave out one of them: there is one default per family";
        if families.is_empty() && self.default.replace(target).is_some() {
            return wrong("there is a default already", twice);
        }
        for (family, name) in families.into_iter().zip(names) {
            if self.defaults.insert(family, target).is_some() {
                return wrong(format!("`{name}` has a default already"), twice);
            }
        }
        Ok(())
    }

    fn action(&mut self, words: &[&str]) -> Result<Target, Wrong> {
        const ACTIONS: &str = "end it with `via STACK`, `deny` or `unreachable`";
        let (target, behind) = match words.split_first() {
            Some((&"deny", behind)) => (Target::Fail(Errno::EACCES), behind),
            Some((&"unreachable", behind)) => (Target::Fail(Errno::ENETUNREACH), behind),
            Some((&"via", behind)) => {
                let (name, behind) = operand("via", "a stack's name or path", behind)?;
                (self.stack(name)?, behind)
            }
            Some((word, _)) => {
                return wrong(
                    format!("`{word}` is no word of a rule"),
                    format!("conditions are `to`, `port`, `tcp`, `udp` and `bind`; {ACTIONS}"),
                );
            }
            None => return wrong("it says what matches and not what to do", ACTIONS),
        };
        match behind.first() {
            None => Ok(target),
            Some(word) => {
                wrong(format!("`{word}` stands behind its end"), "leave it out, or put it in front")
            }
        }
    }

    fn stack(&mut self, name: &str) -> Result<Target, Wrong> {
        if name == OWN {
            return Ok(Target::Own);
        }
        if let Some(place) = self.stacks.iter().position(|known| known == name) {
            return Ok(Target::Stack(place));
        }
        if self.stacks.len() >= MAX_STACKS {
            return wrong(
                format!("`{name}` is stack number {}", MAX_STACKS + 1),
                "use fewer stacks in one view",
            );
        }
        self.stacks.push(name.to_owned());
        Ok(Target::Stack(self.stacks.len() - 1))
    }

    /// The stacks that are named, each once.
    pub(crate) fn stacks(&self) -> &[String] {
        &self.stacks
    }

    /// The rules as they were given.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Whether a socket's stack can depend on where it goes, and not on its family alone: by a condition, or as an IPv6 socket
    /// can go to IPv4 addresses, too.
    pub(crate) fn steer(&self) -> bool {
        let inet = [libc::AF_INET, libc::AF_INET6].map(|family| self.default_of(family));
        !self.list.is_empty() || inet.iter().any(|target| matches!(target, Target::Fail(_)))
    }

    /// Where sockets of a family (AF_*) are made.
    pub(crate) fn default_of(&self, family: i32) -> Target {
        self.defaults.get(&family).copied().or(self.default).unwrap_or(Target::Own)
    }

    /// Who answers a destination.
    pub(crate) fn decide(&self, destination: &Destination) -> Target {
        let mut about = self.list.iter().filter(|rule| rule.conditions.bind.is_none());
        let first = about.find(|rule| rule.conditions.hold(destination));
        let family = if destination.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        first.map_or_else(|| self.default_of(family), |rule| rule.target)
    }

    /// Where a socket goes that is bound to a port; `None`: to the stack that has the address.
    pub(crate) fn decide_bind(&self, local: &Destination) -> Option<Target> {
        let mut about = self.list.iter().filter(|rule| rule.conditions.bind.is_some());
        about.find(|rule| rule.conditions.hold(local)).map(|rule| rule.target)
    }
}

impl Conditions {
    fn hold(&self, destination: &Destination) -> bool {
        let Destination { address, port, transport } = destination;
        self.to.as_ref().is_none_or(|to| to.iter().any(|net| net.contains(address)))
            && self
                .ports
                .as_ref()
                .is_none_or(|ports| port.is_some_and(|port| ports.iter().any(|range| range.contains(&port))))
            && self.transport.is_none_or(|wanted| *transport == Some(wanted))
    }
}

/// The word behind `word`.
fn operand<'a, 'b>(word: &str, what: &str, rest: &'a [&'b str]) -> Result<(&'b str, &'a [&'b str]), Wrong> {
    match rest.split_first() {
        Some((operand, behind)) => Ok((operand, behind)),
        None => wrong(format!("nothing stands behind `{word}`"), format!("write {what} there")),
    }
}

fn once<T>(word: &str, place: &mut Option<T>, value: T) -> Result<(), Wrong> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => wrong(
            format!("it says `{word}` twice"),
            "write alternatives with commas behind one word, or as two rules",
        ),
    }
}

fn items<T>(list: &str, read: impl Fn(&str) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
    let items = list.split(',').map(read).collect::<Result<Vec<T>, Wrong>>()?;
    if items.len() > MAX_ITEMS {
        return wrong(format!("it lists more than {MAX_ITEMS} things"), "write it as several rules");
    }
    Ok(items)
}

/// `10.8.0.0/16`, `10.8.0.1`, `2001:db8::/32`, `[2001:db8::]/32`
fn prefix(text: &str) -> Result<IpNet, Wrong> {
    let plain = text.replacen('[', "", 1).replacen(']', "", 1);
    let read = plain.parse().or_else(|_| plain.parse::<IpAddr>().map(IpNet::from));
    match read {
        Err(_) => wrong(format!("`{text}` is no prefix"), "write one such as 10.8.0.0/16 or [2001:db8::]/32"),
        Ok(net) if net != net.trunc() => wrong(
            format!("`{text}` has bits behind its prefix"),
            format!("write {} or {}", net.trunc(), net.addr()),
        ),
        Ok(net) => Ok(net),
    }
}

/// `25`, `8000-8999`
fn ports(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => wrong(format!("`{text}` is no port"), "write one of 0 to 65535, or a range such as 8000-8999"),
    }
}

/// The name of an AF_*, or its number.
pub(crate) fn family_name(family: i32) -> String {
    let named = FAMILIES.iter().find(|(_, number)| *number == family);
    named.map_or_else(|| family.to_string(), |(name, _)| (*name).to_owned())
}

/// AF_* by its name or number.
pub(crate) fn family(text: &str) -> Result<i32, Wrong> {
    let named = FAMILIES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    match named.or_else(|| text.parse().ok().filter(|number| (1..AF_MAX).contains(number))) {
        Some(libc::AF_UNIX | libc::AF_ALG) => {
            wrong(format!("`{text}` is no network"), "it is the machine's in every view; leave it out")
        }
        Some(number) => Ok(number),
        None => wrong(
            format!("`{text}` is no address family"),
            "known are inet, inet6, netlink, packet, and the numbers of AF_*",
        ),
    }
}

#[cfg(test)]
mod tests;

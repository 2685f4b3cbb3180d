//! The filter of a stack in a library: packets in, verdicts out. A core.
//!
//! # Theory of operation
//! [`Filter::judge`] is asked at each hook of a packet's way. The first one (prerouting or output) finds the packet's
//! connection ([`super::track`]); then the hook's rules are asked in order until one decides. A connection's first
//! packet is shown to the translating rules, too, of prerouting and output for its receiver, of postrouting for
//! its sender; what they say holds for all its packets, in both directions and in the errors about them: receivers
//! are replaced at prerouting and output, senders at input and postrouting, so that rules see what netfilter's
//! do. A translated sender keeps its port if nobody else has it, else it gets one of the same kind (below 512,
//! below 1024, others; RFC 4787 clause 4.2).
//!
//! Whoever asks carries a packet's [`Tracked`] from hook to hook. Time is an argument.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::log::{Line, Lines};
use super::packet::{Rewrite, TCP, Tuple, UDP, UDP_LITE, View};
use super::rule::{Action, Hook, Limit, Otherwise, Rule, Ruleset, State, Target};
use super::track::{MAX_FLOWS, Table, Tracked};
use super::{Counts, Listing, Named};
use crate::smol::sockets::keyed::{Key, Secret};

/// Ports that are tried for a translated sender before its connection is given up.
const PORTS_TRIED: u32 = 128;

/// Where a packet comes in and leaves, as far as that is known; empty if not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends<'a> {
    /// The interface's name.
    pub arrives: &'a str,
    /// The interface's name.
    pub leaves: &'a str,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is.
    Accept,
    /// It goes on with other ends.
    Translate(Rewrite),
    /// It ends.
    Drop,
    /// It ends, and its sender is told; then [`Filter::forget`].
    Reject,
}

/// A rule at work.
#[derive(Debug)]
struct Entry {
    handle: u64,
    rule: Rule,
    counts: Counts,
    /// When its bucket will be full again.
    full_at: Option<Instant>,
}

/// The rules of one hook.
#[derive(Debug, Default)]
struct Chain {
    otherwise: Otherwise,
    /// What no rule has decided about.
    rest: Counts,
    filtering: Vec<Entry>,
    translating: Vec<Entry>,
}

/// Rules, their counters, and the connections of a stack.
#[derive(Debug)]
pub struct Filter {
    chains: [Chain; 5],
    order: Vec<u64>,
    next_handle: u64,
    table: Table,
    secret: Secret,
    lines: Lines,
    /// New connections for which there was no room.
    crowded: u64,
}

impl Filter {
    /// One with these rules; `seed` is its randomness.
    pub fn new(rules: &Ruleset, seed: [u64; 4]) -> Self {
        let mut filter = Self {
            chains: Default::default(),
            order: Vec::new(),
            next_handle: 1,
            table: Table::new(MAX_FLOWS, Key::new([seed[0], seed[1]])),
            secret: Secret::new([seed[2], seed[3]]),
            lines: Lines::default(),
            crowded: 0,
        };
        filter.set(rules);
        filter
    }

    /// These are the rules from now on. Rules that stay keep their counters, and connections stay.
    pub fn set(&mut self, rules: &Ruleset) {
        let mut before: Vec<Entry> = Vec::new();
        for chain in &mut self.chains {
            before.append(&mut chain.filtering);
            before.append(&mut chain.translating);
        }
        let mut before: VecDeque<Entry> = {
            before.sort_by_key(|entry| entry.handle);
            before.into()
        };
        self.order.clear();
        for (hook, chain) in Hook::ALL.iter().zip(&mut self.chains) {
            chain.otherwise = rules.otherwise(*hook);
        }
        for rule in &rules.rules {
            let old = before.iter().position(|entry| entry.rule == *rule).and_then(|at| before.remove(at));
            let entry = old.unwrap_or_else(|| {
                self.next_handle += 1;
                let handle = self.next_handle - 1;
                Entry { handle, rule: rule.clone(), counts: Counts::default(), full_at: None }
            });
            self.order.push(entry.handle);
            let chain = &mut self.chains[rule.hook as usize];
            if rule.translates() { chain.translating.push(entry) } else { chain.filtering.push(entry) }
        }
    }

    /// The rules, and their numbers in the same order.
    pub fn rules(&self) -> (Ruleset, &[u64]) {
        let find = |handle: &u64| self.entries().find(|entry| entry.handle == *handle);
        let rules = self.order.iter().filter_map(find).map(|entry| entry.rule.clone()).collect();
        let otherwise = std::array::from_fn(|hook| self.chains[hook].otherwise);
        (Ruleset { otherwise, rules }, &self.order)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chains.iter().flat_map(|chain| chain.filtering.iter().chain(&chain.translating))
    }

    /// Rules in order with what they have counted.
    pub fn listing(&self) -> Listing {
        let named = |handle: &u64| {
            let entry = self.entries().find(|entry| entry.handle == *handle)?;
            Some(Named { handle: *handle, rule: entry.rule.to_string(), counts: entry.counts })
        };
        let defaults = Hook::ALL.iter().zip(&self.chains).map(|(hook, chain)| {
            let otherwise = if chain.otherwise == Otherwise::Drop { "drop" } else { "accept" };
            (hook.name().to_owned(), otherwise.to_owned(), chain.rest)
        });
        Listing {
            rules: self.order.iter().filter_map(named).collect(),
            defaults: defaults.map(Into::into).collect(),
            flows: self.table.len(),
            crowded: self.crowded,
            lines: self.lines.all(),
        }
    }

    /// About how many bytes it takes.
    pub fn memory(&self) -> usize {
        self.table.memory()
    }

    /// What becomes of a packet at a hook. At its first hook `tracked` is absent and filled in; it goes with the
    /// packet to the others.
    pub fn judge(
        &mut self,
        now: Instant,
        hook: Hook,
        view: &View<'_>,
        ends: Ends<'_>,
        tracked: &mut Option<Tracked>,
    ) -> Verdict {
        let of = match tracked {
            Some(of) => *of,
            None => match self.table.track(now, view) {
                Some(of) => *tracked.insert(of),
                None => {
                    self.crowded += 1;
                    return Verdict::Drop;
                }
            },
        };
        let lines = &mut self.lines;
        let chain = &mut self.chains[hook as usize];
        let mut decided = None;
        for entry in &mut chain.filtering {
            if !entry.takes(now, view, ends, of.state) {
                continue;
            }
            if let Some(prefix) = &entry.rule.log {
                lines.add(now, || Line::text(prefix, hook, ends, view));
            }
            entry.counts.add(view.len);
            match entry.rule.action {
                Action::Accept => decided = Some(Verdict::Accept),
                Action::Drop => decided = Some(Verdict::Drop),
                Action::Reject => decided = Some(Verdict::Reject),
                Action::Count | Action::Snat(_) | Action::Dnat(_) => continue,
            }
            break;
        }
        let verdict = decided.unwrap_or_else(|| {
            chain.rest.add(view.len);
            match chain.otherwise {
                Otherwise::Accept => Verdict::Accept,
                Otherwise::Drop => Verdict::Drop,
            }
        });
        match verdict {
            Verdict::Accept => self.translate(now, hook, view, ends, &of),
            Verdict::Drop => {
                self.forget(&of);
                verdict
            }
            _ => verdict,
        }
    }

    /// A packet did not go on: if it has begun a connection, there is none.
    pub fn forget(&mut self, tracked: &Tracked) {
        if tracked.fresh {
            self.table.forget(tracked);
        }
    }

    /// Other ends for a packet that goes on.
    fn translate(
        &mut self,
        now: Instant,
        hook: Hook,
        view: &View<'_>,
        ends: Ends<'_>,
        of: &Tracked,
    ) -> Verdict {
        let part = match hook {
            Hook::Prerouting | Hook::Output => RECEIVER,
            Hook::Input | Hook::Postrouting => SENDER,
            Hook::Forward => return Verdict::Accept,
        };
        let Some(flow) = self.table.flow(of) else { return Verdict::Accept };
        if !flow.asked[part] && !of.reply && of.state == State::New {
            flow.asked[part] = true;
            let target = self.target(now, hook, view, ends, of);
            if !self.bind(of, part, target) {
                self.crowded += 1;
                self.forget(of);
                return Verdict::Drop;
            }
        }
        let Some(flow) = self.table.flow(of) else { return Verdict::Accept };
        // Answers are changed back where questions of the other kind are changed.
        let changed = if of.reply { flow.replaced[1 - part] } else { flow.replaced[part] };
        if !changed {
            return Verdict::Accept;
        }
        let now_is = flow.tuples[usize::from(!of.reply)].inverse();
        let (source, destination) = match part {
            SENDER => (Some((now_is.source, sender_port(&now_is))), None),
            _ => (None, Some((now_is.destination, receiver_port(&now_is)))),
        };
        Verdict::Translate(Rewrite { source, destination })
    }

    /// What the first translating rule that fits says.
    fn target(
        &mut self,
        now: Instant,
        hook: Hook,
        view: &View<'_>,
        ends: Ends<'_>,
        of: &Tracked,
    ) -> Option<Target> {
        let lines = &mut self.lines;
        let entries = &mut self.chains[hook as usize].translating;
        let entry =
            entries.iter_mut().find_map(|entry| entry.takes(now, view, ends, of.state).then_some(entry))?;
        entry.counts.add(view.len);
        if let Some(prefix) = &entry.rule.log {
            lines.add(now, || Line::text(prefix, hook, ends, view));
        }
        match &entry.rule.action {
            Action::Snat(target) | Action::Dnat(target) => Some(target.clone()),
            _ => None,
        }
    }

    /// Gives a new connection its other end. False: there is no port left for it.
    fn bind(&mut self, of: &Tracked, part: usize, target: Option<Target>) -> bool {
        let Some(flow) = self.table.flow(of) else { return true };
        let old = flow.tuples[1].inverse();
        let new = if part == RECEIVER {
            let Some(target) = target else { return true };
            self.receiver(old, &target)
        } else {
            match self.sender(of, old, target.as_ref()) {
                Some(new) => new,
                None => return false,
            }
        };
        if new != old {
            self.table.set_answer(of, new.inverse());
            if let Some(flow) = self.table.flow(of) {
                flow.replaced[part] = true;
            }
        }
        true
    }

    fn receiver(&mut self, old: Tuple, target: &Target) -> Tuple {
        let dport = match &target.ports {
            None => old.dport,
            Some(ports) => pick(ports, self.secret.draw() as u32),
        };
        Tuple { destination: target.address, dport, ..old }
    }

    /// A sender whose answers nobody else gets.
    fn sender(&mut self, of: &Tracked, old: Tuple, target: Option<&Target>) -> Option<Tuple> {
        let source = target.map_or(old.source, |target| target.address);
        let asked = target.and_then(|target| target.ports.clone());
        let wished = Tuple { source, ..old };
        let in_range = asked.as_ref().is_none_or(|ports| ports.contains(&old.sport));
        if in_range && self.table.is_free(of, &wished.inverse()) {
            return Some(wished);
        }
        if !has_ports(old.protocol) {
            // Two of a kind: answers go to the first.
            return (target.is_none()).then_some(wished);
        }
        let ports = asked.unwrap_or(match old.sport {
            _ if !matches!(old.protocol, TCP | UDP | UDP_LITE) => 0..=u16::MAX,
            0..512 => 1..=511,
            512..1024 => 512..=1023,
            _ => 1024..=u16::MAX,
        });
        let start = self.secret.draw() as u32;
        let mut tried =
            (0..PORTS_TRIED).map(|n| Tuple { sport: pick(&ports, start.wrapping_add(n)), ..wished });
        tried.find(|tuple| self.table.is_free(of, &tuple.inverse()))
    }
}

/// Whose end is replaced: an index.
const RECEIVER: usize = 0;
/// As above.
const SENDER: usize = 1;

/// Has it something to tell connections apart besides addresses?
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | UDP_LITE | super::packet::ICMP | super::packet::ICMPV6)
}

fn pick(ports: &RangeInclusive<u16>, n: u32) -> u16 {
    let count = u32::from(*ports.end()) - u32::from(*ports.start()) + 1;
    ports.start() + (n % count) as u16
}

fn sender_port(tuple: &Tuple) -> u16 {
    tuple.sport
}

/// The ident of an echo stands on the sender's side of the tuple.
fn receiver_port(tuple: &Tuple) -> u16 {
    match tuple.protocol {
        super::packet::ICMP | super::packet::ICMPV6 => tuple.sport,
        _ => tuple.dport,
    }
}

impl Entry {
    /// Does the rule take the packet? Its limit counts those that fit otherwise.
    fn takes(&mut self, now: Instant, view: &View<'_>, ends: Ends<'_>, state: State) -> bool {
        if !self.fits(view, ends, state) {
            return false;
        }
        let Some(Limit { packets, per, burst }) = self.rule.limit else { return true };
        let price = Duration::from_secs(per.seconds()) / packets;
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + price;
        let room = full_at <= now + price * burst;
        if room {
            self.full_at = Some(full_at);
        }
        room
    }

    fn fits(&self, view: &View<'_>, ends: Ends<'_>, state: State) -> bool {
        let rule = &self.rule;
        let named = |list: &Option<super::rule::List<String>>, name: &str| {
            list.as_ref().is_none_or(|list| list.holds(|one| one == name))
        };
        let within = |list: &Option<super::rule::List<IpNet>>, address: IpAddr| {
            list.as_ref().is_none_or(|list| list.holds(|net| net.contains(&address)))
        };
        let ports = |list: &Option<super::rule::List<RangeInclusive<u16>>>, of: fn((u16, u16)) -> u16| {
            list.as_ref().is_none_or(|list| {
                view.ports().is_some_and(|both| list.holds(|range| range.contains(&of(both))))
            })
        };
        rule.family().is_none_or(|v4| v4 == view.source.is_ipv4())
            && rule.protocols.as_ref().is_none_or(|list| list.holds(|one| *one == view.protocol))
            && rule.states.as_ref().is_none_or(|list| list.holds(|one| *one == state))
            && named(&rule.arrives, ends.arrives)
            && named(&rule.leaves, ends.leaves)
            && within(&rule.from, view.source)
            && within(&rule.to, view.destination)
            && ports(&rule.sport, |(sport, _)| sport)
            && ports(&rule.dport, |(_, dport)| dport)
            && rule
                .types
                .as_ref()
                .is_none_or(|list| view.kind().is_some_and(|kind| list.holds(|one| *one == kind)))
    }
}

#[cfg(test)]
mod tests;

//! From rules to what nf_tables does (nft(8) --debug=netlink prints the like).
//!
//! # Theory of operation
//! A rule is a run of expressions, each of which goes on or leaves the rule: loads into register 1, comparisons of it,
//! limit, log, counter, verdict. Several values of a condition are an anonymous set, of intervals where they are
//! ranges. A hook has two chains: the hook itself, whose one rule after the jump counts what is left and does what the
//! default says, and `HOOK-rules` for the rules; a third, `HOOK-nat`, is there if it translates.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::wire::{Attributes, Batch, Message};
use crate::filter::rule::{Action, Hook, Limit, List, Otherwise, Rule, State, Target};

/// The table with all of a stack's chains.
pub(super) const TABLE: &str = "viewnet";
/// The chain that tells senders that a packet is not wanted.
const REFUSE: &str = "refuse";
/// The group to which log lines go (nfnetlink_log).
pub(super) const LOG_GROUP: u16 = 1;
/// Bytes of a packet in a log line: IP's and the upper layer's headers.
pub(super) const LOGGED: u32 = 128;

// enum nft_*_attributes
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;
pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;
const LIST_ELEM: u16 = 1;

const REGISTER: u32 = 1;
const REGISTER_2: u32 = 2;
const REGISTER_3: u32 = 3;
/// NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// How much there is of one thing to compare, and nft(8)'s name for it.
#[derive(Debug, Clone, Copy)]
struct Type {
    number: u32,
    len: usize,
}

const NFPROTO: Type = Type { number: 2, len: 1 };
const ADDRESS4: Type = Type { number: 7, len: 4 };
const ADDRESS6: Type = Type { number: 8, len: 16 };
const PROTOCOL: Type = Type { number: 12, len: 1 };
const PORT: Type = Type { number: 13, len: 2 };
const ICMP_TYPE: Type = Type { number: 14, len: 1 };
const NAME: Type = Type { number: 41, len: 16 };

/// NFT_META_*
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

/// An expression.
fn expression(name: &str, data: &Attributes) -> Attributes {
    Attributes::default().text(EXPR_NAME, name).nest(EXPR_DATA, data)
}

/// The chains of all hooks, in a new table.
pub(super) fn table(batch: &mut Batch, otherwise: &[Otherwise; 5]) {
    let table = Attributes::default().text(1, TABLE);
    batch.add(Message::NewTable, NLM_F_CREATE, &table);
    chain(batch, REFUSE, None);
    let reset = [meta(META_L4PROTO), compare(0, &[6]), reject(1, 0)];
    rule_of(batch, REFUSE, &reset, &[]);
    // Port unreachable of either family.
    rule_of(batch, REFUSE, &[reject(2, 1)], &[]);
    for hook in Hook::ALL {
        chain(batch, &rules_of(hook), None);
        chain(batch, hook.name(), Some((hook, "filter", filter_priority(hook))));
        rule_of(batch, hook.name(), &[verdict(JUMP, Some(&rules_of(hook)))], &[]);
        let default = match otherwise[hook as usize] {
            Otherwise::Accept => ACCEPT,
            Otherwise::Drop => DROP,
        };
        // To look at the state of a packet is to have all packets tracked.
        rule_of(batch, hook.name(), &[state(), counter(), verdict(default, None)], &[]);
    }
}

/// Takes the table away, and does nothing where there is none.
pub(super) fn no_table(batch: &mut Batch) {
    let table = Attributes::default().text(1, TABLE);
    batch.add(Message::NewTable, NLM_F_CREATE, &table);
    batch.add(Message::DelTable, 0, &table);
}

/// A rule behind those of its chain; `handle` is how we find it.
pub(super) fn rule(batch: &mut Batch, rule: &Rule, handle: u64) {
    let mut of = Expressions { batch, list: Vec::new() };
    of.conditions(rule);
    if let Some(Limit { packets, per, burst }) = rule.limit {
        let data = Attributes::default();
        let data = data.long(1, packets.into()).long(2, per.seconds()).number(3, burst).number(4, 0);
        of.list.push(expression("limit", &data));
    }
    if let Some(prefix) = &rule.log {
        let data = Attributes::default().bytes(1, &LOG_GROUP.to_be_bytes()).number(3, LOGGED);
        // Each line is told at once.
        let data = data.bytes(4, &1u16.to_be_bytes());
        of.list.push(expression("log", &data.text(2, prefix)));
    }
    of.list.push(counter());
    match &rule.action {
        Action::Count => {}
        Action::Accept => of.list.push(verdict(ACCEPT, None)),
        Action::Drop => of.list.push(verdict(DROP, None)),
        Action::Reject => of.list.push(verdict(GOTO, Some(REFUSE))),
        Action::Snat(target) => of.translate(0, target),
        Action::Dnat(target) => of.translate(1, target),
    }
    let list = of.list;
    let name = chain_of(rule);
    if rule.translates() {
        chain(batch, &name, Some((rule.hook, "nat", nat_priority(rule.hook))));
    }
    rule_of(batch, &name, &list, &handle.to_be_bytes());
}

/// The chain that a rule is in.
pub(super) fn chain_of(rule: &Rule) -> String {
    if rule.translates() { format!("{}-nat", rule.hook.name()) } else { rules_of(rule.hook) }
}

fn rules_of(hook: Hook) -> String {
    format!("{}-rules", hook.name())
}

/// After connections are known (-200), before receivers are replaced (-100) and senders (100).
fn filter_priority(hook: Hook) -> i32 {
    match hook {
        Hook::Prerouting | Hook::Output => -150,
        Hook::Input | Hook::Forward | Hook::Postrouting => 0,
    }
}

fn nat_priority(hook: Hook) -> i32 {
    if hook == Hook::Postrouting { 100 } else { -100 }
}

/// NF_INET_*
fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

fn chain(batch: &mut Batch, name: &str, hook: Option<(Hook, &str, i32)>) {
    let mut chain = Attributes::default().text(1, TABLE).text(3, name);
    if let Some((hook, kind, priority)) = hook {
        let place = Attributes::default().number(1, hook_number(hook)).number(2, priority as u32);
        chain = chain.nest(4, &place).text(7, kind);
    }
    batch.add(Message::NewChain, NLM_F_CREATE, &chain);
}

fn rule_of(batch: &mut Batch, chain: &str, expressions: &[Attributes], userdata: &[u8]) {
    let list = expressions.iter().fold(Attributes::default(), |list, one| list.nest(LIST_ELEM, one));
    let mut rule = Attributes::default().text(RULE_TABLE, TABLE).text(RULE_CHAIN, chain);
    rule = rule.nest(RULE_EXPRESSIONS, &list);
    if !userdata.is_empty() {
        rule = rule.bytes(RULE_USERDATA, userdata);
    }
    batch.add(Message::NewRule, NLM_F_CREATE | NLM_F_APPEND, &rule);
}

const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;

fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let mut verdict = Attributes::default().number(1, code as u32);
    if let Some(chain) = chain {
        verdict = verdict.text(2, chain);
    }
    let data = Attributes::default().nest(2, &verdict);
    expression("immediate", &Attributes::default().number(1, 0).nest(2, &data))
}

fn immediate(register: u32, value: &[u8]) -> Attributes {
    expression("immediate", &Attributes::default().number(1, register).nest(2, &value_of(value)))
}

fn value_of(value: &[u8]) -> Attributes {
    Attributes::default().bytes(1, value)
}

fn meta(key: u32) -> Attributes {
    expression("meta", &Attributes::default().number(1, REGISTER).number(2, key))
}

fn state() -> Attributes {
    expression("ct", &Attributes::default().number(1, REGISTER).number(2, 0))
}

fn payload(base: u32, offset: u32, len: usize) -> Attributes {
    let data = Attributes::default().number(1, REGISTER).number(2, base).number(3, offset);
    expression("payload", &data.number(4, len as u32))
}

fn compare(operator: u32, value: &[u8]) -> Attributes {
    let data = Attributes::default().number(1, REGISTER).number(2, operator);
    expression("cmp", &data.nest(3, &value_of(value)))
}

fn counter() -> Attributes {
    expression("counter", &Attributes::default().long(1, 0).long(2, 0))
}

fn reject(kind: u32, code: u8) -> Attributes {
    expression("reject", &Attributes::default().number(1, kind).bytes(2, &[code]))
}

/// The expressions of a rule, and the batch into which its sets go before it.
struct Expressions<'b> {
    batch: &'b mut Batch,
    list: Vec<Attributes>,
}

impl Expressions<'_> {
    fn conditions(&mut self, rule: &Rule) {
        // NFPROTO_IPV4, NFPROTO_IPV6
        let family = rule.family();
        if let Some(v4) = family {
            self.any(meta(META_NFPROTO), NFPROTO, vec![point(&[if v4 { 2 } else { 10 }])], false);
        }
        for (names, key) in [(&rule.arrives, META_IIFNAME), (&rule.leaves, META_OIFNAME)] {
            if let Some(list) = names {
                self.any(
                    meta(key),
                    NAME,
                    list.any.iter().map(|name| point(&padded(name))).collect(),
                    list.not,
                );
            }
        }
        if let Some(list) = &rule.protocols {
            self.any(
                meta(META_L4PROTO),
                PROTOCOL,
                list.any.iter().map(|one| point(&[*one])).collect(),
                list.not,
            );
        }
        for (list, source) in [(&rule.from, true), (&rule.to, false)] {
            if let Some(list) = list {
                self.addresses(list, source);
            }
        }
        for (list, offset) in [(&rule.sport, 0), (&rule.dport, 2)] {
            if let Some(List { not, any }) = list {
                let ranges = any.iter().map(ports).collect();
                self.any(payload(TRANSPORT, offset, 2), PORT, ranges, *not);
            }
        }
        if let Some(List { not, any }) = &rule.types {
            self.any(
                payload(TRANSPORT, 0, 1),
                ICMP_TYPE,
                any.iter().map(|one| point(&[*one])).collect(),
                *not,
            );
        }
        if let Some(List { not, any }) = &rule.states {
            let mask = any.iter().fold(0, |mask, state| mask | state_bit(*state));
            let data = Attributes::default().number(1, REGISTER).number(2, REGISTER).number(3, 4);
            let data = data.nest(4, &value_of(&mask.to_ne_bytes())).nest(5, &value_of(&[0; 4]));
            self.list.extend([state(), expression("bitwise", &data), compare(u32::from(!not), &[0; 4])]);
        }
    }

    fn addresses(&mut self, list: &List<IpNet>, source: bool) {
        let v4 = list.any.first().is_some_and(|net| net.addr().is_ipv4());
        let (kind, offset) = match (v4, source) {
            (true, true) => (ADDRESS4, 12),
            (true, false) => (ADDRESS4, 16),
            (false, true) => (ADDRESS6, 8),
            (false, false) => (ADDRESS6, 24),
        };
        let range = |net: &IpNet| (octets(net.network()), octets(net.broadcast()));
        self.any(payload(NETWORK, offset, kind.len), kind, list.any.iter().map(range).collect(), list.not);
    }

    /// Goes on if what `load` loads is in one of the ranges, or with `not` in none.
    fn any(&mut self, load: Attributes, kind: Type, ranges: Vec<Range>, not: bool) {
        self.list.push(load);
        let ranges = merged(ranges);
        if let [(first, last)] = ranges.as_slice() {
            let operator = u32::from(not);
            self.list.push(if first == last {
                compare(operator, first)
            } else {
                let data = Attributes::default().number(1, REGISTER).number(2, operator);
                expression("range", &data.nest(3, &value_of(first)).nest(4, &value_of(last)))
            });
            return;
        }
        let id = self.set(kind, &ranges);
        let mut data = Attributes::default().text(1, SET).number(2, REGISTER).number(4, id);
        if not {
            data = data.number(5, 1);
        }
        self.list.push(expression("lookup", &data));
    }

    /// An anonymous set; its number within the batch.
    fn set(&mut self, kind: Type, ranges: &[Range]) -> u32 {
        const ANONYMOUS: u32 = 1;
        const CONSTANT: u32 = 2;
        const INTERVAL: u32 = 4;
        let intervals = ranges.iter().any(|(first, last)| first != last);
        let flags = ANONYMOUS | CONSTANT | if intervals { INTERVAL } else { 0 };
        let id = self.batch.sequence + 1;
        let set = Attributes::default().text(1, TABLE).text(2, SET).number(3, flags);
        let set = set.number(4, kind.number).number(5, kind.len as u32).number(10, id);
        self.batch.add(Message::NewSet, NLM_F_CREATE, &set);
        let mut elements = Attributes::default();
        let element = |list: Attributes, key: &[u8], end: bool| {
            let mut one = Attributes::default().nest(1, &value_of(key));
            if end {
                one = one.number(3, 1);
            }
            list.nest(LIST_ELEM, &one)
        };
        if intervals && ranges.first().is_some_and(|(first, _)| first.iter().any(|byte| *byte != 0)) {
            elements = element(elements, &vec![0; kind.len], true);
        }
        for (first, last) in ranges {
            elements = element(elements, first, false);
            if let Some(next) = successor(last).filter(|_| intervals) {
                elements = element(elements, &next, true);
            }
        }
        let list = Attributes::default().text(1, TABLE).text(2, SET).nest(3, &elements).number(4, id);
        self.batch.add(Message::NewSetElem, NLM_F_CREATE, &list);
        id
    }

    /// NFT_NAT_SNAT is 0, NFT_NAT_DNAT is 1.
    fn translate(&mut self, kind: u32, target: &Target) {
        let family = if target.address.is_ipv4() { 2 } else { 10 };
        self.list.push(immediate(REGISTER, &octets(target.address)));
        let mut data = Attributes::default().number(1, kind).number(2, family);
        data = data.number(3, REGISTER).number(4, REGISTER);
        if let Some(range) = &target.ports {
            self.list.push(immediate(REGISTER_2, &range.start().to_be_bytes()));
            self.list.push(immediate(REGISTER_3, &range.end().to_be_bytes()));
            data = data.number(5, REGISTER_2).number(6, REGISTER_3);
        }
        self.list.push(expression("nat", &data));
    }
}

/// The kernel gives each set of this name a number.
const SET: &str = "__set%d";

/// First and last value.
type Range = (Vec<u8>, Vec<u8>);

fn point(value: &[u8]) -> Range {
    (value.to_vec(), value.to_vec())
}

fn ports(range: &RangeInclusive<u16>) -> Range {
    (range.start().to_be_bytes().to_vec(), range.end().to_be_bytes().to_vec())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// IFNAMSIZ bytes.
fn padded(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// Sorted, and apart: the kernel refuses intervals that meet.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort();
    let mut all: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match all.last_mut() {
            Some((_, end)) if successor(end).is_none_or(|next| first <= next) => {
                *end = std::mem::take(end).max(last);
            }
            _ => all.push((first, last)),
        }
    }
    all
}

/// The value behind this one, if there is one.
fn successor(value: &[u8]) -> Option<Vec<u8>> {
    let mut next = value.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// NF_CT_STATE_BIT
fn state_bit(state: State) -> u32 {
    match state {
        State::Invalid => 1,
        State::Established => 2,
        State::Related => 4,
        State::New => 8,
        State::Untracked => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_meet_are_one() {
        let range = |first: u8, last: u8| (vec![first], vec![last]);
        let all = merged(vec![
            range(9, 12),
            range(1, 3),
            range(4, 4),
            range(2, 5),
            range(250, 255),
            range(254, 254),
        ]);
        assert_eq!(all, [range(1, 5), range(9, 12), range(250, 255)]);
        assert_eq!(successor(&[1, 255]), Some(vec![2, 0]));
        assert_eq!(successor(&[255, 255]), None);
    }
}

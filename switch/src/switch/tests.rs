//! The switch against a naive model of it, and the rules one at a time.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::frame::{TPID, TPID_SERVICE};
use crate::guard::{Exceed, Police};
use crate::stp::config::{Change, Edge, PortChange};
use crate::vlan::VidSet;

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
fn start() -> Instant {
    Instant::now()
}

fn vid(n: u16) -> Vid {
    Vid::new(n).unwrap()
}

fn access(n: u16) -> PortVlans {
    PortVlans::Access { vid: vid(n) }
}

fn frame(to: u8, from: u8, tci: Option<u16>) -> Vec<u8> {
    let to = if to == 0xFF { [0xFF; 6] } else { [2, 0, 0, 0, 0, to] };
    let mut bytes = [to, [2, 0, 0, 0, 0, from]].concat();
    if let Some(tci) = tci {
        bytes.extend([TPID.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    bytes.extend([0x88, 0xB5, 1, 2, 3, 4]);
    bytes
}

/// Sends one frame and returns (port, bytes on the wire), by port.
fn send(switch: &mut Switch, now: Instant, port: PortId, bytes: &[u8]) -> Vec<(PortId, Vec<u8>)> {
    let mut out = Egress::new();
    let Some(frame) = switch.handle_frame(now, port, &VnetHdr::default(), bytes, &mut out) else {
        assert!(out.as_slice().is_empty());
        return Vec::new();
    };
    let mut sent: Vec<_> = out
        .as_slice()
        .iter()
        .map(|t| {
            let (head, rest) = t.edit().apply(frame);
            (t.port, [head.as_ref(), rest].concat())
        })
        .collect();
    sent.sort();
    sent
}

#[test]
fn floods_then_learns() {
    let (now, mut s) = (start(), Switch::new(Duration::from_secs(300)));
    let p: Vec<PortId> =
        (0..3).map(|i| s.add_port(&format!("p{i}"), access(1), Offloads::ALL).unwrap()).collect();
    assert_eq!(send(&mut s, now, p[0], &frame(2, 1, None)).len(), 2);
    assert_eq!(send(&mut s, now, p[1], &frame(1, 2, None)), [(p[0], frame(1, 2, None))]);
    assert_eq!(send(&mut s, now, p[0], &frame(2, 1, None)), [(p[1], frame(2, 1, None))]);
    assert_eq!(
        s.vlan_counters(vid(1)),
        VlanCounters { rx_frames: 3, rx_bytes: 54, flooded: 1, ..VlanCounters::default() }
    );
    assert_eq!(send(&mut s, now, p[0], &frame(1, 1, None)), []);
    assert_eq!(s.port(p[0]).unwrap().counters.drops(DropReason::SamePort), 1);
    s.remove_port(p[1]);
    assert_eq!(send(&mut s, now, p[0], &frame(2, 1, None)).len(), 1, "unknown again, flooded");
    let later = now + Duration::from_secs(300);
    assert_eq!(send(&mut s, later, p[2], &frame(1, 3, None)).len(), 1);
    s.handle_timeout(later);
    assert_eq!(s.stations(later).count(), 1);
}

#[test]
fn names_are_unique_and_ids_are_used_again() {
    let mut s = Switch::new(Duration::from_secs(300));
    let a = s.add_port("a", access(1), Offloads::ALL).unwrap();
    assert_eq!(s.add_port("a", access(1), Offloads::ALL), Err(PortError::NameTaken("a".into())));
    assert_eq!(s.add_port("", access(1), Offloads::ALL), Err(PortError::BadName));
    let b = s.add_port(&s.free_name(), access(1), Offloads::ALL).unwrap();
    assert_eq!(s.rename(b, "a"), Err(PortError::NameTaken("a".into())));
    s.rename(b, "b").unwrap();
    s.rename(b, "b").unwrap();
    assert_eq!((s.find("b"), s.find("p2")), (Some(b), None));
    s.remove_port(a).unwrap();
    assert!(s.remove_port(a).is_none());
    assert_eq!(s.add_port("c", access(1), Offloads::ALL).unwrap(), a);
    assert_eq!(s.port_count(), 2);
}

#[test]
fn a_vlan_is_removed_from_trunks_but_not_from_under_a_port() {
    let mut s = Switch::new(Duration::from_secs(300));
    let trunk = PortVlans::Trunk { native: Some(vid(1)), allowed: VidSet::all() };
    let t = s.add_port("t", trunk, Offloads::ALL).unwrap();
    let a = s.add_port("a", access(7), Offloads::ALL).unwrap();
    assert_eq!(s.remove_vlan(vid(7)), Err(a));
    assert_eq!(s.remove_vlan(vid(1)), Err(t));
    s.name_vlan(vid(8), "lab");
    assert_eq!(s.vlans().map(Vid::number).collect::<Vec<_>>(), [1, 7, 8]);
    s.remove_vlan(vid(8)).unwrap();
    assert_eq!(s.port(t).unwrap().vlans.to_string(), "trunk 1-7,9-4094 native 1");
    assert_eq!(s.members(vid(8)).count(), 0);
    assert_eq!(s.members(vid(9)).collect::<Vec<_>>(), [(t, vlan::Egress::Tagged)]);
}

/// A frame with these tags, outermost first; true is a service tag.
fn stacked(tags: &[(bool, u16)]) -> Vec<u8> {
    let mut bytes = vec![0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 0, 0, 0, 1];
    for (service, tci) in tags {
        let tpid = if *service { TPID_SERVICE } else { TPID };
        bytes.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    bytes.extend([0x88, 0xB5, 1, 2, 3, 4]);
    bytes
}

proptest! {
    /// Through any two kinds of port: what lies behind the port's own tag is untouched, and the priority that came
    /// is the priority that leaves, wherever there is a tag to tell it.
    #[test]
    fn priority_and_inner_tags_survive(
        from in 0..5u8,
        to in 0..5u8,
        tags in prop::collection::vec((any::<bool>(), any::<u16>()), 0..4),
    ) {
        let all = VidSet::all();
        let kind = |n| match n {
            0 => PortVlans::Trunk { native: Some(vid(1)), allowed: all.clone() },
            1 => PortVlans::Service { native: Some(vid(1)), allowed: all.clone() },
            2 => PortVlans::Hybrid { pvid: Some(vid(1)), allowed: all.clone(), untagged: VidSet::none() },
            3 => PortVlans::Tunnel { vid: vid(1) },
            _ => access(1),
        };
        let (now, mut s) = (start(), Switch::new(Duration::from_secs(300)));
        let ports = [s.add_port("a", kind(from), Offloads::ALL), s.add_port("b", kind(to), Offloads::ALL)];
        let bytes = stacked(&tags);
        let sent = send(&mut s, now, ports[0].clone().unwrap(), &bytes);
        let Some((_, out)) = sent.first() else { return Ok(()) };
        // Which tag is the port's own, as the standard has it.
        let own = match (from, tags.first()) {
            (0 | 2 | 4, Some((false, tci))) | (1, Some((true, tci))) => Some(*tci),
            _ => None,
        };
        let inner = if own.is_some() { &tags[1..] } else { &tags[..] };
        let told = own.or_else(|| inner.first().filter(|(service, _)| !service).map(|(_, tci)| *tci)).unwrap_or(0);
        let number = own.map(|tci| tci & 0xFFF).filter(|n| *n != 0).unwrap_or(1);
        let tag = match (to, number) {
            (0 | 1, 1) | (3 | 4, _) => None,
            (to, number) => Some((to == 1, told & 0xF000 | number)),
        };
        let expected: Vec<_> = tag.into_iter().chain(inner.iter().copied()).collect();
        prop_assert_eq!(out, &stacked(&expected));
    }
}

#[test]
fn a_shut_port_is_as_good_as_gone() {
    let (now, mut s) = (start(), Switch::new(Duration::from_secs(300)));
    let [a, b] = ["a", "b"].map(|name| s.add_port(name, access(1), Offloads::ALL).unwrap());
    s.pin(now, vid(1), Mac([2, 0, 0, 0, 0, 9]), b).unwrap();
    s.shut_port(now, b, Shut::Admin);
    s.set_vlans(b, access(1));
    for to in [9, 0xFF] {
        assert_eq!(send(&mut s, now, a, &frame(to, 1, None)), []);
    }
    assert_eq!(send(&mut s, now, b, &frame(0xFF, 2, None)), []);
    assert_eq!(s.port(b).unwrap().counters.drops(DropReason::Shut), 1);
    s.open_port(now, b);
    s.open_port(now, b);
    assert_eq!(send(&mut s, now, a, &frame(9, 1, None)).len(), 1);
    assert_eq!(send(&mut s, now, a, &frame(0xFF, 1, None)).len(), 1);
}

#[test]
fn a_vlan_keeps_its_rate_on_all_ports_together() {
    let (now, mut s) = (start(), Switch::new(Duration::from_secs(300)));
    let ids = ["a", "b", "c"].map(|name| s.add_port(name, access(1), Offloads::ALL).unwrap());
    let police = Police { rate: "8k".parse().unwrap(), burst_bytes: Some(180), exceed: Exceed::Drop };
    s.set_vlan_police(vid(1), Some(police));
    let sent: usize = (0..20).map(|n| send(&mut s, now, ids[n % 2], &frame(0xFF, n as u8, None)).len()).sum();
    assert_eq!(sent, 2 * 10, "180 bytes are ten frames, each to two ports");
    assert_eq!(s.vlan_counters(vid(1)).limited, 10);
    let later = now + Duration::from_millis(18);
    assert_eq!(send(&mut s, later, ids[0], &frame(0xFF, 1, None)).len(), 2);
    s.remove_vlan(vid(1)).unwrap_err();
    s.set_vlan_police(vid(1), None);
    assert_eq!(send(&mut s, later, ids[0], &frame(0xFF, 1, None)).len(), 2);
}

#[test]
fn the_spanning_tree_opens_and_closes_ports() {
    let (now, mut s) = (start(), Switch::new(Duration::from_secs(300)));
    s.set_address(Mac([2, 0, 0, 0, 0, 1]));
    let trunk = PortVlans::Trunk { native: Some(vid(1)), allowed: VidSet::all() };
    let p: Vec<PortId> = [access(1), trunk, access(1)]
        .into_iter()
        .zip(["a", "b", "c"])
        .map(|(rules, name)| s.add_port(name, rules, Offloads::ALL).unwrap())
        .collect();
    assert_eq!(send(&mut s, now, p[0], &frame(0xFF, 1, None)).len(), 2);
    s.set_stp_port(now, p[2], &PortChange { edge: Some(Edge::On), ..PortChange::default() }).unwrap();
    s.set_stp(now, &Change { enabled: Some(true), ..Change::default() }).unwrap();
    assert_eq!(s.stations(now).count(), 0, "they may be elsewhere");
    // The edge port forwards at once, the others neither take nor give.
    assert_eq!(send(&mut s, now, p[2], &frame(0xFF, 3, None)), []);
    assert_eq!(send(&mut s, now, p[0], &frame(3, 1, None)), []);
    assert_eq!(s.port(p[0]).unwrap().counters.drops(DropReason::Blocked), 1);
    assert_eq!(s.members(vid(1)).count(), 3, "they are members nevertheless");
    assert_eq!(s.vlans().collect::<Vec<_>>(), [vid(1)]);
    // BPDUs are written, and heard, and not counted as dropped.
    let (to, bpdu) = s.poll_bpdu().unwrap();
    let before = s.port(to).unwrap().counters.all_drops();
    s.handle_frame(now, to, &VnetHdr::default(), &bpdu, &mut Egress::new());
    assert_eq!(s.port(to).unwrap().counters.all_drops(), before);
    s.set_vlans(p[0], access(2));
    s.set_vlans(p[0], access(1));
    for n in 1..=5 {
        s.handle_timeout(now + Duration::from_secs(n));
    }
    let now = now + Duration::from_secs(5);
    assert_eq!(send(&mut s, now, p[0], &frame(0xFF, 1, None)).len(), 2, "nobody else was heard");
    s.set_link(now, p[1], false);
    assert_eq!(send(&mut s, now, p[0], &frame(0xFF, 1, None)).len(), 1);
    s.set_stp(now, &Change { enabled: Some(false), ..Change::default() }).unwrap();
    assert_eq!(send(&mut s, now, p[0], &frame(0xFF, 1, None)).len(), 2);
    assert!(s.poll_bpdu().is_none());
}

#[test]
fn the_spanning_tree_has_numbers_for_4095_ports() {
    let (now, mut s) = (start(), Switch::new(Duration::from_secs(300)));
    let on = Change { enabled: Some(true), ..Change::default() };
    let ids: Vec<PortId> = (0..stp::MAX_PORTS + 1)
        .map(|n| s.add_port(&format!("p{n}"), access(1), Offloads::ALL).unwrap())
        .collect();
    assert_eq!(s.set_stp(now, &on), Err(StpError::TooManyPorts));
    s.remove_port(ids[7]).unwrap();
    s.remove_port(ids[stp::MAX_PORTS]).unwrap();
    s.set_stp(now, &on).unwrap();
    assert_eq!(s.add_port("x", access(1), Offloads::ALL), Ok(ids[7]), "not the number that was free last");
    assert_eq!(s.add_port("y", access(1), Offloads::ALL), Err(PortError::NoNumber));
}

/// Not a benchmark: a cost per port would make the larger switch slower by a factor of thousands.
#[test]
fn a_frame_to_a_known_station_costs_the_same_with_thousands_of_ports() {
    let cost = |ports: usize| {
        let mut s = Switch::new(Duration::from_secs(300));
        let trunk = PortVlans::Trunk { native: Some(vid(1)), allowed: VidSet::all() };
        let ids: Vec<PortId> = (0..ports)
            .map(|i| {
                let rules = if i % 2 == 0 { access(1) } else { trunk.clone() };
                s.add_port(&format!("p{i}"), rules, Offloads::ALL).unwrap()
            })
            .collect();
        let (a, b) = (ids[0], ids[ports - 1]);
        let (there, back, hdr, mut out) =
            (frame(2, 1, None), frame(1, 2, None), VnetHdr::default(), Egress::new());
        let now = start();
        let round = |s: &mut Switch, out: &mut Egress| {
            for _ in 0..2000 {
                s.handle_frame(now, a, &hdr, &there, out).unwrap();
                s.handle_frame(now, b, &hdr, &back, out).unwrap();
                assert_eq!(out.as_slice().len(), 1);
            }
        };
        round(&mut s, &mut out);
        (0..20)
            .map(|_| {
                let began = start();
                round(&mut s, &mut out);
                began.elapsed()
            })
            .min()
            .unwrap()
    };
    let (few, many) = (cost(2), cost(MAX_PORTS));
    assert!(many < 20 * few, "{few:?} with 2 ports, {many:?} with {MAX_PORTS}");
}

#[derive(Debug, Clone)]
enum Op {
    Add(PortVlans),
    Remove(usize),
    Set(usize, PortVlans),
    Frame(usize, u8, u8, Option<u16>),
    Wait(u64),
    Flush(Option<u16>),
}

fn rules() -> impl Strategy<Value = PortVlans> {
    let some = (0..5u16, prop::collection::vec(1..5u16, 0..4)).prop_map(|(native, list)| PortVlans::Trunk {
        native: Vid::new(native),
        allowed: list.into_iter().map(vid).collect(),
    });
    let all = (0..5u16).prop_map(|n| PortVlans::Trunk { native: Vid::new(n), allowed: VidSet::all() });
    prop_oneof![(1..5u16).prop_map(access), some, all]
}

fn ops() -> impl Strategy<Value = Op> {
    let station = || prop_oneof![0..6u8, Just(0xFFu8)];
    let tci = prop::option::of(prop_oneof![0..6u16, 0x6000..0x6006u16, Just(4095)]);
    prop_oneof![
        2 => rules().prop_map(Op::Add),
        1 => (0..8usize).prop_map(Op::Remove),
        1 => ((0..8usize), rules()).prop_map(|(p, r)| Op::Set(p, r)),
        12 => (0..8usize, station(), 0..6u8, tci).prop_map(|(p, to, from, t)| Op::Frame(p, to, from, t)),
        1 => (0..400u64).prop_map(Op::Wait),
        1 => prop::option::of(1..5u16).prop_map(Op::Flush),
    ]
}

/// The standard read naively: every port is asked about every frame.
#[derive(Default)]
struct Model {
    ports: HashMap<PortId, PortVlans>,
    heard: HashMap<(Vid, u8), (PortId, Instant)>,
}

impl Model {
    fn frame(
        &mut self,
        now: Instant,
        from: PortId,
        to: u8,
        source: u8,
        tci: Option<u16>,
    ) -> Vec<(PortId, Vec<u8>)> {
        let number = tci.map_or(0, |t| t & 0xFFF);
        let vid = match &self.ports[&from] {
            PortVlans::Access { vid } if number == 0 => *vid,
            PortVlans::Trunk { native: Some(native), .. } if number == 0 => *native,
            PortVlans::Trunk { native, allowed } if (1..=4094).contains(&number) => {
                let v = vid(number);
                if *native == Some(v) || allowed.contains(v) { v } else { return Vec::new() }
            }
            _ => return Vec::new(),
        };
        self.heard.insert((vid, source), (from, now));
        let fresh = |at: Instant| now - at < Duration::from_secs(300);
        let known = self.heard.get(&(vid, to)).filter(|(_, at)| to != 0xFF && fresh(*at)).map(|(p, _)| *p);
        let mut sent = Vec::new();
        for (&port, rules) in &self.ports {
            if port == from || known.is_some_and(|k| k != port) {
                continue;
            }
            let out = match rules {
                PortVlans::Access { vid: own } if *own == vid => None,
                PortVlans::Trunk { native, .. } if *native == Some(vid) => None,
                PortVlans::Trunk { allowed, .. } if allowed.contains(vid) => {
                    Some(tci.unwrap_or(0) & 0xF000 | vid.number())
                }
                _ => continue,
            };
            sent.push((port, frame(to, source, out)));
        }
        sent.sort();
        sent
    }
}

proptest! {
    #[test]
    fn behaves_as_the_model(ops in prop::collection::vec(ops(), 1..200)) {
        let (mut now, mut s, mut model) = (start(), Switch::new(Duration::from_secs(300)), Model::default());
        for op in ops {
            let pick = |i: usize| {
                let ids: BTreeSet<PortId> = model.ports.keys().copied().collect();
                ids.iter().nth(i % ids.len().max(1)).copied()
            };
            match op {
                Op::Add(rules) if model.ports.len() < 8 => {
                    let id = s.add_port(&s.free_name(), rules.clone(), Offloads::ALL).unwrap();
                    prop_assert!(model.ports.insert(id, rules).is_none());
                }
                Op::Add(_) => {}
                Op::Remove(i) => if let Some(id) = pick(i) {
                    s.remove_port(id).unwrap();
                    model.ports.remove(&id);
                    model.heard.retain(|_, (p, _)| *p != id);
                },
                Op::Set(i, rules) => if let Some(id) = pick(i) {
                    s.set_vlans(id, rules.clone());
                    model.ports.insert(id, rules);
                    model.heard.retain(|_, (p, _)| *p != id);
                },
                Op::Frame(i, to, from, tci) => if let Some(id) = pick(i) {
                    let sent = send(&mut s, now, id, &frame(to, from, tci));
                    prop_assert_eq!(sent, model.frame(now, id, to, from, tci));
                },
                Op::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    s.handle_timeout(now);
                }
                Op::Flush(v) => {
                    s.flush(v.map(vid), None);
                    model.heard.retain(|(hv, _), _| v.is_some_and(|v| hv.number() != v));
                }
            }
            prop_assert_eq!(s.port_count(), model.ports.len());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(hdr: [u8; 10], bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let (now, mut s) = (start(), Switch::new(Duration::from_secs(300)));
        let trunk = PortVlans::Trunk { native: Some(vid(1)), allowed: VidSet::all() };
        let a = s.add_port("a", trunk, Offloads::ALL).unwrap();
        s.add_port("b", access(1), Offloads::NONE).unwrap();
        let hdr = VnetHdr::parse(hdr);
        let mut out = Egress::new();
        if let Some(frame) = s.handle_frame(now, a, &hdr, &bytes, &mut out) {
            for t in out.as_slice() {
                let _ = crate::offload::emit(&hdr, frame, t.edit(), Offloads::NONE, |_, _| std::ops::ControlFlow::Continue(()));
            }
        }
        let counted = s.port(a).unwrap().counters;
        prop_assert_eq!((counted.rx_frames, counted.rx_bytes), (1, bytes.len() as u64));
    }
}

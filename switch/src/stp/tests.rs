//! Networks of bridges in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::bpdu::Bpdu;
use super::config::{Change, Edge};
use super::*;

/// How long a BPDU is under way.
const LATENCY: Duration = Duration::from_millis(1);
/// In which time every network here comes to rest: maximum age, twice the forward delay, and some hellos.
const REST: u64 = 70;

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
fn start() -> Instant {
    Instant::now()
}

fn address(n: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, n as u8 + 1])
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A port in the network: which bridge, which port.
type End = (usize, u32);

/// A BPDU under way: when it arrives, the how manieth it is, and where.
type Flying = (Instant, u64, usize, u32, [u8; FRAME_LEN]);

struct Net {
    now: Instant,
    bridges: Vec<Bridge>,
    /// Who ignores RST BPDUs, as bridges do that are older than the protocol.
    old: Vec<bool>,
    links: Vec<(End, End, bool)>,
    peers: HashMap<End, (End, usize)>,
    flying: BinaryHeap<Reverse<Flying>>,
    sent: u64,
    flushed: Vec<End>,
    /// So many milliseconds more it takes on some links.
    slow: u64,
}

impl Net {
    /// Bridges with these parameters, and links between them, all up.
    fn new(configs: &[Config], links: &[(usize, usize)]) -> Self {
        let now = start();
        let mut bridges: Vec<Bridge> =
            configs.iter().enumerate().map(|(n, config)| Bridge::new(now, address(n), *config)).collect();
        let mut used = vec![0; configs.len()];
        let mut port = |bridge: usize| {
            let id: u32 = used[bridge];
            used[bridge] += 1;
            bridges[bridge].add_port(PortId::new(id), PortConfig::default(), true);
            (bridge, id)
        };
        let links: Vec<_> = links.iter().map(|&(a, b)| (port(a), port(b), true)).collect();
        let mut peers = HashMap::new();
        for (number, &(a, b, _)) in links.iter().enumerate() {
            peers.insert(a, (b, number));
            peers.insert(b, (a, number));
        }
        let old = configs.iter().map(|c| c.protocol == Protocol::Stp).collect();
        let flying = BinaryHeap::new();
        let mut net = Self { now, bridges, old, links, peers, flying, sent: 0, flushed: Vec::new(), slow: 0 };
        net.collect();
        net
    }

    fn rstp(count: usize, links: &[(usize, usize)]) -> Self {
        Self::new(&vec![Config::default(); count], links)
    }

    fn ring(count: usize) -> Self {
        Self::rstp(count, &(0..count).map(|n| (n, (n + 1) % count)).collect::<Vec<_>>())
    }

    /// Takes what the bridges have to send.
    fn collect(&mut self) {
        for (n, bridge) in self.bridges.iter_mut().enumerate() {
            while let Some((port, frame)) = bridge.poll_transmit() {
                let Some(&((peer, to), link)) = self.peers.get(&(n, port.index() as u32)) else { continue };
                let heard = !self.old[peer] || !matches!(Bpdu::parse(&frame), Ok(Bpdu::Rst(_)));
                if self.links[link].2 && heard {
                    self.sent += 1;
                    let late = Duration::from_millis((link as u64 * 7) % (self.slow + 1));
                    self.flying.push(Reverse((self.now + LATENCY + late, self.sent, peer, to, frame)));
                }
            }
            while let Some(event) = bridge.poll_event() {
                if let Event::Flush(port) = event {
                    self.flushed.push((n, port.index() as u32));
                }
            }
        }
    }

    /// The next thing happens, if it does before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let tick = self.bridges.iter().map(Bridge::poll_timeout).min().expect("there are bridges");
        let arrival = self.flying.peek().map(|Reverse((at, ..))| *at);
        let next = arrival.map_or(tick, |at| at.min(tick));
        if next > end {
            self.now = end;
            return false;
        }
        self.now = next;
        if arrival == Some(next) {
            let Reverse((_, _, bridge, port, frame)) = self.flying.pop().expect("just peeked");
            if self.links[self.peers[&(bridge, port)].1].2 {
                self.bridges[bridge].handle_frame(next, PortId::new(port), &frame);
            }
        } else {
            self.bridges.iter_mut().for_each(|b| b.handle_timeout(next));
        }
        self.collect();
        true
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Until the network is a spanning tree; how long it took, at most `limit`.
    fn until_spanning(&mut self, limit: Duration) -> Duration {
        let began = self.now;
        while !self.is_spanning() && self.step(began + limit) {}
        self.now - began
    }

    fn set_link(&mut self, number: usize, up: bool) {
        let (a, b, _) = self.links[number];
        self.links[number].2 = up;
        for (bridge, port) in [a, b] {
            self.bridges[bridge].set_link(self.now, PortId::new(port), up);
        }
        self.collect();
    }

    fn forwards(&self, (bridge, port): End) -> bool {
        self.bridges[bridge].role(PortId::new(port)).is_some_and(|(_, state)| state == State::Forwarding)
    }

    /// Which bridges are joined, by those links that `carries` says yes to; and whether these make a loop.
    fn joined(&self, carries: impl Fn(&(End, End, bool)) -> bool) -> (Vec<usize>, bool) {
        let mut group: Vec<usize> = (0..self.bridges.len()).collect();
        let mut looped = false;
        for link in self.links.iter().filter(|link| carries(link)) {
            let (a, b) = (group[link.0.0], group[link.1.0]);
            looped |= a == b;
            group.iter_mut().filter(|g| **g == b).for_each(|g| *g = a);
        }
        let first = |g: &usize| group.iter().position(|other| other == g).unwrap();
        (group.iter().map(first).collect(), looped)
    }

    /// Exactly what is joined by links is joined by forwarding ones, without a loop.
    fn is_spanning(&self) -> bool {
        let (tree, looped) = self.joined(|&(a, b, up)| up && self.forwards(a) && self.forwards(b));
        !looped && tree == self.joined(|&(_, _, up)| up).0
    }

    /// One root for all that are joined: the best of them.
    fn agrees_on_roots(&self) -> bool {
        let groups = self.joined(|&(_, _, up)| up).0;
        self.bridges.iter().enumerate().all(|(n, bridge)| {
            let best = (0..groups.len()).filter(|&m| groups[m] == groups[n]).map(|m| self.bridges[m].id());
            best.min() == Some(bridge.root().0)
        })
    }
}

#[test]
fn a_ring_of_five_heals_in_a_tenth_of_a_second() {
    let mut net = Net::ring(5);
    let took = net.until_spanning(secs(10));
    assert!(took < secs(1) && net.agrees_on_roots(), "{took:?}");
    net.run(secs(REST));
    for cut in 0..5 {
        assert!(net.is_spanning());
        net.set_link(cut, false);
        let took = net.until_spanning(secs(10));
        assert!(took < Duration::from_millis(100), "link {cut}: {took:?}");
        net.run(secs(10));
        assert!(net.is_spanning() && net.agrees_on_roots());
        net.set_link(cut, true);
        net.until_spanning(secs(10));
        net.run(secs(10));
    }
}

#[test]
fn the_root_goes_and_comes() {
    let mut net = Net::ring(5);
    net.run(secs(10));
    assert_eq!(net.bridges[3].root().0, net.bridges[0].id());
    net.set_link(0, false);
    net.set_link(4, false);
    net.run(secs(REST));
    assert!(net.is_spanning() && net.agrees_on_roots());
    let config = Change { priority: Some(4096), ..Change::default() }.apply(Config::default()).unwrap();
    let now = net.now;
    net.bridges[3].set_config(now, config);
    net.collect();
    net.run(secs(5));
    assert_eq!(net.bridges[1].root().0, net.bridges[3].id());
    assert!(net.is_spanning() && net.agrees_on_roots());
}

/// How long it takes until all agree for good after bridge 0 has died, and its links with it.
fn death(mut net: Net) -> Duration {
    let is_of_root = |link: &(End, End, bool)| link.0.0 == 0 || link.1.0 == 0;
    let gone: Vec<usize> = (0..net.links.len()).filter(|&n| is_of_root(&net.links[n])).collect();
    gone.into_iter().for_each(|n| net.set_link(n, false));
    let (began, mut settled) = (net.now, net.now);
    while net.step(began + secs(30)) {
        if !(net.agrees_on_roots() && net.is_spanning()) {
            settled = net.now;
        }
    }
    settled - began
}

#[test]
fn nobody_tells_old_news_of_a_root_that_died() {
    let ring = |n: usize| (0..n).map(move |k| (1 + k, 1 + (k + 1) % n));
    let mesh = |n: usize| (0..n).flat_map(move |a| (a + 1..n).map(move |b| (a, b))).collect::<Vec<_>>();
    let right = (0..9).filter(|n| n % 3 < 2).map(|n| (n, n + 1));
    let networks = [
        ("in a ring", (0..5).map(|k| (k, (k + 1) % 5)).collect()),
        ("beside a ring of three", ring(3).chain([(0, 1)]).collect()),
        ("beside a ring of five", ring(5).chain([(0, 1)]).collect()),
        ("on two sides of a ring", ring(5).chain([(0, 1), (0, 3)]).collect()),
        ("in a full mesh", mesh(8)),
        ("in a grid", right.chain((0..6).map(|n| (n, n + 3))).collect()),
    ];
    for (name, links) in networks {
        let count = links.iter().map(|&(a, b): &(usize, usize)| a.max(b)).max().unwrap() + 1;
        // Links that take as long, or up to ten times as long as others.
        for slow in [0, 3, 9] {
            let mut net = Net::rstp(count, &links);
            net.slow = slow;
            net.run(secs(REST));
            assert!(net.is_spanning() && net.agrees_on_roots());
            let took = death(net);
            assert!(took < Duration::from_millis(100), "a root {name}, {slow}: {took:?}");
        }
    }
}

#[test]
fn two_links_to_the_same_bridge_and_one_to_itself() {
    let mut net = Net::rstp(2, &[(0, 1), (0, 1), (1, 1)]);
    net.run(secs(REST));
    assert!(net.is_spanning());
    let role = |net: &Net, bridge: usize, port| net.bridges[bridge].role(PortId::new(port)).unwrap();
    assert_eq!(role(&net, 1, 0), (Role::Root, State::Forwarding));
    assert_eq!(role(&net, 1, 1), (Role::Alternate, State::Discarding));
    assert_eq!(role(&net, 1, 2), (Role::Designated, State::Forwarding));
    assert_eq!(role(&net, 1, 3), (Role::Backup, State::Discarding));
    // The other link becomes cheaper.
    let cheap = PortChange { cost: Some(1), ..PortChange::default() };
    let now = net.now;
    net.bridges[1].set_port(now, PortId::new(1), &cheap).unwrap();
    net.collect();
    net.run(secs(1));
    assert_eq!(role(&net, 1, 1), (Role::Root, State::Forwarding));
    assert_eq!(role(&net, 1, 0), (Role::Alternate, State::Discarding));
}

#[test]
fn a_port_without_neighbour_is_the_edge_after_three_seconds() {
    let mut net = Net::rstp(1, &[]);
    let bridge = &mut net.bridges[0];
    for (n, edge) in [Edge::Auto, Edge::On, Edge::Off].into_iter().enumerate() {
        let config = PortConfig { edge, ..PortConfig::default() };
        bridge.add_port(PortId::new(n as u32), config, true);
    }
    let states = |net: &Net| [0, 1, 2].map(|n| net.forwards((0, n)));
    assert_eq!(states(&net), [false, true, false]);
    net.run(Duration::from_millis(4100));
    assert_eq!(states(&net), [true, true, false]);
    net.run(secs(REST));
    assert_eq!(states(&net), [true, true, true]);
    assert_eq!(net.bridges[0].report(net.now, |_| String::new()).topology_changes, 1, "edges change nothing");
}

#[test]
fn guards() {
    let mut net = Net::rstp(2, &[(0, 1)]);
    let now = net.now;
    let change = PortChange { bpdu_guard: Some(true), ..PortChange::default() };
    net.bridges[1].set_port(now, PortId::new(0), &change).unwrap();
    net.run(secs(5));
    let report = |net: &Net| net.bridges[1].report(net.now, |_| String::new()).ports.remove(0);
    assert!(report(&net).shut);
    assert_eq!((report(&net).role, report(&net).state), (Role::Disabled, State::Discarding));
    let now = net.now;
    let change = PortChange { bpdu_guard: Some(false), root_guard: Some(true), ..PortChange::default() };
    net.bridges[1].set_port(now, PortId::new(0), &change).unwrap();
    net.collect();
    net.run(secs(5));
    assert!(!report(&net).shut);
    assert_eq!((report(&net).role, report(&net).state), (Role::Alternate, State::Discarding));
    assert_eq!(net.bridges[1].root().0, net.bridges[1].id(), "not led by who is behind the guard");
}

#[test]
fn an_old_bridge_is_spoken_to_in_its_own_words() {
    let old = Config { protocol: Protocol::Stp, ..Config::default() };
    for root in [0, 1] {
        let mut configs = [Config::default(), old, Config::default()];
        configs[root].priority = 0;
        let mut net = Net::new(&configs, &[(0, 1), (1, 2), (2, 0)]);
        net.run(secs(REST));
        assert!(net.is_spanning() && net.agrees_on_roots());
        let spoken = |net: &Net, n: usize| {
            net.bridges[n]
                .report(net.now, |_| String::new())
                .ports
                .iter()
                .map(|p| p.protocol)
                .collect::<Vec<_>>()
        };
        assert_eq!(spoken(&net, 0), [Protocol::Stp, Protocol::Rstp]);
        net.flushed.clear();
        net.set_link(2, false);
        net.run(secs(REST));
        assert!(net.is_spanning() && net.agrees_on_roots());
        assert!(!net.flushed.is_empty());
        // The old one is replaced.
        net.old[1] = false;
        let now = net.now;
        net.bridges[1].set_config(now, configs[0]);
        net.bridges[0]
            .set_port(now, PortId::new(0), &PortChange { migrate: true, ..PortChange::default() })
            .unwrap();
        net.collect();
        net.run(secs(10));
        assert_eq!(spoken(&net, 0)[0], Protocol::Rstp);
    }
}

#[test]
fn a_topology_change_is_forgotten_everywhere_but_at_the_edge() {
    let mut net = Net::ring(5);
    let host = PortId::new(9);
    net.bridges[3].add_port(host, PortConfig { edge: Edge::On, ..PortConfig::default() }, true);
    net.run(secs(20));
    net.flushed.clear();
    net.run(secs(20));
    assert_eq!(net.flushed, []);
    net.set_link(0, false);
    net.run(secs(2));
    assert!((1..5).all(|n| net.flushed.iter().any(|(bridge, _)| *bridge == n)), "{:?}", net.flushed);
    assert!(!net.flushed.contains(&(3, 9)), "a host's address stays right");
}

#[test]
fn who_says_farewell_is_not_waited_for() {
    for one in [true, false] {
        let mut net = Net::ring(5);
        net.run(secs(REST));
        // Bridge 0 is the root; its first port leads to bridge 1.
        net.bridges[0].say_farewell(one.then(|| PortId::new(0)));
        net.collect();
        let gone = if one { &[0][..] } else { &[0, 4] };
        // Nobody sees the links go down, but the last word was on its way before.
        net.run(LATENCY);
        gone.iter().for_each(|&n| net.links[n].2 = false);
        for &n in gone {
            let (bridge, port) = if net.links[n].0.0 == 0 { net.links[n].0 } else { net.links[n].1 };
            net.bridges[bridge].remove_port(PortId::new(port));
        }
        net.collect();
        let took = net.until_spanning(secs(10));
        assert!(took < Duration::from_millis(100), "{one}: {took:?}");
        net.run(secs(REST));
        assert!(net.is_spanning() && net.agrees_on_roots());
    }
}

#[test]
fn a_silent_neighbour_ages_out() {
    let mut net = Net::ring(3);
    net.run(secs(10));
    // The link carries nothing any more, but looks up: found out after three hellos.
    net.links[0].2 = false;
    let took = net.until_spanning(secs(30));
    assert!(took <= secs(7), "{took:?}");
    net.run(secs(30));
    assert!(net.is_spanning());
}

/// Links, priorities, who is old, and links that change after so many milliseconds.
type Network = (Vec<(usize, usize)>, Vec<u16>, Vec<bool>, Vec<(usize, u64)>);

fn networks() -> impl Strategy<Value = Network> {
    (2..8usize).prop_flat_map(|n| {
        let link = (0..n, 0..n).prop_filter("a link to itself is tested apart", |(a, b)| a != b);
        (
            prop::collection::vec(link, 1..14),
            prop::collection::vec(0..4u16, n),
            prop::collection::vec(prop::bool::weighted(0.15), n),
            prop::collection::vec((0..14usize, 0..12_000u64), 0..8),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// Exactly one loop-free tree, also after links came and went, also with old bridges. On the way there may be
    /// a loop: old bridges do not doubt what they hear (`super::doubt`).
    #[test]
    fn any_network_becomes_a_tree((links, priorities, old, cuts) in networks()) {
        let configs: Vec<Config> = priorities.iter().zip(&old).map(|(priority, old)| Config {
            priority: priority * 4096,
            protocol: if *old { Protocol::Stp } else { Protocol::Rstp },
            ..Config::default()
        }).collect();
        let mut net = Net::new(&configs, &links);
        net.run(secs(REST));
        prop_assert!(net.is_spanning() && net.agrees_on_roots());
        for (number, wait_ms) in cuts {
            let number = number % links.len();
            net.set_link(number, !net.links[number].2);
            let end = net.now + Duration::from_millis(wait_ms);
            while net.step(end) {}
        }
        net.run(secs(REST));
        prop_assert!(net.is_spanning() && net.agrees_on_roots());
        let end = net.now + secs(30);
        while net.step(end) {
            prop_assert!(net.is_spanning());
        }
    }

    /// Neighbours that say anything: no panic, no storm of answers.
    #[test]
    fn liars_do_not_make_it_talk(lies in prop::collection::vec((0..4u32, any::<[u8; 36]>(), 0..3u8, 0..1500u64), 0..80)) {
        let mut net = Net::ring(3);
        net.bridges[0].add_port(PortId::new(2), PortConfig::default(), true);
        for (port, mut lie, kind, wait_ms) in lies {
            let mut frame = Bpdu::Tcn.to_frame(address(99));
            (lie[0], lie[1], lie[2], lie[3]) = (0, 0, 2, [0x80, 0, 2][kind as usize]);
            frame[13] = 39;
            frame[17..53].copy_from_slice(&lie);
            let now = net.now;
            net.bridges[0].handle_frame(now, PortId::new(port), &frame);
            prop_assert!(net.bridges[0].shared.out.len() <= 3 * 6);
            net.collect();
            net.run(Duration::from_millis(wait_ms));
        }
    }
}

//! A frame allocates nothing, whatever the switch has been told to do with frames: counted in a served switch, from
//! one ring to the other, feature by feature.

mod common;

use std::alloc::System;
use std::time::Duration;

use common::{Served, access, trunk};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use switch::client::traffic::{GuardSet, PortQos, QosSet, VlanSet};
use switch::client::{
    Attach, CaptureRule, Captured, Client, Impair, Kind, MirrorRule, Request, StpChange, StpPortChange,
};
use switch::guard::{Exceed, GuardRules, Police};
use switch::offload::VnetHdr;
use switch::ports::BUFFER_LEN;
use switch::ports::ring::{CAPACITY, Ring};
use switch::qos::queues::Shape;
use switch::stp::config::Edge;
use switch::vlan::{Vid, VidSet};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Frames that are counted, and as many before, in which queues and lists grow to their size.
const FRAMES: u32 = 20_000;
/// Frames sent before they are waited for.
const BATCH: u32 = 32;
/// Allocations that have to do with time, not with frames: timers, a hello of the spanning tree.
const BESIDES: usize = 50;
const VLAN: u16 = 10;

struct Station {
    ring: Ring,
    buffer: Vec<u8>,
    _client: Client,
}

impl Station {
    fn new(served: &Served, name: &str, attach: Attach) -> Self {
        let (ring, ends) = Ring::create(CAPACITY).unwrap();
        let mut client = served.client();
        client.add_ring(&ends, &Attach { name: Some(name.into()), ..attach }).unwrap();
        Self { ring, buffer: vec![0; BUFFER_LEN], _client: client }
    }

    fn send(&mut self, frame: &[u8]) {
        self.ring.send(&VnetHdr::default(), &[frame]);
    }

    /// Takes all frames that are there.
    fn take(&mut self) -> u32 {
        let mut taken = 0;
        while self.ring.receive(&mut self.buffer).unwrap().is_some() {
            taken += 1;
        }
        self.ring.flush();
        taken
    }
}

/// A trunk `a`, a station `b` on [`VLAN`], and a port `m` that sees what others tell it to.
struct World {
    served: Served,
    a: Station,
    b: Station,
    m: Station,
    capture: Option<Captured>,
    buffer: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let served = Served::new(None);
        let a = Station::new(&served, "a", trunk(Kind::Ring, "10,20", None));
        let b = Station::new(&served, "b", access(Kind::Ring, VLAN));
        let m = Station::new(&served, "m", access(Kind::Ring, 30));
        Self { served, a, b, m, capture: None, buffer: vec![0; BUFFER_LEN] }
    }

    fn tell(&self, request: &Request) {
        self.served.client().call::<()>(request).unwrap();
    }

    /// Sends frames from `a`, and from `b` back; all of them arrive.
    fn exchange(&mut self, there: &[u8], back: &[u8]) {
        let mut sent = 0;
        while sent < FRAMES {
            for _ in 0..BATCH {
                self.a.send(there);
                self.b.send(back);
            }
            self.a.ring.flush();
            self.b.ring.flush();
            sent += BATCH;
            let (mut at_a, mut at_b) = (0, 0);
            // What is under way is waited for without an allocation, too.
            for _ in 0..200_000 {
                (at_a, at_b) = (at_a + self.a.take(), at_b + self.b.take());
                let _ = self.m.take();
                while let Some(capture) = &mut self.capture
                    && capture.next(&mut self.buffer).unwrap().is_some()
                {}
                if at_a >= BATCH && at_b >= BATCH {
                    break;
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            assert!(at_a >= BATCH && at_b >= BATCH, "{at_a} and {at_b} of {BATCH} frames came");
        }
    }
}

fn frame(to: [u8; 6], from: u8, tag: Option<u16>) -> Vec<u8> {
    let mut frame = [to, [2, 0, 0, 0, 0, from]].concat();
    if let Some(tci) = tag {
        frame.extend([[0x81, 0x00], tci.to_be_bytes()].concat());
    }
    frame.extend([0x88, 0xB5]);
    frame.resize(100, from);
    frame
}

/// How many allocations frames cost in a switch that was told this.
fn count(set_up: impl FnOnce(&mut World), to_all: bool) -> usize {
    let mut world = World::new();
    set_up(&mut world);
    let address = |n| if to_all { [0xFF; 6] } else { [2, 0, 0, 0, 0, n] };
    let (there, back) = (frame(address(2), 1, Some(0xA000 | VLAN)), frame(address(1), 2, None));
    world.exchange(&there, &back);
    let region = Region::new(ALLOCATOR);
    world.exchange(&there, &back);
    let change = region.change();
    change.allocations + change.reallocations
}

fn police() -> Police {
    Police { rate: "10G".parse().unwrap(), burst_bytes: None, exceed: Exceed::Mark }
}

fn shape(world: &mut World, rate: Option<&str>, classes: &str) {
    let classes = classes.split(',').map(|class| class.parse().unwrap()).collect();
    let rate = rate.map(|rate| rate.parse().unwrap());
    let shape = Some(Shape { rate, classes, ..Shape::default() });
    for port in ["a", "b"] {
        let qos = PortQos { shape: shape.clone(), police: Some(police()), ..PortQos::default() };
        world.tell(&Request::QosSet(QosSet { port: port.into(), qos }));
    }
}

fn impair(world: &mut World, spec: &str) {
    for port in ["a", "b"] {
        let [ingress, egress] = [Some(spec.parse().unwrap()), Some(spec.parse().unwrap())];
        world.tell(&Request::Impair(Impair { port: port.into(), ingress, egress, seed: Some(1) }));
    }
}

fn span(world: &mut World) {
    world.tell(&Request::StpSet(StpChange { enabled: Some(true), ..StpChange::default() }));
    for port in ["a", "b", "m"] {
        let change = StpPortChange { edge: Some(Edge::On), ..StpPortChange::default() };
        world.tell(&Request::StpPortSet { port: port.into(), change });
    }
}

fn guard(world: &mut World) {
    let rules = GuardRules { broadcast_fps: Some(10_000_000), mac_limit: Some(4), ..GuardRules::default() };
    for port in ["a", "b"] {
        world.tell(&Request::GuardSet(GuardSet { port: port.into(), guard: rules }));
    }
    world.tell(&Request::VlanSet(VlanSet { vid: Vid::new(VLAN).unwrap(), police: Some(police()) }));
}

fn mirror(world: &mut World) {
    let from = Some(vec!["a".to_owned(), "b".to_owned()]);
    let rule = MirrorRule { to: "m".into(), from, direction: Default::default(), vlans: VidSet::all() };
    world.tell(&Request::MirrorAdd(rule));
}

fn capture(world: &mut World) {
    let rule = CaptureRule { filter: "ether proto 0x88b5".into(), ..CaptureRule::default() };
    world.capture = Some(world.served.client().capture(&rule).unwrap());
}

/// One test, as everything in the process counts.
#[test]
fn no_frame_allocates() {
    type SetUp = fn(&mut World);
    let features: [(&str, SetUp); 9] = [
        ("nothing but VLANs", |_| ()),
        ("priorities and classes", |world| shape(world, None, "1,2,4,strict")),
        ("a rate", |world| shape(world, Some("10G"), "1,strict")),
        ("guards and policers", guard),
        ("a mirror", mirror),
        ("the spanning tree", span),
        ("a capture", capture),
        ("a link that doubles frames", |world| impair(world, "duplicate 1%, reorder 1%")),
        ("delay", |world| impair(world, "delay 200us uniform 100us, duplicate 1%")),
    ];
    for (name, set_up) in features {
        for to_all in [false, true] {
            let allocations = count(set_up, to_all);
            eprintln!("{name}, {}: {allocations}", if to_all { "flooded" } else { "one station" });
            assert!(allocations <= BESIDES, "{name}: {allocations} allocations for {} frames", 2 * FRAMES);
        }
    }
}

//! What a frame costs in the switch's core, without any port: the best of several runs, in nanoseconds.
//!
//!     cargo run --release -p switch --example core
//!
//! Where it is to (one station, a thousand ports), and how its tag changes. Run it before and after a change of the
//! frame path.

use std::hint::black_box;
use std::time::{Duration, Instant};

use switch::offload::VnetHdr;
use switch::port::Offloads;
use switch::switch::{Egress, Switch};
use switch::vlan::{PortVlans, Vid, VidSet};

/// Runs of each kind; the best is free of what else the machine does.
const RUNS: usize = 40;

#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn now() -> Instant {
    Instant::now()
}

fn frame(to: u8, from: u8, tci: Option<u16>) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from];
    if let Some(tci) = tci {
        frame.extend([[0x81, 0x00], tci.to_be_bytes()].concat());
    }
    frame.extend([0x88, 0xB5]);
    frame.resize(64, 0);
    frame
}

/// Nanoseconds for one frame from the first port, with `others` beside it.
fn measure(from: &PortVlans, others: &PortVlans, count: usize, tci: Option<u16>, to: u8) -> f64 {
    let mut switch = Switch::new(Duration::from_secs(300));
    let mut add = |name: &str, vlans: &PortVlans| switch.add_port(name, vlans.clone(), Offloads::ALL);
    let first = add("first", from).expect("a port");
    let ports: Vec<_> = (0..count).map(|n| add(&format!("p{n}"), others).expect("a port")).collect();
    let (start, hdr, mut egress) = (now(), VnetHdr::default(), Egress::new());
    let answer = if others.pvid().is_some() { frame(1, 2, None) } else { frame(1, 2, Some(10)) };
    switch.handle_frame(start, ports[0], &hdr, &answer, &mut egress);
    let bytes = frame(to, 1, tci);
    let times = if count > 10 { 1_000 } else { 200_000 };
    let run = || {
        let begin = now();
        for _ in 0..times {
            black_box(switch.handle_frame(start, first, &hdr, black_box(&bytes), &mut egress));
            assert!(!black_box(egress.as_slice()).is_empty());
        }
        begin.elapsed().as_secs_f64() * 1e9 / f64::from(times)
    };
    std::iter::repeat_with(run).take(RUNS).fold(f64::INFINITY, f64::min)
}

fn main() {
    let access = PortVlans::Access { vid: Vid::new(10).expect("a VLAN") };
    let trunk = PortVlans::Trunk { native: None, allowed: VidSet::all() };
    println!("one station, no tags      {:>8.1} ns", measure(&access, &access, 2, None, 2));
    println!("one station, tag in       {:>8.1} ns", measure(&access, &trunk, 2, None, 2));
    println!("one station, tag out      {:>8.1} ns", measure(&trunk, &access, 2, Some(10), 2));
    println!("one station, tag kept     {:>8.1} ns", measure(&trunk, &trunk, 2, Some(0xA00A), 2));
    println!("a thousand ports, no tags {:>8.1} ns", measure(&access, &access, 1000, None, 9));
    println!("a thousand trunks         {:>8.1} ns", measure(&access, &trunk, 1000, None, 9));
}

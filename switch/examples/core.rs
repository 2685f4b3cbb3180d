//! What a frame costs in the switch's core, without any port: the best of several runs, in nanoseconds.
//!
//!     cargo run --release -p switch --example core [curve]
//!
//! Where it is to (one station, a thousand ports), how its tag changes, and how many ports and stations there are. Run
//! it before and after a change of the frame path.

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

/// Frames that the switch takes from a port at once; they are in the nearest cache then, as here.
const BATCH: usize = 64;
/// Stations behind one port at most, in [`curve`].
const PER_PORT: usize = 10_000;

/// Nanoseconds for one frame between any two of `stations`, which sit behind `ports` ports and are heard in no order.
/// First all of them are heard once: that is the second figure.
fn curve(ports: usize, stations: usize) -> (f64, f64) {
    let access = PortVlans::Access { vid: Vid::new(10).expect("a VLAN") };
    let mut switch = Switch::new(Duration::from_secs(300));
    let name = |n| format!("p{n}");
    let ids: Vec<_> = (0..ports)
        .map(|n| switch.add_port(&name(n), access.clone(), Offloads::ALL).expect("a port"))
        .collect();
    let (start, hdr, mut egress) = (now(), VnetHdr::default(), Egress::new());
    // As the makers of network cards number them: three bytes of the maker's, three that count.
    let mac = |n: usize| [0x02, 0x1B, 0x21, (n >> 16) as u8, (n >> 8) as u8, n as u8];
    let mut batch: Vec<_> = (0..BATCH).map(|_| frame(0, 0, None)).collect();
    let learning = now();
    for n in 0..stations {
        batch[0][..6].copy_from_slice(&mac((n + 1) % stations));
        batch[0][6..12].copy_from_slice(&mac(n));
        switch.handle_frame(start, ids[n % ports], &hdr, &batch[0], &mut egress);
    }
    let learned = learning.elapsed().as_secs_f64() * 1e9 / stations as f64;
    assert_eq!(switch.fdb().len(), stations, "all are known");
    let mut random = oorandom::Rand32::new(1);
    let mut any = || random.rand_range(0..stations as u32) as usize;
    let mut run = || {
        let (mut spent, times) = (Duration::ZERO, (stations / BATCH).max(1000));
        for _ in 0..times {
            let from = any();
            for frame in &mut batch {
                // Another station of the same port; a frame to where it comes from would be dropped.
                let source = (any() / ports * ports + from % ports) % (stations / ports * ports);
                let to = std::iter::repeat_with(&mut any).find(|to| to % ports != source % ports);
                frame[..6].copy_from_slice(&mac(to.expect("there are others")));
                frame[6..12].copy_from_slice(&mac(source));
            }
            let begin = now();
            switch.foresee(ids[from % ports], batch.iter().map(Vec::as_slice));
            for frame in &batch {
                black_box(switch.handle_frame(start, ids[from % ports], &hdr, black_box(frame), &mut egress));
                assert_eq!(black_box(egress.as_slice()).len(), 1);
            }
            spent += begin.elapsed();
        }
        spent.as_secs_f64() * 1e9 / (times * BATCH) as f64
    };
    let _ = run();
    (std::iter::repeat_with(run).take(5).fold(f64::INFINITY, f64::min), learned)
}

fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == "curve") {
        for ports in [2, 10, 100, 1000] {
            println!("ports     {ports:>7} {:>8.1} ns", curve(ports, 10 * ports).0);
        }
        for stations in [10, 100, 1000, 10_000, 30_000, 100_000] {
            let (each, learned) = curve((stations / PER_PORT + 1).max(2), stations);
            println!("stations  {stations:>7} {each:>8.1} ns   (heard first: {learned:.1} ns)");
        }
        return;
    }
    let access = PortVlans::Access { vid: Vid::new(10).expect("a VLAN") };
    let trunk = PortVlans::Trunk { native: None, allowed: VidSet::all() };
    println!("one station, no tags      {:>8.1} ns", measure(&access, &access, 2, None, 2));
    println!("one station, tag in       {:>8.1} ns", measure(&access, &trunk, 2, None, 2));
    println!("one station, tag out      {:>8.1} ns", measure(&trunk, &access, 2, Some(10), 2));
    println!("one station, tag kept     {:>8.1} ns", measure(&trunk, &trunk, 2, Some(0xA00A), 2));
    println!("a thousand ports, no tags {:>8.1} ns", measure(&access, &access, 1000, None, 9));
    println!("a thousand trunks         {:>8.1} ns", measure(&access, &trunk, 1000, None, 9));
}

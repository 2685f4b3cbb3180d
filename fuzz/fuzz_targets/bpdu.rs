//! Any bytes as BPDUs on two bridges joined by a link, at any time: no panic, machines that come to rest, and what
//! is written is read back as the same.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use switch::frame::Mac;
use switch::port::PortId;
use switch::stp::Bridge;
use switch::stp::bpdu::Bpdu;
use switch::stp::config::{Change, Config, PortChange, PortConfig};

#[derive(Debug, Arbitrary)]
enum Step {
    /// A frame with the right beginning, as far as asked for.
    Hear {
        port: u8,
        keep: u8,
        bytes: Vec<u8>,
    },
    Link {
        port: u8,
        up: bool,
    },
    Wait(u16),
    Port {
        port: u8,
        cost: u32,
        priority: u8,
        guard: Option<bool>,
        migrate: bool,
    },
    Bridge {
        priority: u16,
    },
    Remove(u8),
    Add(u8),
    Farewell(Option<u8>),
}

fuzz_target!(|steps: Vec<Step>| {
    let mut now = Instant::now();
    let mut bridges = [1, 2].map(|n| Bridge::new(now, Mac([2, 0, 0, 0, 0, n]), Config::default()));
    for bridge in &mut bridges {
        (0..4).for_each(|n| bridge.add_port(PortId::new(n), PortConfig::default(), true));
    }
    for step in steps.into_iter().take(256) {
        let id = |port: u8| PortId::new(u32::from(port % 4));
        match step {
            Step::Hear { port, keep, bytes } => {
                let mut frame = Bpdu::Tcn.to_frame(Mac([2, 0, 0, 0, 0, 9])).to_vec();
                frame[13] = 39;
                frame.truncate(usize::from(keep % 24));
                frame.extend(bytes);
                if let Ok(bpdu @ (Bpdu::Config(_) | Bpdu::Rst(_))) = Bpdu::parse(&frame) {
                    assert_eq!(Bpdu::parse(&bpdu.to_frame(Mac([2; 6]))), Ok(bpdu));
                }
                bridges[0].handle_frame(now, id(port), &frame);
            }
            Step::Link { port, up } => drop(bridges[0].set_link(now, id(port), up)),
            Step::Wait(ms) => {
                now += Duration::from_millis(ms.into());
                bridges.iter_mut().for_each(|bridge| bridge.handle_timeout(now));
            }
            Step::Port { port, cost, priority, guard, migrate } => {
                let (cost, priority) = (Some(cost), Some(priority & 0xF0));
                let change =
                    PortChange { cost, priority, bpdu_guard: guard, migrate, ..PortChange::default() };
                let _ = bridges[0].set_port(now, id(port), &change);
            }
            Step::Bridge { priority } => {
                let change = Change { priority: Some(priority), ..Change::default() };
                if let Ok(config) = change.apply(bridges[0].config()) {
                    bridges[0].set_config(now, config);
                }
            }
            Step::Remove(port) => bridges[0].remove_port(id(port)),
            Step::Farewell(port) => bridges[0].say_farewell(port.map(id)),
            Step::Add(port) => bridges[0].add_port(id(port), PortConfig::default(), true),
        }
        // Port 0 of each leads to the other.
        for _ in 0..64 {
            let [a, b] = &mut bridges;
            let sent = [a.poll_transmit(), b.poll_transmit()];
            if sent == [None, None] {
                break;
            }
            for (n, (port, frame)) in sent.into_iter().enumerate().filter_map(|(n, s)| Some((n, s?))) {
                if port == PortId::new(0) {
                    bridges[1 - n].handle_frame(now, port, &frame);
                }
            }
        }
        for bridge in &mut bridges {
            while bridge.poll_event().is_some() {}
        }
    }
});

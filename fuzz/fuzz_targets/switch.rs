//! Any sequence of frames, changes and time on a switch: no panic, bounded tables, and never a frame back to
//! the port it came from or to a port outside its VLAN.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use switch::mirror::{Direction, Mirror};
use switch::offload::VnetHdr;
use switch::port::{Offloads, PortId};
use switch::switch::{Egress, Switch};
use switch::vlan::{PortVlans, Vid, VidSet};

#[derive(Debug, Arbitrary)]
enum Step {
    Add { access: Option<u16>, native: Option<u16>, allowed: Vec<u16> },
    Remove(u8),
    Vlans { port: u8, access: u16 },
    Frame { port: u8, to: u8, from: u8, tag: Option<u16> },
    Wait(u16),
    Flush { vid: Option<u16>, port: Option<u8> },
    Mirror { from: Option<u8>, to: u8, out: bool },
    MirrorRm(u8),
    Listen(bool),
}

fuzz_target!(|steps: Vec<Step>| {
    let mut switch = Switch::new(Duration::from_secs(30));
    let mut now = Instant::now();
    let mut egress = Egress::new();
    for (number, step) in steps.into_iter().take(512).enumerate() {
        match step {
            Step::Add { access, native, allowed } => {
                let vlans = match access.and_then(Vid::new) {
                    Some(vid) => PortVlans::Access { vid },
                    None => {
                        let mut set = VidSet::none();
                        allowed.into_iter().filter_map(Vid::new).for_each(|vid| set.insert(vid));
                        PortVlans::Trunk { native: native.and_then(Vid::new), allowed: set }
                    }
                };
                let _ = switch.add_port(&format!("p{number}"), vlans, Offloads::ALL);
            }
            Step::Mirror { from, to, out } => {
                let id = |port: u8| PortId::new(port.into());
                let direction = if out { Direction::Both } else { Direction::In };
                let from = from.map(|port| std::iter::once(id(port)).collect());
                let to = id(to);
                let _ = switch.set_mirror(Mirror {
                    from,
                    direction,
                    vlans: VidSet::all(),
                    to,
                    frames: 0,
                    bytes: 0,
                });
            }
            Step::MirrorRm(to) => drop(switch.remove_mirror(PortId::new(to.into()))),
            Step::Listen(is_on) => switch.events_mut().listen(is_on),
            Step::Remove(port) => drop(switch.remove_port(PortId::new(port.into()))),
            Step::Vlans { port, access } => {
                if let Some(vid) = Vid::new(access) {
                    switch.set_vlans(PortId::new(port.into()), PortVlans::Access { vid });
                }
            }
            Step::Frame { port, to, from, tag } => {
                let mut frame = vec![0u8; 64];
                (frame[0], frame[5], frame[6], frame[11]) = (to & 1, to, 2, from);
                if let Some(tag) = tag {
                    frame[12..16].copy_from_slice(&[0x81, 0, (tag >> 8) as u8, tag as u8]);
                }
                let from = PortId::new(port.into());
                if switch.handle_frame(now, from, &VnetHdr::default(), &frame, &mut egress).is_some() {
                    for transmit in egress.as_slice() {
                        assert_ne!(transmit.port, from);
                        assert!(switch.port(transmit.port).is_some());
                    }
                }
            }
            Step::Wait(seconds) => {
                now += Duration::from_secs(seconds.into());
                switch.handle_timeout(now);
            }
            Step::Flush { vid, port } => {
                switch.flush(vid.and_then(Vid::new), port.map(|p| PortId::new(p.into())));
            }
        }
    }
});

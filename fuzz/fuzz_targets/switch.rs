//! Any sequence of frames, changes and time on a switch: no panic, bounded tables, and never a frame back to
//! the port it came from or to a port outside its VLAN.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use switch::frame::{Mac, TPID, TPID_SERVICE};
use switch::guard::{Exceed, GuardRules, Police, Shut, Violation};
use switch::mirror::{Direction, Mirror};
use switch::offload::VnetHdr;
use switch::port::{Offloads, PortId};
use switch::qos::priority::{PcpMap, PriorityRules};
use switch::qos::rate::Rate;
use switch::switch::{Egress, Switch};
use switch::vlan::{PortVlans, Vid, VidSet};

#[derive(Debug, Arbitrary)]
enum Step {
    Add { access: Option<u16>, native: Option<u16>, allowed: Vec<u16>, mode: u8 },
    Remove(u8),
    Vlans { port: u8, access: u16 },
    Frame { port: u8, to: u8, from: u8, tags: Vec<(bool, u16)> },
    Guard { port: u8, storms: [Option<u8>; 3], macs: Option<u8>, shutdown: bool, rate: Option<u32> },
    Priorities { port: u8, default_pcp: u8, trust: bool, ingress: [u8; 8], egress: [u8; 8] },
    VlanRate { vid: u16, rate: Option<u32> },
    Pin { vid: u16, mac: u8, port: u8 },
    Unpin { vid: u16, mac: u8 },
    Open { port: u8, open: bool },
    RemoveVlan(u16),
    Wait(u16),
    Flush { vid: Option<u16>, port: Option<u8> },
    Mirror { from: Option<u8>, to: u8, out: bool },
    MirrorRm(u8),
    Listen(bool),
}

fn police(bps: u32) -> Option<Police> {
    let exceed = if bps % 2 == 0 { Exceed::Drop } else { Exceed::Mark };
    Rate::from_bps(bps.into()).map(|rate| Police { rate, burst_bytes: Some(bps % 100_000), exceed })
}

fuzz_target!(|steps: Vec<Step>| {
    let mut switch = Switch::new(Duration::from_secs(30));
    let mut now = Instant::now();
    let mut egress = Egress::new();
    for (number, step) in steps.into_iter().take(512).enumerate() {
        match step {
            Step::Add { access, native, allowed, mode } => {
                let vlans = match access.and_then(Vid::new) {
                    Some(vid) => PortVlans::Access { vid },
                    None => {
                        let mut set = VidSet::none();
                        allowed.into_iter().filter_map(Vid::new).for_each(|vid| set.insert(vid));
                        let native = native.and_then(Vid::new);
                        match (mode % 4, native) {
                            (1, _) => PortVlans::Service { native, allowed: set },
                            (2, pvid) => PortVlans::Hybrid { pvid, untagged: set, allowed: VidSet::all() },
                            (3, Some(vid)) => PortVlans::Tunnel { vid },
                            _ => PortVlans::Trunk { native, allowed: set },
                        }
                    }
                };
                let _ = switch.add_port(&format!("p{number}"), vlans, Offloads::ALL);
            }
            Step::Mirror { from, to, out } => {
                let id = |port: u8| PortId::new(port.into());
                let direction = if out { Direction::Both } else { Direction::In };
                let name = from.map(|port| format!("p{port}")).unwrap_or_default();
                let from = from.map(|port| std::iter::once((name.as_str(), id(port))).collect());
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
            Step::Frame { port, to, from, tags } => {
                let to = if to == 0xFF { [0xFF; 6] } else { [to & 1, 0, 0, 0, 0, to] };
                let mut frame = [to, [2, 0, 0, 0, 0, from]].concat();
                for (service, tci) in tags.into_iter().take(4) {
                    let tpid = if service { TPID_SERVICE } else { TPID };
                    frame.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
                }
                frame.resize(64, 0);
                let from = PortId::new(port.into());
                if let Some(view) = switch.handle_frame(now, from, &VnetHdr::default(), &frame, &mut egress) {
                    for transmit in egress.as_slice() {
                        assert_ne!(transmit.port, from);
                        let port = switch.port(transmit.port).expect("a port that is there");
                        let carries = port.mirror_target || port.vlans.carries(egress.vid());
                        assert!(port.shut.is_none() && carries);
                        let (head, rest) = transmit.edit().apply(view);
                        assert!((60..=68).contains(&(head.as_ref().len() + rest.len())));
                    }
                }
            }
            Step::Guard { port, storms, macs, shutdown, rate: limit } => {
                let [broadcast_fps, multicast_fps, unknown_fps] = storms.map(|fps| fps.map(u32::from));
                let violation = if shutdown { Violation::Shutdown } else { Violation::Drop };
                let mac_limit = macs.map(u32::from);
                let rules = GuardRules { broadcast_fps, multicast_fps, unknown_fps, mac_limit, violation };
                switch.set_guard(PortId::new(port.into()), rules);
                switch.set_police(PortId::new(port.into()), limit.and_then(police));
            }
            Step::Priorities { port, default_pcp, trust, ingress, egress } => {
                let map = |map: [u8; 8]| PcpMap::try_from(map).unwrap_or_default();
                let (ingress, egress) = (map(ingress), map(egress));
                let rules = PriorityRules { default_pcp: default_pcp % 8, trust, ingress, egress };
                switch.set_priorities(PortId::new(port.into()), rules);
            }
            Step::VlanRate { vid, rate: limit } => {
                if let Some(vid) = Vid::new(vid) {
                    switch.set_vlan_police(vid, limit.and_then(police));
                }
            }
            Step::Pin { vid, mac, port } => {
                let (vid, port) = (Vid::new(vid), PortId::new(port.into()));
                if let Some(vid) = vid.filter(|_| switch.port(port).is_some()) {
                    let _ = switch.pin(now, vid, Mac([2, 0, 0, 0, 0, mac]), port);
                }
            }
            Step::Unpin { vid, mac } => {
                if let Some(vid) = Vid::new(vid) {
                    switch.unpin(vid, Mac([2, 0, 0, 0, 0, mac]));
                }
            }
            Step::Open { port, open: true } => switch.open_port(now, PortId::new(port.into())),
            Step::Open { port, open: false } => switch.shut_port(now, PortId::new(port.into()), Shut::Admin),
            Step::RemoveVlan(vid) => {
                if let Some(vid) = Vid::new(vid) {
                    let _ = switch.remove_vlan(vid);
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

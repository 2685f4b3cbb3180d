//! Numbers that are kept, and the hub.

use std::time::{Duration, Instant};

use super::super::StpError;
use super::*;
use crate::guard::Shut;
use crate::vlan::VidSet;

const AGE: Duration = Duration::from_secs(300);

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
fn start() -> Instant {
    Instant::now()
}

fn access(n: u16) -> PortVlans {
    PortVlans::Access { vid: Vid::new(n).unwrap() }
}

#[test]
fn a_hub_repeats_everything() {
    let (now, mut switch) = (start(), Switch::new(AGE));
    let trunk = PortVlans::Trunk { native: None, allowed: VidSet::all() };
    let all = [("a", PortVlans::default()), ("b", access(20)), ("c", trunk)];
    let ports = all.map(|(name, vlans)| switch.add_port(name, vlans, Offloads::NONE).unwrap());
    switch.set_hub(true);
    let mut out = Egress::new();
    let tagged = [&[2, 0, 0, 0, 0, 2][..], &[2, 0, 0, 0, 0, 1], &[0x81, 0, 0, 77, 8, 0], &[0; 46]].concat();
    let bpdu = [&[0x01, 0x80, 0xC2, 0, 0, 0][..], &[2, 0, 0, 0, 0, 1], &[0, 39], &[0; 46]].concat();
    for frame in [&tagged, &bpdu] {
        let given = switch.handle_frame(now, ports[0], &VnetHdr::default(), frame, &mut out);
        assert!(given.is_some());
        let to: Vec<_> = out.as_slice().iter().map(|t| (t.port, t.edit())).collect();
        assert_eq!(to, [(ports[1], TagEdit::Keep), (ports[2], TagEdit::Keep)]);
    }
    assert_eq!(switch.stations(now).count(), 0);
    switch.shut_port(now, ports[1], Shut::Admin);
    switch.handle_frame(now, ports[0], &VnetHdr::default(), &tagged, &mut out);
    assert_eq!(out.as_slice().len(), 1);
    switch.handle_frame(now, ports[1], &VnetHdr::default(), &tagged, &mut out);
    assert_eq!((out.as_slice().len(), out.dropped()), (0, Some(DropReason::Shut)));
    assert!(switch.handle_frame(now, ports[0], &VnetHdr::default(), &tagged[..13], &mut out).is_none());
    assert_eq!(out.dropped(), Some(DropReason::Short));
    let on = crate::stp::config::Change { enabled: Some(true), ..Default::default() };
    assert_eq!(switch.set_stp(now, &on), Err(StpError::Hub));
    switch.set_hub(false);
    switch.handle_frame(now, ports[0], &VnetHdr::default(), &tagged, &mut out);
    assert_eq!(out.dropped(), Some(DropReason::VlanNotAllowed));
}

#[test]
fn numbers_are_kept() {
    let mut switch = Switch::new(AGE);
    let plain = |switch: &mut Switch, name: &str| switch.add_port(name, PortVlans::default(), Offloads::NONE);
    for n in [0, 2] {
        switch.keep_place(PortId::new(n)).unwrap().vlans = access(20);
    }
    assert_eq!(plain(&mut switch, "a"), Ok(PortId::new(1)));
    assert_eq!(plain(&mut switch, "b"), Ok(PortId::new(3)));
    assert_eq!(switch.free_number(|_| true), Some(PortId::new(4)));
    switch.keep_place(PortId::new(2)).unwrap().allocatable = true;
    assert_eq!(switch.free_number(|_| true), Some(PortId::new(2)));
    assert_eq!(switch.free_number(|id| id.index() != 2), Some(PortId::new(4)));
    let at = |switch: &mut Switch, n, name: &str| switch.add_port_at(PortId::new(n), name, Offloads::NONE);
    assert_eq!(at(&mut switch, 1, "c"), Err(PortError::NumberTaken(2)));
    assert_eq!(at(&mut switch, 8192, "c"), Err(PortError::NoSuchNumber(8192)));
    assert_eq!(at(&mut switch, 0, "a"), Err(PortError::NameTaken("a".into())));
    assert_eq!(at(&mut switch, 0, "c"), Ok(()));
    assert_eq!(at(&mut switch, 9, "d"), Ok(()));
    // What lies between is free for others.
    let rest: Vec<usize> = (0..5).map(|n| plain(&mut switch, &format!("e{n}")).unwrap().index()).collect();
    assert_eq!(rest.iter().copied().collect::<std::collections::BTreeSet<_>>(), (4..9).collect());
    assert_eq!(plain(&mut switch, "f"), Ok(PortId::new(10)));
    assert_eq!(switch.remove_vlan(Vid::new(20).unwrap()), Err(PortId::new(0)));
    switch.set_vlans(PortId::new(0), access(30));
    assert_eq!(switch.remove_vlan(Vid::new(20).unwrap()), Err(PortId::new(2)), "kept for the next");
    switch.sent(PortId::new(0), 3, 180);
    switch.remove_port(PortId::new(0));
    let place = switch.place(PortId::new(0)).unwrap();
    assert_eq!((place.vlans.clone(), place.counters.tx_frames), (access(30), 3));
    assert_eq!(at(&mut switch, 0, "g"), Ok(()));
    assert_eq!(switch.port(PortId::new(0)).unwrap().counters.tx_bytes, 180);
    assert!(switch.release_place(PortId::new(0)) && !switch.release_place(PortId::new(0)));
    switch.set_numbers(4);
    assert_eq!(switch.free_number(|_| true), Some(PortId::new(2)));
    switch.release_place(PortId::new(2));
    at(&mut switch, 2, "h").unwrap();
    assert_eq!(switch.free_number(|_| true), None);
}

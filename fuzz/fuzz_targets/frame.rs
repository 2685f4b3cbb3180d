//! One frame with any virtio-net header through the switch to ports with any offloads: no panic, and no
//! piece longer than what came in plus a tag and the headers of its segment.
#![no_main]

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use switch::offload::{VNET_HDR_LEN, VnetHdr, emit};
use switch::port::Offloads;
use switch::switch::{Egress, Switch};
use switch::vlan::{PortVlans, Vid, VidSet};

fuzz_target!(|input: (u8, [u8; VNET_HDR_LEN], &[u8])| {
    let (bits, hdr, bytes) = input;
    // What comes from a customer's port, a provider's, or a plain one, goes to one of each.
    let ports = [
        PortVlans::default(),
        PortVlans::Tunnel { vid: Vid::DEFAULT },
        PortVlans::Service { native: None, allowed: VidSet::all() },
        PortVlans::Trunk { native: None, allowed: VidSet::all() },
    ];
    let takes =
        Offloads { csum: bits & 1 != 0, tso4: bits & 2 != 0, tso6: bits & 4 != 0, uso: bits & 8 != 0 };
    let mut switch = Switch::new(Duration::from_secs(300));
    let from =
        switch.add_port("a", ports[usize::from(bits >> 4 & 3)].clone(), Offloads::ALL).expect("a port");
    for (name, vlans) in ["b", "c", "d", "e"].into_iter().zip(ports) {
        switch.add_port(name, vlans, takes).expect("a port");
    }
    let hdr = VnetHdr::parse(hdr);
    let mut egress = Egress::new();
    let Some(frame) = switch.handle_frame(Instant::now(), from, &hdr, bytes, &mut egress) else { return };
    for transmit in egress.as_slice() {
        let mut total = 0;
        let _ = emit(&hdr, frame, transmit.edit(), takes, |_, pieces| {
            let length: usize = pieces.iter().map(|piece| piece.len()).sum();
            assert!(length <= bytes.len() + 4);
            total += length;
            if total > 1 << 24 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
    }
});

//! Whatever arrives, nothing breaks, and nothing grows.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use switch::offload::VnetHdr;

use super::ip::{fix, ipv4};
use super::ndp::icmpv6;
use super::world::*;
use crate::smol::net::neighbours::MAX_NEIGHBOURS;
use crate::smol::net::{Rejection, Wish};

/// A virtio-net header, often one that could be.
fn header() -> impl Strategy<Value = VnetHdr> {
    let kinds = prop_oneof![Just(0u8), Just(1), Just(4), Just(5), any::<u8>()];
    let starts = prop_oneof![Just(34u16), Just(54), any::<u16>()];
    (0u8..2, kinds, any::<u16>(), any::<u16>(), starts, 0u16..40).prop_map(
        |(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)| VnetHdr {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
        },
    )
}

/// Frames that get far before they turn out to be nonsense.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let v4 = (any::<[u8; 4]>(), prop_oneof![Just([10, 0, 0, 1]), Just([224, 0, 0, 1]), any::<[u8; 4]>()]);
    let v4 = (v4, prop_oneof![Just(1u8), Just(2), Just(6), Just(17), any::<u8>()], vec(any::<u8>(), 0..80));
    let v4 = v4.prop_map(|((source, to), protocol, payload)| ipv4(mac(1), source, to, protocol, &payload));
    let fragments = (v4.clone(), any::<u16>(), 0u8..3).prop_map(|(mut frame, field, ident)| {
        frame[19] = ident;
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        fix(&mut frame);
        frame
    });
    let ends = prop_oneof![Just("fd00::1"), Just("ff02::1"), Just("ff02::1:ff00:1"), Just("fe80::1")];
    let kinds = prop_oneof![Just(128u8), 130u8..138, Just(143), any::<u8>()];
    let v6 = (ends, kinds, vec(any::<u8>(), 3..90), prop_oneof![Just(255u8), Just(1), any::<u8>()]);
    let v6 = v6.prop_map(|(to, kind, rest, hops)| {
        icmpv6(mac(9), "fe80::9", to, hops, &[&[kind], &rest[..]].concat())
    });
    let next = prop_oneof![Just(0u8), Just(43), Just(44), Just(60), Just(58), any::<u8>()];
    let extended = (v6.clone(), next).prop_map(|(mut frame, next)| {
        frame[20] = next;
        frame
    });
    let plain = prop_oneof![v4, fragments, v6, extended, vec(any::<u8>(), 0..100)];
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (plain, damage, prop::option::of(any::<prop::sample::Index>())).prop_map(|(mut frame, damage, cut)| {
        for (at, byte) in damage {
            if !frame.is_empty() {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
        }
        if let Some(cut) = cut.filter(|_| !frame.is_empty()) {
            frame.truncate(cut.index(frame.len()));
        }
        frame
    })
}

/// A stack that takes part in everything.
fn busy(forwarding: bool) -> World {
    let mut world = World::pair();
    world.nets[0].tables.forwarding = forwarding;
    add_gateway(&mut world.nets[0], "0.0.0.0/0", "10.0.0.2");
    add_gateway(&mut world.nets[0], "::/0", "fe80::2");
    add_address_with(&mut world.nets[0], ETH, "fd00::77/64", libc::IFA_F_TENTATIVE);
    world.send(0, &datagram("10.0.0.9", 99), b"x").unwrap();
    world.send(0, &datagram("fd00::9", 99), b"x").unwrap();
    world.drain();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_frame_breaks_anything(
        frames in vec((header(), any::<bool>(), frame(), 0u64..3000), 1..30),
        forwarding in any::<bool>(),
    ) {
        let mut world = busy(forwarding);
        for (header, with, frame, wait) in frames {
            let header = if with { header } else { VnetHdr::default() };
            world.deliver(0, &header, &frame);
            for packet in world.take(0) {
                let now = world.now;
                world.nets[0].reject(now, &packet, Rejection::PortUnreachable);
                world.nets[0].reject(now, &packet, Rejection::ProtocolUnreachable);
            }
            for (error, _) in std::mem::take(&mut world.inboxes[0].errors) {
                let now = world.now;
                world.nets[0].set_path_mtu(now, error.destination, error.info);
            }
            world.run(Duration::from_millis(wait));
        }
        prop_assert!(world.nets[0].neighbours.len() <= MAX_NEIGHBOURS);
        prop_assert!(world.nets[0].reassembly.bytes() <= 4 << 20);
        // Everything calms down, and still works.
        world.run(Duration::from_secs(1000));
        prop_assert_eq!(world.nets[0].reassembly.bytes(), 0);
        prop_assert!(world.nets[0].poll_timeout().is_none());
    }

    #[test]
    fn no_datagram_breaks_anything(
        to in prop_oneof![any::<[u8; 4]>().prop_map(std::net::IpAddr::from), any::<[u8; 16]>().prop_map(std::net::IpAddr::from)],
        options in vec(any::<u8>(), 0..100),
        payload in vec(any::<u8>(), 0..3000),
        protocol in any::<u8>(),
        gso_size in prop_oneof![Just(0u16), any::<u16>()],
        checksum_at in prop::option::of(0u16..100),
        raw in any::<bool>(),
    ) {
        let mut world = busy(false);
        let now = world.now;
        let net = &mut world.nets[0];
        if let Ok(path) = net.route(to, &Wish::default()) {
            let like = datagram("10.0.0.1", protocol);
            let like = crate::smol::net::Datagram { destination: to, options: &options, gso_size, checksum_at, ..like };
            if raw {
                let _ = net.send_raw(now, &path, &payload);
            } else {
                let _ = net.send(now, &path, &like, &[&payload]);
            }
        }
        world.run(Duration::from_secs(5));
    }

    #[test]
    fn no_frame_to_send_breaks_anything(header in header(), frame in frame(), lo in any::<bool>()) {
        let mut world = busy(false);
        let now = world.now;
        let link = if lo { crate::smol::tables::LOOPBACK } else { ETH };
        let _ = world.nets[0].send_frame(now, link, &header, &frame);
        world.run(Duration::from_secs(5));
    }
}

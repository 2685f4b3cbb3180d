//! IP packets in and out: headers, checks, addresses that cannot be, subinterfaces, the loopback.

use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use switch::offload::checksum::{fold, sum};
use switch::offload::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHdr};

use super::world::*;
use crate::config::Mac;
use crate::smol::net::{Datagram, Fragmenting, HEADROOM, Wish};
use crate::smol::tables::{Change, IfIndex, LOOPBACK, LinkKind};

const IPV4: u16 = 0x0800;

/// An IPv4 packet in a frame for the first stack.
pub(super) fn ipv4(to: Mac, source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    head[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    head[12..16].copy_from_slice(&source);
    head[16..].copy_from_slice(&destination);
    let mut frame = [&to.0[..], &mac(2).0, &IPV4.to_be_bytes(), &head, payload].concat();
    fix(&mut frame);
    frame
}

/// Makes the header's checksum right.
pub(super) fn fix(frame: &mut [u8]) {
    let len = usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let value = !fold(sum(&frame[14..14 + len]));
    frame[24..26].copy_from_slice(&value.to_be_bytes());
}

fn counters(world: &World) -> (u64, u64) {
    let counters = world.nets[0].tables.links[&ETH].counters;
    (counters.rx_errors, counters.rx_dropped)
}

#[test]
fn a_packet_arrives_with_all_that_is_known_of_it() {
    let mut world = World::pair();
    let sent = Datagram { tos: 0xB9, ttl: 7, options: &[0x94, 4, 0, 0], ..datagram("10.0.0.2", 17) };
    world.send(0, &sent, &udp(b"hello")).unwrap();
    let sent = Datagram { tos: 0xB9, ttl: 7, flow_label: 0x12345, ..datagram("fd00::2", 17) };
    world.send(0, &sent, &udp(b"hello")).unwrap();
    world.run(Duration::from_millis(10));
    let packets = world.take(1);
    assert_eq!(packets.len(), 2);
    for packet in &packets {
        assert_eq!((packet.link, packet.protocol, packet.ttl, packet.tos), (ETH, 17, 7, 0xB9));
        assert_eq!(packet.payload[8..], *b"hello");
        assert_eq!((packet.mac, packet.group_frame, packet.checked), (Some(mac(1)), false, true));
    }
    assert_eq!(packets[0].source, "10.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(packets[0].header[20..], [0x94, 4, 0, 0]);
    assert_eq!((packets[1].flow_label, packets[1].header.len()), (0x12345, 40));
}

#[test]
fn extension_headers_are_chained_and_found_again() {
    let mut world = World::pair();
    // Hop-by-hop with padding, destination options with padding.
    let options = [0, 0, 1, 4, 0, 0, 0, 0, 60, 0, 1, 4, 0, 0, 0, 0];
    let sent = Datagram { options: &options, ..datagram("fd00::2", 17) };
    for to in ["fd00::2", "fd00::1"] {
        world.send(0, &Datagram { destination: to.parse().unwrap(), ..sent }, &udp(b"hello")).unwrap();
        world.run(Duration::from_millis(10));
        let packet = world.take(usize::from(to == "fd00::2")).pop().unwrap();
        assert_eq!((packet.protocol, packet.header.len()), (17, 56));
        assert_eq!((packet.header[6], packet.header[40], packet.header[48]), (0, 60, 17));
        assert_eq!(packet.payload[8..], *b"hello");
    }
}

#[test]
fn wrong_packets_are_errors_and_strange_ones_are_dropped() {
    let good = ipv4(mac(1), [10, 0, 0, 2], [10, 0, 0, 1], 99, b"hello");
    let change = |at: usize, to: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + to.len()].copy_from_slice(to);
        frame
    };
    let fixed = |at: usize, to: &[u8]| {
        let mut frame = change(at, to);
        fix(&mut frame);
        frame
    };
    let errors = [
        change(24, &[0xFF, 0xFF]),
        fixed(14, &[0x44]),
        fixed(14, &[0x65]),
        fixed(16, &[0xFF, 0xFF]),
        fixed(16, &[0, 19]),
        good[..30].to_vec(),
        good[..15].to_vec(),
    ];
    for (number, frame) in errors.iter().enumerate() {
        let mut world = World::pair();
        world.deliver(0, &VnetHdr::default(), frame);
        assert_eq!((counters(&world), world.take(0).len()), ((1, 0), 0), "{number}");
    }
    let to = |source, destination| ipv4(mac(1), source, destination, 99, b"hello");
    let strange = [
        to([127, 0, 0, 1], [10, 0, 0, 1]),
        to([10, 0, 0, 2], [127, 0, 0, 1]),
        to([10, 0, 0, 1], [10, 0, 0, 1]),
        to([224, 0, 0, 5], [10, 0, 0, 1]),
        to([255, 255, 255, 255], [10, 0, 0, 1]),
        to([0, 0, 0, 0], [10, 0, 0, 1]),
        to([10, 0, 0, 2], [10, 0, 0, 3]),
        to([10, 0, 0, 2], [224, 1, 2, 3]),
        to([10, 0, 0, 2], [0, 0, 0, 1]),
    ];
    for (number, frame) in strange.iter().enumerate() {
        let mut world = World::pair();
        world.deliver(0, &VnetHdr::default(), frame);
        assert_eq!((counters(&world), world.take(0).len()), ((0, 1), 0), "{number}");
        assert!(world.log.is_empty(), "{number}: nobody is told");
    }
    let mut world = World::pair();
    world.deliver(0, &VnetHdr::default(), &good);
    world.deliver(0, &VnetHdr::default(), &[&good[..], &[0; 9]].concat());
    let packets = world.take(0);
    assert_eq!(packets.len(), 2);
    assert!(packets.iter().all(|packet| *packet.payload == *b"hello"), "padding is cut off");
    world.deliver(0, &VnetHdr::default(), &ipv4(mac(7), [10, 0, 0, 2], [10, 0, 0, 1], 99, b"hello"));
    assert!(world.take(0).is_empty(), "a frame for somebody else");
}

#[test]
fn everybodys_packets_are_for_us() {
    let mut world = World::pair();
    let all = Mac([0xFF; 6]);
    for (source, to) in [
        ([10, 0, 0, 2], [10, 0, 0, 255]),
        ([10, 0, 0, 2], [255, 255, 255, 255]),
        ([0, 0, 0, 0], [255, 255, 255, 255]),
        ([10, 0, 0, 2], [224, 0, 0, 1]),
    ] {
        world.deliver(0, &VnetHdr::default(), &ipv4(all, source, to, 99, b"hello"));
        let packets = world.take(0);
        assert!(packets.len() == 1 && packets[0].group_frame, "{to:?}");
    }
}

#[test]
fn a_source_route_is_not_followed() {
    let mut world = World::pair();
    let mut frame = ipv4(mac(1), [10, 0, 0, 2], [10, 0, 0, 1], 99, &[131, 3, 4, 0, 1, 2, 3, 4]);
    frame[14] = 0x46;
    fix(&mut frame);
    world.deliver(0, &VnetHdr::default(), &frame);
    assert!(world.take(0).is_empty());
    frame[34] = 0x94;
    frame[35] = 4;
    fix(&mut frame);
    world.deliver(0, &VnetHdr::default(), &frame);
    assert_eq!(world.take(0).len(), 1);
}

#[test]
fn upper_layer_checksums_are_judged_unless_vouched_for() {
    let mut world = World::pair();
    let mut wrong = udp(b"hello");
    wrong[6] = 1;
    let frame = ipv4(mac(1), [10, 0, 0, 2], [10, 0, 0, 1], 17, &wrong);
    world.deliver(0, &VnetHdr::default(), &frame);
    assert_eq!((world.take(0).len(), counters(&world)), (0, (1, 0)));
    let header = VnetHdr { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..VnetHdr::default() };
    world.deliver(0, &header, &frame);
    assert_eq!(world.take(0).len(), 1);
    let beyond = VnetHdr { csum_start: 3000, ..header };
    world.deliver(0, &beyond, &frame);
    assert_eq!((world.take(0).len(), counters(&world)), (0, (2, 0)));
    // IPv4 allows none, IPv6 does not.
    world.deliver(0, &VnetHdr::default(), &ipv4(mac(1), [10, 0, 0, 2], [10, 0, 0, 1], 17, &udp(b"hello")));
    assert_eq!(world.take(0).len(), 1);
    let none = Datagram { checksum_at: None, ..datagram("fd00::2", 17) };
    world.send(0, &none, &udp(b"hello")).unwrap();
    world.run(Duration::from_millis(10));
    assert!(world.take(1).is_empty());
}

/// TCP with ports, a sequence number and data.
fn tcp(data: usize) -> Vec<u8> {
    let mut bytes = vec![3, 0xE8, 7, 0xD0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x18, 0xFF, 0xFF, 0, 0, 0, 0];
    bytes.extend((0..data).map(|n| n as u8));
    bytes
}

#[test]
fn super_segments_stay_whole_and_can_be_cut() {
    for (to, kind) in [("10.0.0.2", GSO_TCPV4), ("fd00::2", GSO_TCPV6)] {
        let send = Datagram { gso_size: 1400, checksum_at: Some(16), ..datagram(to, 6) };
        let mut world = World::pair();
        assert_eq!(ping(&mut world, 0, to, 8), 1);
        world.take(1);
        world.log.clear();
        world.send(0, &send, &tcp(60_000)).unwrap();
        world.run(Duration::from_millis(10));
        let sent: Vec<_> = world.log.iter().filter(|sent| sent.frame.len() > 1000).collect();
        assert_eq!(sent.len(), 1);
        let header = sent[0].header;
        assert_eq!((header.gso_type, header.gso_size, header.csum_offset), (kind, 1400, 16));
        assert_eq!(usize::from(header.hdr_len), usize::from(header.csum_start) + 20);
        let whole = world.take(1).pop().unwrap();
        assert_eq!((whole.gso_size, whole.payload.len(), whole.checked), (1400, 60_020, true));
        world.plain = true;
        world.send(0, &send, &tcp(60_000)).unwrap();
        world.run(Duration::from_millis(10));
        let cut = world.take(1);
        assert_eq!(cut.len(), 43);
        let data: Vec<u8> = cut.iter().flat_map(|packet| packet.payload[20..].to_vec()).collect();
        assert_eq!(data, tcp(60_000)[20..]);
        assert!(cut.iter().all(|packet| packet.gso_size == 0 && packet.checked));
        let wide = Datagram { gso_size: 1500, ..send };
        assert_eq!(world.send(0, &wide, &tcp(60_000)).map(|_| ()), Err(Errno::EMSGSIZE));
    }
    let mut world = World::pair();
    let send = Datagram { gso_size: 1000, ..datagram("10.0.0.1", 17) };
    world.send(0, &send, &udp(&[7; 5000])).unwrap();
    world.drain();
    assert_eq!(world.take(0).pop().map(|packet| packet.gso_size), Some(1000), "whole on the loopback");
    let send = Datagram { gso_size: 1000, ..datagram("10.0.0.2", 17) };
    world.send(0, &send, &udp(&[7; 5000])).unwrap();
    world.run(Duration::from_millis(10));
    assert!(world.log.iter().any(|sent| sent.header.gso_type == GSO_UDP_L4));
}

#[test]
fn a_payload_in_the_slot_is_not_copied() {
    let mut world = World::pair();
    assert_eq!(ping(&mut world, 0, "10.0.0.2", 8), 1);
    let now = world.now;
    let net = &mut world.nets[0];
    let path = net.route("10.0.0.2".parse().unwrap(), &Wish::default()).unwrap();
    let slot = net.slot();
    let place = slot[HEADROOM..].as_ptr();
    slot[HEADROOM..HEADROOM + 5].copy_from_slice(b"hello");
    net.send_slot(now, &path, &datagram("10.0.0.2", 99), HEADROOM..HEADROOM + 5).unwrap();
    let mut seen = 0;
    net.poll_transmit(&mut |_, _, frame| {
        assert_eq!(frame[34..].as_ptr(), place);
        seen += 1;
    });
    assert_eq!(seen, 1);
}

#[test]
fn a_subinterface_has_frames_of_its_own() {
    let mut world = World::pair();
    for (number, net) in world.nets.iter_mut().enumerate() {
        for (index, parent, vid, net_number) in [(5, ETH, 7, 7), (6, IfIndex(5), 8, 8)] {
            let kind = LinkKind::Vlan { parent, vid };
            net.tables.links.insert(IfIndex(index), link(IfIndex(index), kind, mac(number as u8 + 1)));
            net.tables.changes.push_back(Change::Link(IfIndex(index)));
            add_address(net, IfIndex(index), &format!("10.{net_number}.0.{}/24", number + 1));
        }
    }
    world.drain();
    world.run(Duration::from_secs(1));
    assert_eq!(ping(&mut world, 0, "10.7.0.2", 8), 1);
    let frame = world.log.iter().rev().find(|sent| sent.from == 0 && sent.frame[16..18] == [8, 0]).unwrap();
    assert_eq!(frame.frame[12..16], [0x81, 0, 0, 7]);
    assert_eq!(frame.link, ETH);
    world.send(0, &datagram("10.7.0.2", 17), &udp(b"hello")).unwrap();
    world.run(Duration::from_millis(10));
    let packet = world.take(1).pop().unwrap();
    assert_eq!((packet.link, packet.checked), (IfIndex(5), true));
    // One VLAN inside another.
    assert_eq!(ping(&mut world, 0, "10.8.0.2", 8), 1);
    let frame = world.log.iter().rev().find(|sent| sent.from == 0).unwrap();
    assert_eq!(frame.frame[12..20], [0x81, 0, 0, 7, 0x81, 0, 0, 8]);
    let counters = world.nets[1].tables.links[&IfIndex(6)].counters;
    assert!(counters.rx_packets >= 2 && counters.tx_packets >= 2);
    // A VLAN that nobody has; and a priority tag, which is none.
    let plain = ipv4(mac(1), [10, 0, 0, 2], [10, 0, 0, 1], 99, b"hello");
    for (tag, expected) in [(9u16, 0), (0xE000, 1)] {
        let frame = [&plain[..12], &[0x81, 0], &tag.to_be_bytes(), &plain[12..]].concat();
        world.take(0);
        world.deliver(0, &VnetHdr::default(), &frame);
        assert_eq!(world.take(0).len(), expected, "{tag:x}");
    }
}

#[test]
fn what_we_send_to_ourselves_comes_by_the_loopback() {
    let mut world = World::pair();
    for (to, link) in [
        ("10.0.0.1", ETH),
        ("127.0.0.1", LOOPBACK),
        ("fd00::1", ETH),
        ("0.0.0.0", LOOPBACK),
        ("::", LOOPBACK),
    ] {
        world.send(0, &datagram(to, 17), &udp(&[5; 9000])).unwrap();
        world.drain();
        let packet = world.take(0).pop().unwrap();
        assert_eq!((packet.link, packet.payload.len(), packet.mac), (link, 9008, None), "{to}");
        assert!(packet.checked && !packet.destination.is_unspecified());
        assert_eq!(packet.source, packet.destination);
    }
    assert!(world.log.is_empty());
    world.nets[0].tables.links.get_mut(&LOOPBACK).unwrap().up = false;
    assert_eq!(world.send(0, &datagram("10.0.0.1", 17), &udp(b"x")).map(|_| ()), Err(Errno::ENETDOWN));
}

#[test]
fn the_loopback_takes_the_longest_datagrams() {
    let mut world = World::pair();
    for (to, longest) in [("127.0.0.1", 65_507), ("::1", 65_527)] {
        world.send(0, &datagram(to, 17), &udp(&vec![1; longest])).unwrap();
        world.drain();
        assert_eq!(world.take(0).len(), 1, "{to}");
        let longer = world.send(0, &datagram(to, 17), &udp(&vec![1; longest + 1]));
        assert_eq!(longer.map(|_| ()), Err(Errno::EMSGSIZE), "{to}");
    }
}

#[test]
fn the_loopbacks_queue_is_bounded() {
    let mut world = World::pair();
    for _ in 0..1500 {
        world.send(0, &datagram("127.0.0.1", 99), b"x").unwrap();
    }
    world.drain();
    assert_eq!(world.take(0).len(), 1000);
    assert_eq!(world.nets[0].tables.links[&LOOPBACK].counters.rx_dropped, 500);
}

#[test]
fn raw_packets_get_what_their_header_lacks() {
    let mut world = World::pair();
    let now = world.now;
    let path = world.nets[0].route("10.0.0.2".parse().unwrap(), &Wish::default()).unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 9, 99, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
    packet.extend(b"hello");
    world.nets[0].send_raw(now, &path, &packet).unwrap();
    world.run(Duration::from_millis(10));
    let got = world.take(1).pop().unwrap();
    assert_eq!((got.ttl, got.source), (9, "10.0.0.1".parse().unwrap()));
    assert_ne!(got.header[4..6], [0, 0]);
    assert_eq!(world.nets[0].send_raw(now, &path, &packet[..19]), Err(Errno::EINVAL));
    assert_eq!(world.nets[0].send_raw(now, &path, &[0x4F; 30]), Err(Errno::EINVAL));
    assert_eq!(world.nets[0].send_raw(now, &path, &[]), Err(Errno::EINVAL));
    assert_eq!(world.nets[0].send_raw(now, &path, &[0x45; 1501]), Err(Errno::EMSGSIZE));
}

#[test]
fn whole_frames_leave_as_they_are() {
    let mut world = World::pair();
    let now = world.now;
    let frame = [&mac(2).0[..], &mac(1).0, &[0x88, 0xB5], b"hello"].concat();
    let none = VnetHdr::default();
    world.nets[0].send_frame(now, ETH, &none, &frame).unwrap();
    world.drain();
    assert_eq!(world.log.last().unwrap().frame, frame);
    assert_eq!(world.nets[0].send_frame(now, ETH, &none, &frame[..13]), Err(Errno::EINVAL));
    assert_eq!(world.nets[0].send_frame(now, ETH, &none, &[0; 1515]), Err(Errno::EMSGSIZE));
    assert_eq!(world.nets[0].send_frame(now, IfIndex(9), &none, &frame), Err(Errno::ENODEV));
    let looped = ipv4(mac(1), [127, 0, 0, 1], [127, 0, 0, 1], 99, b"hello");
    world.nets[0].send_frame(now, LOOPBACK, &none, &looped).unwrap();
    world.drain();
    assert_eq!(world.take(0).len(), 1);
    world.nets[0].tables.links.get_mut(&ETH).unwrap().up = false;
    assert_eq!(world.nets[0].send_frame(now, ETH, &none, &frame), Err(Errno::ENETDOWN));
}

#[test]
fn frames_that_nobody_fetches_are_bounded() {
    let mut world = World::pair();
    assert_eq!(ping(&mut world, 0, "10.0.0.2", 8), 1);
    let now = world.now;
    let net = &mut world.nets[0];
    let path = net.route("10.0.0.2".parse().unwrap(), &Wish::default()).unwrap();
    let send = Datagram { fragmenting: Fragmenting::Never, ..datagram("10.0.0.2", 99) };
    let sent = (0..10_000).take_while(|_| net.send(now, &path, &send, &[&[0; 1400]]).is_ok()).count();
    assert!((2000..4000).contains(&sent), "{sent}");
    assert_eq!(net.send(now, &path, &send, &[&[0; 1400]]), Err(Errno::ENOBUFS));
    net.poll_transmit(&mut |_, _, _| {});
    assert_eq!(net.send(now, &path, &send, &[&[0; 1400]]), Ok(()));
}

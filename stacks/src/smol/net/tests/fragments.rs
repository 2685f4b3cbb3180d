//! Fragments: cut, put together, lost, lying.

use std::time::Duration;

use nix::errno::Errno;
use proptest::prelude::*;
use switch::offload::VnetHdr;

use super::ip::{fix, ipv4};
use super::ndp::icmpv6;
use super::world::*;
use crate::smol::net::{Datagram, Fragmenting, Packet, Wish};

/// A fragment of an IPv4 datagram.
fn piece(ident: u8, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let mut frame = ipv4(mac(1), [10, 0, 0, 2], [10, 0, 0, 1], 99, data);
    frame[19] = ident;
    let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    fix(&mut frame);
    frame
}

/// A fragment of an IPv6 datagram of a protocol.
fn piece_v6(ident: u8, next: u8, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let mut frame = icmpv6(mac(2), "fd00::2", "fd00::1", 64, &[0; 4]);
    frame.truncate(54);
    let field = (offset as u16 | u16::from(more)).to_be_bytes();
    frame.extend([next, 0, field[0], field[1], 0, 0, 0, ident]);
    frame.extend(data);
    frame[20] = 44;
    let len = ((frame.len() - 54) as u16).to_be_bytes();
    frame[18..20].copy_from_slice(&len);
    frame
}

/// The same fragment in either family.
fn either(v6: bool, ident: u8, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    if v6 { piece_v6(ident, 99, offset, more, data) } else { piece(ident, offset, more, data) }
}

fn give(world: &mut World, frame: &[u8]) -> Vec<Packet<'static>> {
    world.deliver(0, &VnetHdr::default(), frame);
    world.take(0)
}

#[test]
fn long_datagrams_go_there_and_back_in_pieces() {
    for to in ["10.0.0.2", "fd00::2"] {
        let mut world = World::pair();
        for len in [1472, 1473, 4000, 60_000] {
            assert_eq!(ping(&mut world, 0, to, len), 1, "{len} bytes to {to}");
        }
        let longest = if to.contains(':') { 65_527 } else { 65_507 };
        world.send(0, &datagram(to, 17), &udp(&vec![7; longest])).unwrap();
        world.run(Duration::from_millis(10));
        let got = world.take(1).pop().unwrap();
        assert_eq!((got.payload.len(), got.checked), (longest + 8, true));
        assert!(world.log.iter().all(|sent| sent.frame.len() <= 1514));
        assert_eq!(world.nets[1].reassembly.bytes(), 0);
    }
}

#[test]
fn many_datagrams_at_once_do_not_mix() {
    let mut world = World::pair();
    assert_eq!(ping(&mut world, 0, "10.0.0.2", 8), 1);
    world.take(1);
    for n in 0..50 {
        world.send(0, &datagram("10.0.0.2", 99), &[n; 4000]).unwrap();
        world.send(0, &datagram("fd00::2", 99), &[n; 4000]).unwrap();
    }
    world.run(Duration::from_millis(20));
    let got = world.take(1);
    assert_eq!(got.len(), 100);
    assert!(got.iter().all(|packet| packet.payload.iter().all(|byte| *byte == packet.payload[0])));
}

#[test]
fn loss_loses_datagrams_and_nothing_else() {
    let mut world = World::pair();
    assert_eq!(ping(&mut world, 0, "10.0.0.2", 8), 1);
    world.take(1);
    world.loss = 100;
    for n in 0..200 {
        world.send(0, &datagram("10.0.0.2", 99), &[n; 4000]).unwrap();
    }
    world.run(Duration::from_secs(5));
    let got = world.take(1).len();
    assert!((110..180).contains(&got), "{got}: 0.9³ of 200 are 146");
    world.loss = 0;
    world.run(Duration::from_secs(40));
    assert_eq!(world.nets[1].reassembly.bytes(), 0);
}

#[test]
fn the_senders_wish_decides_whether_to_cut() {
    let mut world = World::pair();
    for to in ["10.0.0.2", "fd00::2"] {
        let v4 = to == "10.0.0.2";
        let send = |world: &mut World, fragmenting, len: usize| {
            world.log.clear();
            let datagram = Datagram { fragmenting, ..datagram(to, 99) };
            world.send(0, &datagram, &vec![0; len]).map(|_| ())?;
            world.run(Duration::from_millis(10));
            let frames = world.log.iter().filter(|sent| sent.from == 0 && sent.frame.len() > 500);
            Ok(frames.map(|sent| v4 && sent.frame[20] & 0x40 != 0).collect::<Vec<_>>())
        };
        assert_eq!(send(&mut world, Fragmenting::Allowed, 1000), Ok(vec![false]));
        assert_eq!(send(&mut world, Fragmenting::Want, 1000), Ok(vec![v4]));
        assert_eq!(send(&mut world, Fragmenting::Want, 2500), Ok(vec![false, false]));
        assert_eq!(send(&mut world, Fragmenting::Never, 1000), Ok(vec![v4]));
        for refused in [Fragmenting::Never, Fragmenting::Probe] {
            assert_eq!(send(&mut world, refused, 2500), Err(Errno::EMSGSIZE));
        }
        // A narrower way than the link.
        let now = world.now;
        world.nets[0].set_path_mtu(now, to.parse().unwrap(), 1300);
        assert_eq!(
            send(&mut world, Fragmenting::Want, 1400).map(|sent| sent.len()),
            Ok(1),
            "and a short one"
        );
        assert_eq!(send(&mut world, Fragmenting::Never, 1400), Err(Errno::EMSGSIZE));
        assert_eq!(send(&mut world, Fragmenting::Probe, 1400), Ok(vec![v4]));
    }
}

#[test]
fn fragments_come_in_any_order_and_twice() {
    for v6 in [false, true] {
        let mut world = World::pair();
        let data: Vec<u8> = (0..40).collect();
        for (offset, end) in [(16, 24), (32, 40), (16, 24), (8, 16), (0, 8), (0, 8)] {
            assert!(give(&mut world, &either(v6, 1, offset, end != 40, &data[offset..end])).is_empty());
        }
        let whole = give(&mut world, &either(v6, 1, 24, true, &data[24..32])).pop().unwrap();
        assert_eq!(*whole.payload, data[..]);
        assert_eq!(whole.header.len(), if v6 { 40 } else { 20 });
        if v6 {
            assert_eq!((whole.header[6], &whole.header[4..6]), (99, &[0, 40][..]));
        } else {
            assert_eq!((&whole.header[2..4], &whole.header[6..8]), (&[0, 60][..], &[0, 0][..]));
        }
    }
}

#[test]
fn overlapping_fragments_spoil_the_datagram() {
    for v6 in [false, true] {
        let lies: [&[(usize, bool, usize)]; 5] = [
            &[(0, true, 16), (8, true, 16), (16, false, 8)],
            &[(8, true, 16), (0, true, 16), (24, false, 8)],
            &[(0, true, 16), (8, false, 4), (16, false, 8)],
            &[(16, false, 8), (24, true, 8), (0, true, 16)],
            &[(16, false, 8), (0, true, 8), (8, false, 8), (8, true, 8)],
        ];
        for (number, lie) in lies.iter().enumerate() {
            let mut world = World::pair();
            for (offset, more, len) in *lie {
                let got = give(&mut world, &either(v6, 1, *offset, *more, &vec![1; *len]));
                assert!(got.is_empty(), "{number} {v6}");
            }
        }
    }
}

#[test]
fn what_takes_too_long_is_told_to_its_sender() {
    for v6 in [false, true] {
        for first in [true, false] {
            let mut world = World::pair();
            assert_eq!(ping(&mut world, 0, if v6 { "fd00::2" } else { "10.0.0.2" }, 8), 1);
            world.take(1);
            give(&mut world, &either(v6, 1, if first { 0 } else { 8 }, true, &[5; 16]));
            world.run(Duration::from_secs(if v6 { 59 } else { 29 }));
            assert_ne!(world.nets[0].reassembly.bytes(), 0);
            assert!(world.take(1).is_empty());
            world.run(Duration::from_secs(2));
            assert_eq!(world.nets[0].reassembly.bytes(), 0);
            let kind = if v6 { 3 } else { 11 };
            let packets = world.inboxes[1].packets.iter().filter(|packet| packet.payload[..2] == [kind, 1]);
            let errors = world.inboxes[1].errors.iter().filter(|error| error.0.icmp == (kind, 1));
            assert_eq!(packets.count() + errors.count(), usize::from(first), "{v6} {first}");
        }
    }
}

#[test]
fn memory_is_bounded_and_the_oldest_go() {
    let mut world = World::pair();
    for n in 0..300u16 {
        let mut frame = piece(n as u8, 65_000, true, &[1; 8]);
        frame[18] = (n >> 8) as u8;
        fix(&mut frame);
        give(&mut world, &frame);
        assert!(world.nets[0].reassembly.bytes() <= 4 << 20);
    }
    assert!(world.nets[0].reassembly.bytes() > 3 << 20);
    // What is whole soon has its chance.
    give(&mut world, &piece(250, 0, true, &[1; 8]));
    assert_eq!(give(&mut world, &piece(250, 8, false, &[1; 8])).len(), 0, "ends before what was there");
    give(&mut world, &piece(251, 8, false, &[1; 8]));
    world.run(Duration::from_secs(31));
    assert_eq!(world.nets[0].reassembly.bytes(), 0);
    assert!(world.nets[0].poll_timeout().is_none_or(|due| due > world.now));
}

#[test]
fn pieces_of_eight_bytes_with_gaps_are_not_collected() {
    let mut world = World::pair();
    for n in 0..100 {
        give(&mut world, &piece(1, 8 + n * 16, true, &[1; 8]));
    }
    assert!(world.nets[0].reassembly.bytes() < 8192);
}

#[test]
fn ipv6_tells_what_is_wrong_with_a_fragment() {
    let told = |frame: &[u8]| {
        let mut world = World::pair();
        assert_eq!(ping(&mut world, 0, "fd00::2", 8), 1);
        world.take(1);
        give(&mut world, frame);
        world.run(Duration::from_millis(10));
        let error = world.inboxes[1].errors.pop().map(|(error, _)| (error.icmp, error.info));
        error.unwrap_or_else(|| {
            let message = &world.take(1).pop().unwrap().payload;
            ((message[0], message[1]), u32::from(message[7]))
        })
    };
    assert_eq!(told(&piece_v6(1, 99, 0, true, &[1; 9])), ((4, 0), 4), "no multiple of eight");
    assert_eq!(told(&piece_v6(1, 99, 65_528, false, &[1; 16])), ((4, 0), 42), "longer than possible");
    assert_eq!(told(&piece_v6(1, 6, 0, true, &[1; 16])), ((4, 3), 0), "half a TCP header");
}

#[test]
fn a_fragment_that_is_whole_is_taken_alone() {
    let mut world = World::pair();
    give(&mut world, &piece_v6(1, 99, 0, true, &[1; 16]));
    let alone = give(&mut world, &piece_v6(1, 99, 0, false, &[2; 24]));
    assert_eq!(alone.len(), 1);
    assert_eq!(give(&mut world, &piece_v6(1, 99, 16, false, &[1; 8])).len(), 1, "the other one is unharmed");
}

#[test]
fn headers_behind_the_fragment_header_are_gone_through() {
    let mut world = World::pair();
    let options = [99, 0, 1, 4, 0, 0, 0, 0];
    give(&mut world, &piece_v6(1, 60, 0, true, &[&options[..], &[7; 8]].concat()));
    let whole = give(&mut world, &piece_v6(1, 60, 16, false, &[7; 8])).pop().unwrap();
    assert_eq!((whole.protocol, whole.header.len(), &*whole.payload), (99, 48, &[7; 16][..]));
    // Fragments of fragments are nothing.
    let inner = [99, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3];
    assert!(give(&mut world, &piece_v6(2, 44, 0, false, &inner)).is_empty());
}

#[test]
fn congestion_of_one_fragment_is_congestion_of_all() {
    let ecn = |first: u8, second: u8| {
        let mut world = World::pair();
        for (offset, more, ecn) in [(0, true, first), (8, false, second)] {
            let mut frame = piece(1, offset, more, &[1; 8]);
            frame[15] = ecn;
            fix(&mut frame);
            world.deliver(0, &VnetHdr::default(), &frame);
        }
        world.take(0).pop().map(|packet| packet.tos)
    };
    assert_eq!([ecn(2, 3), ecn(1, 1), ecn(0, 0)], [Some(3), Some(1), Some(0)]);
    assert_eq!([ecn(0, 3), ecn(2, 0)], [None, None], "they contradict each other");
}

#[test]
fn a_path_mtu_is_learned_and_forgotten() {
    for (to, lowest) in [("10.0.0.2", 552), ("fd00::2", 1400)] {
        let mut world = World::pair();
        let mtu = |world: &World| world.nets[0].route(to.parse().unwrap(), &Wish::default()).unwrap().mtu;
        let learn = |world: &mut World, mtu| {
            let (now, before) = (world.now, world.nets[0].generation());
            world.nets[0].set_path_mtu(now, to.parse().unwrap(), mtu);
            world.nets[0].generation() != before
        };
        assert!(learn(&mut world, 1400));
        assert_eq!(mtu(&world), 1400);
        assert!(!learn(&mut world, 1450), "it only falls");
        learn(&mut world, 100);
        assert_eq!(mtu(&world), lowest);
        world.run(Duration::from_secs(599));
        assert_eq!(mtu(&world), lowest);
        world.run(Duration::from_secs(2));
        assert_eq!(mtu(&world), 1500);
        learn(&mut world, 1400);
        learn(&mut world, 0);
        assert_eq!(mtu(&world), 1500);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order, what comes out is what went in.
    #[test]
    fn any_order_gives_the_datagram(
        cuts in prop::collection::btree_set(1usize..40, 0..10),
        order in any::<u64>(),
        tail in 1usize..8,
        v6 in any::<bool>(),
    ) {
        let data: Vec<u8> = (0..40 * 8 + tail).map(|n| (n * 7) as u8).collect();
        let mut edges: Vec<_> = cuts.iter().map(|cut| cut * 8).collect();
        edges.insert(0, 0);
        edges.push(data.len());
        let mut pieces: Vec<_> = edges.windows(2).map(|edge| (edge[0], edge[1])).collect();
        let mut random = crate::smol::net::random::Random::new([order as u8; 32]);
        for at in (1..pieces.len()).rev() {
            pieces.swap(at, random.below(at as u64 + 1) as usize);
        }
        let mut world = World::pair();
        let mut got = Vec::new();
        for (start, end) in pieces {
            got.extend(give(&mut world, &either(v6, 1, start, end != data.len(), &data[start..end])));
        }
        prop_assert_eq!(got.len(), 1);
        prop_assert_eq!(&*got[0].payload, &data[..]);
        prop_assert_eq!(world.nets[0].reassembly.bytes(), 0);
    }
}

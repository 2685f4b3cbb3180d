//! Trains, and joining what was cut.

use std::ops::ControlFlow;

use proptest::prelude::*;
use switch::frame::{Frame, TagEdit};
use switch::offload::emit;
use switch::port::Offloads;

use super::*;

fn to(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn put(outbox: &mut Outbox, port: u16, len: usize) {
    outbox.room(len).unwrap().fill(port as u8);
    outbox.commit(to(port), len);
}

#[test]
fn a_train_is_of_equal_datagrams_for_one_peer_and_a_shorter_last_one() {
    let mut outbox = Outbox::default();
    for (port, len) in [(1, 100), (1, 100), (1, 60), (1, 60), (2, 60), (2, 61)] {
        put(&mut outbox, port, len);
    }
    let trains: Vec<_> =
        outbox.trains().map(|(train, bytes)| (train.to.port(), train.segment, bytes.len())).collect();
    assert_eq!(trains, [(1, 100, 260), (1, 60, 60), (2, 60, 60), (2, 61, 61)]);
    outbox.clear();
    assert_eq!(outbox.trains().count(), 0);
}

#[test]
fn what_rests_has_no_memory_until_there_is_something_again() {
    let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
    for _ in 0..2 {
        assert_eq!((outbox.bytes.capacity(), inbox.bytes.capacity()), (0, 0));
        put(&mut outbox, 1, 100);
        inbox.room(20).unwrap().fill(0x45);
        inbox.commit(20);
        assert_eq!((outbox.trains().count(), inbox.frames().count()), (1, 1));
        outbox.rest();
        inbox.rest();
        assert_eq!((outbox.trains().count(), inbox.frames().count()), (0, 0));
    }
}

#[test]
fn a_train_is_no_longer_than_the_kernel_takes() {
    let mut outbox = Outbox::default();
    (0..100).for_each(|_| put(&mut outbox, 1, 100));
    (0..50).for_each(|_| put(&mut outbox, 2, 1452));
    let lens: Vec<_> = outbox.trains().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lens, [6400, 3600, 45 * 1452, 5 * 1452]);
    while outbox.room(60_000).is_some() {
        put(&mut outbox, 3, 60_000);
    }
    assert!(outbox.room(1).is_some() && outbox.room(OUTBOX).is_none());
}

/// A TCP super-segment as a stack makes it, behind an Ethernet header.
fn segment(v4: bool, options: usize, payload: &[u8], push: bool) -> (VnetHdr, Vec<u8>) {
    let ip = if v4 { 20 } else { 40 };
    let header = 20 + options;
    let len = ip + header + payload.len();
    let mut packet = vec![0; ip];
    if v4 {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[8..10].copy_from_slice(&[64, TCP]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = !checksum::fold(checksum::sum(&packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&[TCP, 64]);
        packet[8..40].fill(3);
    }
    let mut tcp = vec![0; header];
    tcp[..4].copy_from_slice(&[0, 80, 1, 2]);
    tcp[4..8].copy_from_slice(&0xFFFF_F000_u32.to_be_bytes());
    tcp[12] = (header as u8 / 4) << 4;
    tcp[13] = ACK | if push { PSH } else { 0 };
    tcp[20..].fill(1);
    let addresses = if v4 { 12..20 } else { 8..40 };
    let pseudo = checksum::pseudo(&packet[addresses], TCP, header + payload.len());
    tcp[16..18].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    packet.extend(tcp);
    packet.extend(payload);
    let mut frame = [STACK_MAC, TUNNEL_MAC].concat();
    frame.extend(if v4 { IPV4 } else { IPV6 }.to_be_bytes());
    frame.extend(packet);
    let header = VnetHdr {
        flags: NEEDS_CSUM,
        gso_type: if v4 { GSO_TCPV4 } else { GSO_TCPV6 },
        hdr_len: (HEADER_LEN + ip + header) as u16,
        gso_size: 1000,
        csum_start: (HEADER_LEN + ip) as u16,
        csum_offset: 16,
    };
    (header, frame)
}

fn cut(header: &VnetHdr, frame: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    emit(header, Frame::new(frame).unwrap(), TagEdit::Keep, Offloads::NONE, |_, pieces| {
        packets.push(pieces.concat()[HEADER_LEN..].to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    packets
}

fn joined<'a>(inbox: &mut Inbox, packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<(VnetHdr, Vec<u8>)> {
    for packet in packets {
        inbox.room(packet.len()).unwrap().copy_from_slice(packet);
        inbox.commit(packet.len());
    }
    let frames = inbox.frames().map(|(header, frame)| (*header, frame.to_vec())).collect();
    inbox.clear();
    frames
}

proptest! {
    #[test]
    fn what_was_cut_is_joined_again(v4: bool, words in 0..10usize, payload in prop::collection::vec(any::<u8>(), 1001..9000), push: bool) {
        let (header, frame) = segment(v4, words * 4, &payload, push);
        let frames = joined(&mut Inbox::default(), &cut(&header, &frame));
        prop_assert_eq!(frames, vec![(header, frame)]);
    }

    #[test]
    fn nothing_is_lost_or_joined_wrongly(change in 0..60usize, bit in 0..8u8, at in 1..4usize, v4: bool) {
        let payload: Vec<u8> = (0..4500).map(|n| n as u8).collect();
        let (header, frame) = segment(v4, 12, &payload, false);
        let mut packets = cut(&header, &frame);
        packets[at][change] ^= 1 << bit;
        let frames = joined(&mut Inbox::default(), &packets);
        // Cut again, the packets are what they were, but for what joining does not look at: checksums, which are made
        // anew, IPv4's number, which is counted, and PSH, which is the last one's.
        let again: Vec<Vec<u8>> = frames.iter().flat_map(|(header, frame)| match header.gso_type {
            0 => vec![frame[HEADER_LEN..].to_vec()],
            _ => cut(header, frame),
        }).collect();
        prop_assert_eq!(again.len(), packets.len());
        let ip = if v4 { 20 } else { 40 };
        for (was, is) in packets.iter().zip(&again) {
            let blank = |packet: &Vec<u8>| {
                let mut packet = packet.clone();
                packet[ip + 16..ip + 18].fill(0);
                if v4 {
                    packet[4..6].fill(0);
                    packet[10..12].fill(0);
                }
                packet
            };
            prop_assert_eq!(blank(was), blank(is));
        }
    }

    #[test]
    fn any_bytes_stay_what_they_are(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 20..200), 1..20)) {
        let frames = joined(&mut Inbox::default(), &packets);
        prop_assert_eq!(frames.len(), packets.len());
        for ((_, frame), packet) in frames.iter().zip(&packets) {
            prop_assert_eq!(&frame[HEADER_LEN..], &packet[..]);
        }
    }
}

//! Neighbour discovery and duplicate address detection.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use nix::errno::Errno;
use switch::offload::VnetHdr;
use switch::offload::checksum::{fold, sum};

use super::world::*;
use crate::config::Mac;
use crate::smol::net::Wish;
use crate::smol::net::output::{group_mac, pseudo_sum};
use crate::smol::tables::{Change, Nud};

const IPV6: u16 = 0x86DD;

/// An ICMPv6 message in a packet in a frame, summed.
pub(super) fn icmpv6(from: Mac, source: &str, to: &str, hops: u8, message: &[u8]) -> Vec<u8> {
    let (source, to): (Ipv6Addr, Ipv6Addr) = (source.parse().unwrap(), to.parse().unwrap());
    let mut message = message.to_vec();
    let value = !fold(pseudo_sum(source.into(), to.into(), 58, message.len()) + sum(&message));
    message[2..4].copy_from_slice(&value.to_be_bytes());
    let len = (message.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, len[0], len[1], 58, hops];
    let destination = if to.is_multicast() { group_mac(IpAddr::V6(to)) } else { mac(1) };
    let ends = [source.octets(), to.octets()].concat();
    [&destination.0[..], &from.0, &IPV6.to_be_bytes(), &head, &ends, &message].concat()
}

/// A solicitation or advertisement with options.
fn message(kind: u8, flags: u8, target: &str, options: &[u8]) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), options].concat()
}

const SOLICIT: u8 = 135;
const ADVERTISE: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ROUTER: u8 = 0x80;

fn neighbour(world: &World, address: &str) -> Option<(Option<Mac>, Nud, bool)> {
    let key = (ETH, address.parse().unwrap());
    let neighbour = world.nets[0].tables.neighbours.get(&key);
    neighbour.map(|neighbour| (neighbour.mac, neighbour.state, neighbour.router))
}

/// Types of the ICMPv6 messages that a stack sent, with destination and payload.
fn told(world: &World, from: usize) -> Vec<(u8, Ipv6Addr, Vec<u8>)> {
    let packets = world.sent(from, IPV6);
    let messages = packets.iter().filter(|packet| packet[6] == 58);
    messages
        .map(|packet| {
            let to: [u8; 16] = packet[24..40].try_into().unwrap();
            (packet[40], Ipv6Addr::from(to), packet[40..].to_vec())
        })
        .collect()
}

fn flags(world: &World, at: usize, address: &str) -> u32 {
    let address: IpAddr = address.parse().unwrap();
    world.nets[at].tables.addresses.iter().find(|have| have.net.addr() == address).unwrap().flags
}

#[test]
fn a_question_in_its_group_is_answered_to_who_asked() {
    let mut world = World::pair();
    let option = [1, 1, 2, 0, 0, 0, 0, 9];
    let ask = icmpv6(mac(9), "fe80::9", "ff02::1:ff00:1", 255, &message(SOLICIT, 0, "fd00::1", &option));
    world.deliver(0, &VnetHdr::default(), &ask);
    let answers = told(&world, 0);
    assert_eq!(answers.len(), 1);
    let (kind, to, answer) = &answers[0];
    assert_eq!((*kind, *to), (ADVERTISE, "fe80::9".parse().unwrap()));
    assert_eq!(answer[4], SOLICITED | OVERRIDE);
    assert_eq!(answer[24..], [2, 1, 2, 0, 0, 0, 0, 1]);
    assert_eq!(neighbour(&world, "fe80::9"), Some((Some(mac(9)), Nud::Delay, false)));
}

#[test]
fn what_comes_from_beyond_the_link_or_makes_no_sense_is_ignored() {
    let option = [1, 1, 2, 0, 0, 0, 0, 9];
    let good = message(SOLICIT, 0, "fd00::1", &option);
    let group = "ff02::1:ff00:1";
    let frames = [
        icmpv6(mac(9), "fe80::9", group, 254, &good),
        icmpv6(mac(9), "fe80::9", group, 255, &message(SOLICIT, 0, "fd00::7", &option)),
        icmpv6(mac(9), "fe80::9", group, 255, &message(SOLICIT, 0, "ff02::1", &option)),
        icmpv6(mac(9), "fe80::9", group, 255, &message(SOLICIT, 0, "fd00::1", &[1, 0, 2, 0, 0, 0, 0, 9])),
        icmpv6(mac(9), "fe80::9", group, 255, &message(SOLICIT, 0, "fd00::1", &[1, 2, 2, 0, 0, 0, 0, 9])),
        icmpv6(mac(9), "::", group, 255, &good),
        icmpv6(mac(9), "::", "fd00::1", 255, &message(SOLICIT, 0, "fd00::1", &[])),
        icmpv6(mac(9), "fe80::9", group, 255, &good[..20]),
    ];
    for (number, frame) in frames.iter().enumerate() {
        let mut world = World::pair();
        world.deliver(0, &VnetHdr::default(), frame);
        assert!(told(&world, 0).is_empty(), "{number}");
        assert!(world.nets[0].tables.neighbours.is_empty(), "{number}");
    }
}

#[test]
fn advertisements_follow_the_table_of_rfc_4861() {
    let target = |number: u8| [2, 1, 2, 0, 0, 0, 0, number];
    let tell = |world: &mut World, flags: u8, number: u8| {
        let to = if flags & SOLICITED != 0 { "fd00::1" } else { "ff02::1" };
        let frame =
            icmpv6(mac(number), "fd00::9", to, 255, &message(ADVERTISE, flags, "fd00::9", &target(number)));
        world.deliver(0, &VnetHdr::default(), &frame);
    };
    let mut world = World::pair();
    tell(&mut world, OVERRIDE, 9);
    assert_eq!(neighbour(&world, "fd00::9"), None, "nobody asked");
    world.send(0, &datagram("fd00::9", 99), b"x").unwrap();
    world.drain();
    assert_eq!(neighbour(&world, "fd00::9"), Some((None, Nud::Incomplete, false)));
    tell(&mut world, ROUTER, 9);
    assert_eq!(neighbour(&world, "fd00::9"), Some((Some(mac(9)), Nud::Stale, true)));
    tell(&mut world, SOLICITED, 9);
    assert_eq!(neighbour(&world, "fd00::9"), Some((Some(mac(9)), Nud::Reachable, false)));
    tell(&mut world, SOLICITED, 10);
    assert_eq!(
        neighbour(&world, "fd00::9"),
        Some((Some(mac(9)), Nud::Stale, false)),
        "doubted, not replaced"
    );
    tell(&mut world, SOLICITED, 10);
    assert_eq!(neighbour(&world, "fd00::9"), Some((Some(mac(9)), Nud::Stale, false)));
    tell(&mut world, SOLICITED | OVERRIDE, 10);
    assert_eq!(neighbour(&world, "fd00::9"), Some((Some(mac(10)), Nud::Reachable, false)));
}

#[test]
fn who_does_not_answer_is_reported() {
    let mut world = World::pair();
    world.send(0, &datagram("fd00::66", 17), &udp(b"hello")).unwrap();
    world.run(Duration::from_millis(3100));
    assert_eq!(told(&world, 0).iter().filter(|told| told.0 == SOLICIT).count(), 3);
    let (error, quoted) = world.inboxes[0].errors.pop().unwrap();
    assert_eq!((error.errno, error.icmp), (Errno::EHOSTUNREACH, (1, 3)));
    assert_eq!(quoted[8..], *b"hello");
}

const TENTATIVE: u32 = libc::IFA_F_TENTATIVE | libc::IFA_F_PERMANENT;
const FAILED: u32 = TENTATIVE | libc::IFA_F_DADFAILED;

/// A stack whose address has just appeared.
fn newcomer(flags: u32) -> World {
    let mut world = World::new(2);
    world.drain();
    world.log.clear();
    add_address_with(&mut world.nets[0], ETH, "fe80::1/64", flags);
    world.drain();
    world
}

#[test]
fn an_address_is_ours_when_nobody_objects() {
    let mut world = newcomer(libc::IFA_F_TENTATIVE);
    let route = |world: &World| {
        let wish = Wish { link: Some(ETH), ..Wish::default() };
        world.nets[0].route("fe80::2".parse().unwrap(), &wish).map(|path| path.source)
    };
    assert_eq!(route(&world), Err(Errno::EADDRNOTAVAIL));
    world.run(Duration::from_millis(2000));
    assert_eq!(flags(&world, 0, "fe80::1"), 0);
    assert_eq!(route(&world), Ok("fe80::1".parse().unwrap()));
    let told = told(&world, 0);
    let asked: Vec<_> = told.iter().filter(|told| told.0 == SOLICIT).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1, "ff02::1:ff00:1".parse::<Ipv6Addr>().unwrap());
    let packet = &world.sent(0, IPV6).into_iter().find(|packet| packet[40] == SOLICIT).unwrap();
    assert_eq!(packet[8..24], [0; 16], "asked by nobody yet");
    assert!(told.iter().any(|told| told.0 == ADVERTISE && told.1 == "ff02::1".parse::<Ipv6Addr>().unwrap()));
}

#[test]
fn an_address_without_detection_is_ours_at_once() {
    let world = newcomer(libc::IFA_F_TENTATIVE | libc::IFA_F_NODAD);
    assert_eq!(flags(&world, 0, "fe80::1"), libc::IFA_F_NODAD);
    assert!(!told(&world, 0).iter().any(|told| told.0 == SOLICIT));
}

#[test]
fn an_address_that_somebody_has_is_not_ours() {
    let group = "ff02::1:ff00:1";
    let objections = [
        icmpv6(mac(9), "::", group, 255, &message(SOLICIT, 0, "fe80::1", &[])),
        icmpv6(mac(9), "::", group, 255, &message(SOLICIT, 0, "fe80::1", &[14, 1, 1, 2, 3, 4, 5, 6])),
        icmpv6(mac(9), "fe80::1", "ff02::1", 255, &message(ADVERTISE, OVERRIDE, "fe80::1", &[])),
    ];
    for objection in objections {
        let mut world = newcomer(TENTATIVE);
        world.deliver(0, &VnetHdr::default(), &objection);
        world.run(Duration::from_secs(5));
        assert_eq!(flags(&world, 0, "fe80::1"), FAILED);
        // It is not answered for, and not used.
        let ask = message(SOLICIT, 0, "fe80::1", &[1, 1, 2, 0, 0, 0, 0, 9]);
        world.log.clear();
        world.deliver(0, &VnetHdr::default(), &icmpv6(mac(9), "fe80::9", group, 255, &ask));
        assert!(told(&world, 0).is_empty());
    }
}

#[test]
fn our_own_question_coming_back_is_no_objection() {
    let mut world = newcomer(libc::IFA_F_TENTATIVE);
    world.run(Duration::from_millis(1000));
    let question = world.log.iter().find(|sent| sent.from == 0 && sent.frame[54] == SOLICIT).unwrap().clone();
    world.deliver(0, &VnetHdr::default(), &question.frame);
    world.run(Duration::from_secs(2));
    assert_eq!(flags(&world, 0, "fe80::1"), 0);
}

#[test]
fn two_who_want_one_address_notice() {
    let mut world = World::pair();
    add_address_with(&mut world.nets[1], ETH, "fd00::1/64", TENTATIVE);
    world.run(Duration::from_secs(3));
    assert_eq!(flags(&world, 1, "fd00::1"), FAILED, "defended");
    assert_eq!(flags(&world, 0, "fd00::1"), libc::IFA_F_PERMANENT);
}

#[test]
fn detection_waits_for_the_link_and_starts_again_with_it() {
    let mut world = World::new(1);
    world.nets[0].tables.links.get_mut(&ETH).unwrap().carrier = false;
    world.nets[0].tables.changes.push_back(Change::Link(ETH));
    add_address_with(&mut world.nets[0], ETH, "fe80::1/64", libc::IFA_F_TENTATIVE);
    world.run(Duration::from_secs(10));
    assert_eq!(flags(&world, 0, "fe80::1"), libc::IFA_F_TENTATIVE);
    world.nets[0].tables.links.get_mut(&ETH).unwrap().carrier = true;
    world.nets[0].tables.changes.push_back(Change::Link(ETH));
    world.run(Duration::from_secs(3));
    assert_eq!(flags(&world, 0, "fe80::1"), 0);
}

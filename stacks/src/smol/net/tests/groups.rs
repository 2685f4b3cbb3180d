//! Group management: reports, queries, older versions.

use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use switch::offload::VnetHdr;
use switch::offload::checksum::{fold, sum};

use super::ip::ipv4;
use super::ndp::icmpv6;
use super::world::*;
use crate::config::Mac;
use crate::smol::net::GroupFilter;
use crate::smol::net::output::group_mac;
use crate::smol::tables::{Change, IfIndex};

const GROUP: &str = "239.1.2.3";
const GROUP_V6: &str = "ff05::99";

fn filter(include: bool, sources: &[&str]) -> GroupFilter {
    GroupFilter { include, sources: sources.iter().map(|source| source.parse().unwrap()).collect() }
}

fn want(world: &mut World, group: &str, filter: Option<&GroupFilter>) {
    let now = world.now;
    world.nets[0].set_group(now, ETH, group.parse().unwrap(), filter).unwrap();
}

/// What the first stack has reported since the log was cleared: destination, and the message behind its
/// checksum, of one family.
fn reports(world: &mut World, v6: bool) -> Vec<(IpAddr, u8, Vec<u8>)> {
    let packets = world.sent(0, if v6 { 0x86DD } else { 0x0800 });
    world.log.clear();
    let mut found = Vec::new();
    for packet in packets {
        let octets = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
        if v6 && packet[6] == 0 && packet[40] == 58 {
            assert_eq!((packet[7], &packet[42..46]), (1, &[5, 2, 0, 0][..]), "router alert, hop limit 1");
            assert_eq!(packet[8..10], [0xFE, 0x80]);
            found.push((IpAddr::from(octets(24)), packet[48], packet[54..].to_vec()));
        } else if !v6 && packet[9] == 2 {
            assert_eq!((packet[0], packet[8], &packet[20..24]), (0x46, 1, &[0x94, 4, 0, 0][..]));
            assert_eq!(fold(sum(&packet[24..])), 0xFFFF);
            let to = <[u8; 4]>::try_from(&packet[16..20]).unwrap();
            found.push((IpAddr::from(to), packet[24], packet[28..].to_vec()));
        }
    }
    found
}

/// An IGMP message from the second stack.
fn igmp(to: [u8; 4], message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let value = !fold(sum(&message));
    message[2..4].copy_from_slice(&value.to_be_bytes());
    ipv4(group_mac(IpAddr::from(to)), [10, 0, 0, 2], to, 2, &message)
}

/// A record of an IGMPv3 report.
fn record(kind: u8, sources: &[[u8; 4]]) -> Vec<u8> {
    [&[0, 0, 0, 1, kind, 0, 0, sources.len() as u8, 239, 1, 2, 3][..], &sources.concat()].concat()
}

const ROUTERS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(224, 0, 0, 22));

#[test]
fn joining_and_leaving_is_told_twice() {
    let mut world = World::pair();
    want(&mut world, GROUP, Some(&filter(false, &[])));
    world.run(Duration::ZERO);
    assert_eq!(reports(&mut world, false), [(ROUTERS, 0x22, record(4, &[]))]);
    world.run(Duration::from_secs(1));
    assert_eq!(reports(&mut world, false), [(ROUTERS, 0x22, record(4, &[]))]);
    world.run(Duration::from_secs(10));
    assert!(reports(&mut world, false).is_empty());
    want(&mut world, GROUP, None);
    world.run(Duration::from_secs(10));
    assert_eq!(reports(&mut world, false), vec![(ROUTERS, 0x22, record(3, &[])); 2]);
    world.run(Duration::from_secs(100));
    assert!(world.nets[0].poll_timeout().is_none());
}

#[test]
fn sources_are_told_as_they_come_and_go() {
    let mut world = World::pair();
    let (one, two) = ([10, 0, 0, 8], [10, 0, 0, 9]);
    let mut step = |filter: Option<GroupFilter>| {
        want(&mut world, GROUP, filter.as_ref());
        world.run(Duration::from_secs(5));
        let told = reports(&mut world, false);
        assert!(told.len() == 2 && told[0] == told[1]);
        told[0].2.clone()
    };
    assert_eq!(step(Some(filter(true, &["10.0.0.8"]))), record(5, &[one]));
    let both = [0, 0, 0, 2, 5, 0, 0, 1, 239, 1, 2, 3, 10, 0, 0, 9, 6, 0, 0, 1, 239, 1, 2, 3, 10, 0, 0, 8];
    assert_eq!(step(Some(filter(true, &["10.0.0.9"]))), both);
    assert_eq!(step(Some(filter(false, &["10.0.0.8"]))), record(4, &[one]));
    assert_eq!(step(Some(filter(false, &["10.0.0.8", "10.0.0.9"]))), record(6, &[two]));
    assert_eq!(step(Some(filter(false, &["10.0.0.9"]))), record(5, &[one]));
    assert_eq!(step(None), record(3, &[]));
}

#[test]
fn a_change_during_a_report_joins_it() {
    let mut world = World::pair();
    want(&mut world, GROUP, Some(&filter(false, &[])));
    world.run(Duration::ZERO);
    reports(&mut world, false);
    want(&mut world, GROUP, Some(&filter(false, &["10.0.0.8"])));
    world.run(Duration::from_secs(5));
    let told = reports(&mut world, false);
    assert_eq!(told, vec![(ROUTERS, 0x22, record(4, &[[10, 0, 0, 8]])); 2], "still the whole change");
}

#[test]
fn queries_are_answered_in_their_time() {
    let mut world = World::pair();
    want(&mut world, GROUP, Some(&filter(false, &["10.0.0.8"])));
    want(&mut world, "239.9.9.9", Some(&filter(false, &[])));
    world.run(Duration::from_secs(5));
    reports(&mut world, false);
    let general = igmp([224, 0, 0, 1], &[0x11, 20, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]);
    world.deliver(0, &VnetHdr::default(), &general);
    assert!(reports(&mut world, false).is_empty(), "not at once");
    world.run(Duration::from_secs(2));
    let told = reports(&mut world, false);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].1, &told[0].2[..4], told[0].2.len()), (0x22, &[0, 0, 0, 2][..], 4 + 8 + 4 + 8));
    let specific = igmp([239, 1, 2, 3], &[0x11, 10, 0, 0, 239, 1, 2, 3, 2, 125, 0, 0]);
    world.deliver(0, &VnetHdr::default(), &specific);
    world.run(Duration::from_secs(1));
    assert_eq!(reports(&mut world, false), [(ROUTERS, 0x22, record(2, &[[10, 0, 0, 8]]))]);
    // About two sources, of which one is wanted.
    let sources = [0x11, 10, 0, 0, 239, 1, 2, 3, 2, 125, 0, 2, 10, 0, 0, 7, 10, 0, 0, 8];
    world.deliver(0, &VnetHdr::default(), &igmp([239, 1, 2, 3], &sources));
    world.run(Duration::from_secs(1));
    assert_eq!(reports(&mut world, false), [(ROUTERS, 0x22, record(1, &[[10, 0, 0, 7]]))]);
    let other = igmp([239, 7, 7, 7], &[0x11, 10, 0, 0, 239, 7, 7, 7, 2, 125, 0, 0]);
    world.deliver(0, &VnetHdr::default(), &other);
    world.run(Duration::from_secs(2));
    assert!(reports(&mut world, false).is_empty());
}

#[test]
fn older_queriers_hear_their_own_version() {
    let group: IpAddr = GROUP.parse().unwrap();
    for (code, report, leaves) in [(10, 0x16, 1), (0, 0x12, 0)] {
        let mut world = World::pair();
        want(&mut world, GROUP, Some(&filter(false, &[])));
        world.run(Duration::from_secs(5));
        reports(&mut world, false);
        let query = igmp([224, 0, 0, 1], &[0x11, code, 0, 0, 0, 0, 0, 0]);
        world.deliver(0, &VnetHdr::default(), &query);
        world.run(Duration::from_secs(10));
        assert_eq!(reports(&mut world, false), [(group, report, vec![239, 1, 2, 3])]);
        want(&mut world, GROUP, None);
        world.run(Duration::from_secs(5));
        let told = reports(&mut world, false);
        assert_eq!(told.len(), leaves * 2);
        assert!(told.iter().all(|told| told.0 == "224.0.0.2".parse::<IpAddr>().unwrap() && told.1 == 0x17));
        world.run(Duration::from_secs(300));
        want(&mut world, GROUP, Some(&filter(false, &[])));
        world.run(Duration::from_secs(5));
        assert_eq!(reports(&mut world, false)[0].1, 0x22, "the old querier has gone");
    }
}

#[test]
fn another_members_report_is_enough_for_an_older_querier() {
    let mut world = World::pair();
    want(&mut world, GROUP, Some(&filter(false, &[])));
    world.run(Duration::from_secs(5));
    reports(&mut world, false);
    world.deliver(0, &VnetHdr::default(), &igmp([239, 1, 2, 3], &[0x11, 100, 0, 0, 239, 1, 2, 3]));
    world.deliver(0, &VnetHdr::default(), &igmp([239, 1, 2, 3], &[0x16, 0, 0, 0, 239, 1, 2, 3]));
    world.run(Duration::from_secs(20));
    assert!(reports(&mut world, false).is_empty());
}

#[test]
fn mld_says_the_same_of_ipv6_groups() {
    let routers: IpAddr = "ff02::16".parse().unwrap();
    let group: std::net::Ipv6Addr = GROUP_V6.parse().unwrap();
    let record = |kind: u8| [&[0, 1, kind, 0, 0, 0][..], &group.octets()].concat();
    let mut world = World::pair();
    world.run(Duration::from_secs(5));
    reports(&mut world, true);
    want(&mut world, GROUP_V6, Some(&filter(false, &[])));
    world.run(Duration::from_secs(5));
    assert_eq!(reports(&mut world, true), vec![(routers, 143, record(4)); 2]);
    let mut query = vec![130, 0, 0, 0, 0x13, 0x88, 0, 0];
    query.extend(group.octets());
    let older = query.clone();
    query.extend([2, 125, 0, 0]);
    let ask = |world: &mut World, message: &[u8]| {
        let frame = icmpv6(mac(2), "fe80::2", "ff02::1", 1, message);
        world.deliver(0, &VnetHdr::default(), &frame);
        world.run(Duration::from_secs(6));
        reports(world, true)
    };
    assert_eq!(ask(&mut world, &query), [(routers, 143, record(2))]);
    let told = ask(&mut world, &older);
    assert_eq!(told, [(group.into(), 131, [&[0, 0][..], &[0; 0], &group.octets()].concat())]);
    want(&mut world, GROUP_V6, None);
    world.run(Duration::from_secs(5));
    assert!(reports(&mut world, true).iter().all(|told| told.1 == 132));
}

#[test]
fn the_groups_of_our_addresses_are_joined_and_left_with_them() {
    let mut world = World::pair();
    let member = |world: &World, group: &str| world.nets[0].groups.is_member(ETH, group.parse().unwrap());
    assert!(member(&world, "ff02::1:ff00:1") && member(&world, "ff02::1") && member(&world, "224.0.0.1"));
    assert!(!member(&world, "ff02::1:ff00:7"));
    add_address(&mut world.nets[0], ETH, "fd00::7/64");
    world.drain();
    assert!(member(&world, "ff02::1:ff00:7"));
    let at = world.nets[0].tables.addresses.iter().position(|have| have.net.addr().to_string() == "fd00::7");
    let gone = world.nets[0].tables.addresses.remove(at.unwrap());
    world.nets[0].tables.changes.push_back(Change::AddressGone(gone));
    world.drain();
    assert!(!member(&world, "ff02::1:ff00:7"));
    assert!(member(&world, "ff02::1:ff00:1"), "two addresses share it");
}

#[test]
fn packets_of_a_group_arrive_while_we_are_in_it() {
    let mut world = World::pair();
    let frame = ipv4(Mac([1, 0, 0x5E, 1, 2, 3]), [10, 0, 0, 2], [239, 1, 2, 3], 99, b"hello");
    let give = |world: &mut World| {
        world.deliver(0, &VnetHdr::default(), &frame);
        world.take(0).len()
    };
    assert_eq!(give(&mut world), 0);
    want(&mut world, GROUP, Some(&filter(false, &[])));
    assert_eq!(give(&mut world), 1);
    want(&mut world, GROUP, Some(&filter(true, &[])));
    assert_eq!(give(&mut world), 0, "wanting nothing is not being in it");
}

#[test]
fn what_we_send_to_a_group_of_ours_comes_back_unless_it_shall_not() {
    let mut world = World::pair();
    add_gateway(&mut world.nets[0], "0.0.0.0/0", "10.0.0.254");
    want(&mut world, GROUP, Some(&filter(false, &[])));
    world.run(Duration::from_secs(5));
    world.take(0);
    world.log.clear();
    world.send(0, &datagram(GROUP, 17), &udp(b"hello")).unwrap();
    world.drain();
    let packet = world.take(0).pop().unwrap();
    assert_eq!((packet.link, packet.group_frame, packet.mac), (ETH, true, None));
    assert_eq!(world.log.pop().unwrap().frame[..6], [1, 0, 0x5E, 1, 2, 3]);
    let now = world.now;
    let path = world.nets[0].route(GROUP.parse().unwrap(), &Default::default()).unwrap();
    let quiet = crate::smol::net::Path { looped: false, ..path };
    world.nets[0].send(now, &quiet, &datagram(GROUP, 17), &[&udp(b"hello")]).unwrap();
    world.drain();
    assert!(world.take(0).is_empty());
    assert_eq!(world.log.len(), 1);
}

#[test]
fn groups_are_bounded_and_checked() {
    let mut world = World::pair();
    let now = world.now;
    let everything = filter(false, &[]);
    let net = &mut world.nets[0];
    assert_eq!(net.set_group(now, IfIndex(9), GROUP.parse().unwrap(), Some(&everything)), Err(Errno::ENODEV));
    assert_eq!(net.set_group(now, ETH, "10.0.0.1".parse().unwrap(), Some(&everything)), Err(Errno::EINVAL));
    let many = GroupFilter { include: true, sources: vec!["10.0.0.1".parse().unwrap(); 65] };
    assert_eq!(net.set_group(now, ETH, GROUP.parse().unwrap(), Some(&many)), Err(Errno::ENOBUFS));
    let joined = (0..2000u32)
        .take_while(|n| {
            let group = IpAddr::from(std::net::Ipv4Addr::from(0xEF00_0000 + n));
            net.set_group(now, ETH, group, Some(&everything)).is_ok()
        })
        .count();
    assert!((1000..=1024).contains(&joined), "{joined}");
    assert_eq!(net.set_group(now, ETH, "239.99.9.9".parse().unwrap(), None), Ok(()), "not in it");
}

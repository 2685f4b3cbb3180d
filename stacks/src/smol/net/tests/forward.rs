//! Forwarding: a router between two wires.

use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::ip::{fix, ipv4};
use super::world::*;
use crate::smol::net::{Datagram, Fragmenting, Wish};
use crate::smol::tables::{Change, IfIndex, LinkKind, RouteKind};

const SECOND: IfIndex = IfIndex(3);

/// Stack 0 with 10.0.0.1 and stack 2 with 10.1.0.1, and stack 1, the router, in between with .254.
fn world() -> World {
    let mut world = World::new(3);
    let router = &mut world.nets[1];
    router.tables.forwarding = true;
    router.tables.links.insert(SECOND, link(SECOND, LinkKind::Ethernet, mac(99)));
    router.tables.changes.push_back(Change::Link(SECOND));
    add_address(router, ETH, "10.0.0.254/24");
    add_address(router, ETH, "fd00::254/64");
    add_address(router, ETH, "fe80::254/64");
    add_address(router, SECOND, "10.1.0.254/24");
    add_address(router, SECOND, "fd01::254/64");
    for (stack, number) in [(0, 0), (2, 1)] {
        let net = &mut world.nets[stack];
        add_address(net, ETH, &format!("10.{number}.0.1/24"));
        add_address(net, ETH, &format!("fd0{number}::1/64"));
        add_address(net, ETH, &format!("fe80::{number}1/64"));
        add_gateway(net, "0.0.0.0/0", &format!("10.{number}.0.254"));
        add_gateway(net, "::/0", &format!("fd0{number}::254"));
    }
    world.wires.insert((1, SECOND), 1);
    world.wires.insert((2, ETH), 1);
    world.run(Duration::from_secs(5));
    (0..3).for_each(|at| drop(world.take(at)));
    world.log.clear();
    world
}

/// The error that the first stack heard.
fn heard(world: &mut World) -> Option<(Errno, (u8, u8), u32, String)> {
    world.run(Duration::from_secs(4));
    let (error, _) = world.inboxes[0].errors.pop()?;
    Some((error.errno, error.icmp, error.info, error.offender.to_string()))
}

#[test]
fn packets_find_their_way_and_back() {
    let mut world = world();
    for to in ["10.1.0.1", "fd01::1"] {
        assert_eq!(ping(&mut world, 0, to, 4000), 1, "{to}");
        world.take(2);
        world.send(0, &datagram(to, 17), &udp(b"hello")).unwrap();
        world.run(Duration::from_millis(20));
        let packet = world.take(2).pop().unwrap();
        assert_eq!((packet.ttl, packet.checked), (63, true));
    }
    world.nets[1].tables.forwarding = false;
    assert_eq!(ping(&mut world, 0, "10.1.0.1", 8), 0);
    assert_eq!(ping(&mut world, 0, "fd01::1", 8), 0);
    assert!(world.inboxes[0].errors.is_empty());
    assert_eq!(ping(&mut world, 0, "10.1.0.254", 8), 1, "an address of the router, on whatever interface");
}

#[test]
fn super_segments_pass_whole() {
    let mut world = world();
    for to in ["10.1.0.1", "fd01::1"] {
        assert_eq!(ping(&mut world, 0, to, 8), 1);
        for plain in [false, true] {
            world.take(2);
            let send = Datagram { gso_size: 1000, ..datagram(to, 17) };
            world.plain = plain;
            world.send(0, &send, &udp(&[7; 5000])).unwrap();
            world.run(Duration::from_millis(20));
            let got = world.take(2);
            assert_eq!(got.len(), if plain { 5 } else { 1 });
            assert!(got.iter().all(|packet| packet.checked));
        }
        world.plain = false;
    }
}

#[test]
fn who_comes_too_far_is_told() {
    let mut world = world();
    for (to, kind, router) in [("10.1.0.1", (11, 0), "10.0.0.254"), ("fd01::1", (3, 0), "fd00::254")] {
        world.send(0, &Datagram { ttl: 1, ..datagram(to, 17) }, &udp(b"hello")).unwrap();
        assert_eq!(heard(&mut world), Some((Errno::EHOSTUNREACH, kind, 0, router.into())));
        assert!(world.take(2).is_empty());
    }
}

#[test]
fn a_narrow_way_is_told_or_cut() {
    let mut world = world();
    for (net, at) in [(1, SECOND), (2, ETH)] {
        world.nets[net].tables.links.get_mut(&at).unwrap().mtu = 1300;
        world.nets[net].tables.changes.push_back(Change::Link(at));
    }
    world.drain();
    let send = |world: &mut World, to, fragmenting| {
        let datagram = Datagram { fragmenting, ..datagram(to, 17) };
        world.send(0, &datagram, &udp(&[5; 1400])).unwrap();
        heard(world).map(|(errno, icmp, info, _)| (errno, icmp, info))
    };
    let narrow = |kind| Some((Errno::EMSGSIZE, kind, 1300));
    assert_eq!(send(&mut world, "10.1.0.1", Fragmenting::Never), narrow((3, 4)));
    assert_eq!(send(&mut world, "fd01::1", Fragmenting::Allowed), narrow((2, 0)));
    assert!(world.take(2).is_empty());
    assert_eq!(send(&mut world, "10.1.0.1", Fragmenting::Allowed), None);
    let got = world.take(2).pop().unwrap();
    assert_eq!((got.payload.len(), got.checked), (1408, true), "the partial checksum was filled in");
    // The sockets believe it.
    for to in ["10.1.0.1", "fd01::1"] {
        let now = world.now;
        world.nets[0].set_path_mtu(now, to.parse().unwrap(), 1300);
        assert_eq!(send(&mut world, to, Fragmenting::Want), None);
        assert_eq!(world.take(2).len(), 1, "{to}");
    }
}

#[test]
fn ways_to_nowhere_are_told() {
    let mut world = world();
    for (to, kind) in [
        ("9.1.0.0/16", RouteKind::Unreachable),
        ("9.2.0.0/16", RouteKind::Prohibit),
        ("9.3.0.0/16", RouteKind::Blackhole),
        ("2a01::/32", RouteKind::Unreachable),
        ("2a02::/32", RouteKind::Prohibit),
        ("2a03::/32", RouteKind::Blackhole),
    ] {
        add_route(&mut world.nets[1], route(to, None, libc::RT_TABLE_MAIN, kind));
    }
    world.drain();
    let mut tell = |to| {
        world.send(0, &datagram(to, 17), &udp(b"hello")).unwrap();
        heard(&mut world).map(|heard| heard.1)
    };
    assert_eq!([tell("9.0.0.1"), tell("9.1.0.1")], [Some((3, 0)), Some((3, 1))]);
    assert_eq!([tell("9.2.0.1"), tell("9.3.0.1")], [Some((3, 13)), None]);
    assert_eq!([tell("2a00::1"), tell("2a01::1")], [Some((1, 0)), Some((1, 3))]);
    assert_eq!([tell("2a02::1"), tell("2a03::1")], [Some((1, 1)), None]);
    // Neighbours that are not there.
    assert_eq!([tell("10.1.0.77"), tell("fd01::77")], [Some((3, 1)), Some((1, 3))]);
}

#[test]
fn what_is_not_to_be_forwarded_is_not() {
    let mut world = world();
    assert_eq!(ping(&mut world, 0, "10.1.0.1", 8), 1);
    world.take(2);
    let router = mac(2);
    let mut frames = vec![
        ipv4(super::super::arp::BROADCAST, [10, 0, 0, 1], [10, 1, 0, 1], 99, b"hello"),
        ipv4(router, [169, 254, 0, 1], [10, 1, 0, 1], 99, b"hello"),
        ipv4(router, [10, 0, 0, 1], [10, 1, 0, 255], 99, b"hello"),
        ipv4(router, [10, 0, 0, 1], [240, 1, 0, 255], 99, b"hello"),
        ipv4(router, [127, 0, 0, 1], [10, 1, 0, 1], 99, b"hello"),
    ];
    for frame in &mut frames {
        fix(frame);
        world.log.clear();
        world.deliver(1, &VnetHdr::default(), frame);
        world.run(Duration::from_secs(1));
        assert!(world.take(2).is_empty() && world.sent(1, 0x0800).is_empty());
    }
    // A link-local source does not reach beyond its link.
    let now = world.now;
    let wish = Wish { source: Some("fe80::1".parse().unwrap()), ..Wish::default() };
    let path = world.nets[0].route("fd01::1".parse().unwrap(), &wish).unwrap();
    assert_eq!(path.source, "fe80::1".parse::<IpAddr>().unwrap());
    let path = crate::smol::net::Path { source: "fe80::1".parse().unwrap(), ..path };
    world.nets[0].send(now, &path, &datagram("fd01::1", 17), &[&udp(b"hello")]).unwrap();
    world.run(Duration::from_secs(1));
    assert!(world.take(2).is_empty());
}

#[test]
fn a_sender_hears_of_a_nearer_neighbour_and_believes_it() {
    let mut world = world();
    add_address(&mut world.nets[1], ETH, "10.5.0.254/24");
    add_route(&mut world.nets[0], route("10.5.0.0/24", Some(ETH), libc::RT_TABLE_MAIN, RouteKind::Unicast));
    world.wires.remove(&(2, ETH));
    add_address(&mut world.nets[2], ETH, "10.5.0.9/24");
    add_address(&mut world.nets[2], ETH, "fd07::9/64");
    let gateway = |net: &mut crate::smol::net::Net, to: &str, gateway: &str| {
        add_gateway(net, to, gateway);
    };
    // The sender knows only the router's way; the router knows that 10.5.0.9 and fe80::11 are on its link.
    gateway(&mut world.nets[0], "10.5.0.9/32", "10.0.0.254");
    gateway(&mut world.nets[1], "fd07::/64", "fe80::11");
    gateway(&mut world.nets[0], "fd07::/64", "fe80::254");
    world.drain();
    world.send(0, &datagram("10.5.0.9", 99), b"hello, world").unwrap();
    world.send(0, &datagram("fd07::9", 99), b"hello, world").unwrap();
    world.run(Duration::from_secs(1));
    assert_eq!(world.take(2).len(), 2, "they are forwarded all the same");
    let next = |world: &World, to: &str| {
        world.nets[0].route(to.parse().unwrap(), &Wish::default()).unwrap().next_hop.to_string()
    };
    assert_eq!(next(&world, "10.5.0.9"), "10.5.0.9");
    assert_eq!(next(&world, "fd07::9"), "fe80::11");
    world.log.clear();
    world.send(0, &datagram("10.5.0.9", 99), b"hello, world").unwrap();
    world.run(Duration::from_secs(1));
    assert_eq!(world.take(2).len(), 1);
    assert!(world.sent(1, 0x0800).is_empty(), "the router has no more to do with it");
}

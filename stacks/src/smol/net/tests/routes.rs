//! Which way, and from which address.

use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use proptest::prelude::*;

use super::world::*;
use crate::smol::net::{Net, Path, Wish};
use crate::smol::tables::{Change, IfIndex, LOOPBACK, LinkKind, Route, RouteKind};

const SECOND: IfIndex = IfIndex(3);
const MAIN: u8 = libc::RT_TABLE_MAIN;

/// A stack with two interfaces, 10.0.0.1/24 and 192.168.0.1/16, and IPv6.
fn net() -> Net {
    let mut world = World::pair();
    let mut net = world.nets.remove(0);
    net.tables.links.insert(SECOND, link(SECOND, LinkKind::Ethernet, mac(99)));
    net.tables.changes.push_back(Change::Link(SECOND));
    add_address(&mut net, SECOND, "192.168.0.1/16");
    add_address(&mut net, SECOND, "fe80::99/64");
    add_address(&mut net, SECOND, "2001:db8::1/64");
    settle(&mut net, world.now);
    net
}

fn now() -> std::time::Instant {
    World::new(0).now
}

fn add(net: &mut Net, route: Route) {
    add_route(net, route);
    settle(net, now());
}

fn ask(net: &Net, to: &str) -> Result<Path, Errno> {
    net.route(to.parse().unwrap(), &Wish::default())
}

fn by(to: &str, link: IfIndex, gateway: &str, metric: u32) -> Route {
    let gateway = Some(gateway.parse().unwrap());
    Route { gateway, metric, scope: 0, ..route(to, Some(link), MAIN, RouteKind::Unicast) }
}

fn hop(net: &Net, to: &str) -> Result<(IfIndex, String, String), Errno> {
    ask(net, to).map(|path| (path.link, path.next_hop.to_string(), path.source.to_string()))
}

fn way(link: IfIndex, next: &str, source: &str) -> Result<(IfIndex, String, String), Errno> {
    Ok((link, next.into(), source.into()))
}

#[test]
fn the_longest_prefix_wins_then_the_lowest_metric() {
    let mut net = net();
    assert_eq!(ask(&net, "8.8.8.8"), Err(Errno::ENETUNREACH));
    assert_eq!(ask(&net, "2001::8"), Err(Errno::ENETUNREACH));
    add(&mut net, by("0.0.0.0/0", ETH, "10.0.0.254", 100));
    assert_eq!(hop(&net, "8.8.8.8"), way(ETH, "10.0.0.254", "10.0.0.1"));
    add(&mut net, by("0.0.0.0/0", SECOND, "192.168.0.254", 50));
    assert_eq!(hop(&net, "8.8.8.8"), way(SECOND, "192.168.0.254", "192.168.0.1"));
    add(&mut net, by("8.0.0.0/8", ETH, "10.0.0.253", 1000));
    assert_eq!(hop(&net, "8.8.8.8"), way(ETH, "10.0.0.253", "10.0.0.1"));
    assert_eq!(hop(&net, "10.0.0.7"), way(ETH, "10.0.0.7", "10.0.0.1"));
    add(&mut net, by("::/0", ETH, "fe80::254", 1024));
    assert_eq!(hop(&net, "2a00::1"), way(ETH, "fe80::254", "fd00::1"), "rule 5 comes before rule 6");
    assert_eq!(hop(&net, "2001:db8::7"), way(SECOND, "2001:db8::7", "2001:db8::1"));
    // A route over a link that is down is none.
    net.tables.links.get_mut(&ETH).unwrap().up = false;
    assert_eq!(hop(&net, "8.8.8.8").map(|hop| hop.0), Ok(SECOND));
}

#[test]
fn routes_that_lead_nowhere_have_their_errno() {
    let mut net = net();
    for (number, (kind, errno)) in [
        (RouteKind::Blackhole, Errno::EINVAL),
        (RouteKind::Unreachable, Errno::EHOSTUNREACH),
        (RouteKind::Prohibit, Errno::EACCES),
    ]
    .into_iter()
    .enumerate()
    {
        add(&mut net, route(&format!("9.{number}.0.0/16"), None, MAIN, kind));
        add(&mut net, route(&format!("2a0{number}::/32"), Some(LOOPBACK), MAIN, kind));
        assert_eq!(ask(&net, &format!("9.{number}.1.1")), Err(errno));
        assert_eq!(ask(&net, &format!("2a0{number}::1")), Err(errno));
    }
    // Tables that nobody asks are not asked.
    add(&mut net, Route { table: 100, ..by("7.0.0.0/8", ETH, "10.0.0.254", 0) });
    assert_eq!(ask(&net, "7.7.7.7"), Err(Errno::ENETUNREACH));
    add(&mut net, Route { table: 253, ..by("7.0.0.0/8", ETH, "10.0.0.254", 0) });
    assert_eq!(hop(&net, "7.7.7.7"), way(ETH, "10.0.0.254", "10.0.0.1"));
}

#[test]
fn a_named_interface_is_used_or_refused() {
    let mut net = net();
    add(&mut net, by("0.0.0.0/0", ETH, "10.0.0.254", 0));
    let ask = |net: &Net, to: &str, link| {
        let wish = Wish { link: Some(link), ..Wish::default() };
        net.route(to.parse().unwrap(), &wish)
            .map(|path| (path.link, path.next_hop.to_string(), path.source.to_string()))
    };
    assert_eq!(ask(&net, "8.8.8.8", ETH), way(ETH, "10.0.0.254", "10.0.0.1"));
    assert_eq!(ask(&net, "8.8.8.8", SECOND), way(SECOND, "8.8.8.8", "192.168.0.1"), "it must be there");
    assert_eq!(ask(&net, "8.8.8.8", IfIndex(77)), Err(Errno::ENODEV));
    assert_eq!(ask(&net, "2a00::1", SECOND), Err(Errno::ENETUNREACH), "IPv6 wants a route");
    assert_eq!(ask(&net, "fe80::5", ETH), way(ETH, "fe80::5", "fe80::1"));
    assert_eq!(ask(&net, "fe80::5", SECOND), way(SECOND, "fe80::5", "fe80::99"));
    assert_eq!(net.route("fe80::5".parse().unwrap(), &Wish::default()), Err(Errno::EINVAL));
    net.tables.links.get_mut(&SECOND).unwrap().up = false;
    assert_eq!(ask(&net, "8.8.8.8", SECOND), Err(Errno::ENETUNREACH));
}

#[test]
fn only_on_link_means_without_gateways() {
    let mut net = net();
    add(&mut net, by("0.0.0.0/0", ETH, "10.0.0.254", 0));
    let ask = |to: &str| net.route(to.parse().unwrap(), &Wish { on_link: true, ..Wish::default() });
    assert_eq!(ask("8.8.8.8"), Err(Errno::ENETUNREACH));
    assert!(ask("10.0.0.9").is_ok());
}

#[test]
fn a_wished_source_is_checked_as_linux_checks_it() {
    let net = net();
    let ask = |to: &str, source: &str| {
        let wish = Wish { source: Some(source.parse().unwrap()), ..Wish::default() };
        net.route(to.parse().unwrap(), &wish).map(|path| (path.link, path.source.to_string()))
    };
    assert_eq!(ask("10.0.0.9", "192.168.0.1"), Ok((ETH, "192.168.0.1".into())), "any address of ours");
    assert_eq!(ask("10.0.0.9", "10.0.0.77"), Err(Errno::ENETUNREACH));
    assert_eq!(ask("10.0.0.9", "224.0.0.1"), Err(Errno::EINVAL));
    assert_eq!(ask("10.0.0.9", "127.0.0.1"), Err(Errno::EINVAL), "the loopback's does not leave");
    assert_eq!(ask("127.0.0.1", "127.0.0.9"), Ok((LOOPBACK, "127.0.0.9".into())));
    assert_eq!(ask("255.255.255.255", "192.168.0.1"), Ok((SECOND, "192.168.0.1".into())), "its interface");
    assert_eq!(ask("10.0.0.9", "fd00::1"), Err(Errno::EINVAL));
}

#[test]
fn groups_and_broadcasts() {
    let mut net = net();
    assert_eq!(ask(&net, "255.255.255.255"), Err(Errno::ENETUNREACH));
    assert_eq!(ask(&net, "224.1.2.3"), Err(Errno::ENETUNREACH));
    add(&mut net, by("0.0.0.0/0", ETH, "10.0.0.254", 0));
    for to in ["255.255.255.255", "10.0.0.255", "224.1.2.3"] {
        let path = ask(&net, to).unwrap();
        assert_eq!((path.link, path.group, path.local), (ETH, true, false), "{to}");
        assert_eq!(path.next_hop.to_string(), to, "no gateway is asked");
        assert_eq!(path.looped, to.ends_with("255"), "broadcasts come back");
    }
    net.set_group(now(), ETH, "224.1.2.3".parse().unwrap(), Some(&everything())).unwrap();
    assert!(ask(&net, "224.1.2.3").unwrap().looped);
    let path = ask(&net, "ff02::5").unwrap();
    assert_eq!((path.group, path.looped, path.source.to_string()), (true, false, "fe80::1".to_owned()));
    let wish = Wish { link: Some(SECOND), ..Wish::default() };
    assert_eq!(net.route("ff02::5".parse().unwrap(), &wish).unwrap().source.to_string(), "fe80::99");
}

fn everything() -> crate::smol::net::GroupFilter {
    crate::smol::net::GroupFilter { include: false, sources: Vec::new() }
}

#[test]
fn mtus_are_those_of_link_route_and_loopback() {
    let mut net = net();
    add(&mut net, Route { mtu: Some(1400), ..by("9.0.0.0/8", ETH, "10.0.0.254", 0) });
    let mtu = |to| ask(&net, to).map(|path| path.mtu);
    assert_eq!([mtu("10.0.0.9"), mtu("9.9.9.9")], [Ok(1500), Ok(1400)]);
    assert_eq!([mtu("127.0.0.1"), mtu("10.0.0.1"), mtu("::1")], [Ok(65_535), Ok(65_535), Ok(65_536)]);
}

#[test]
fn a_gateway_that_does_not_answer_is_passed_over_in_ipv6() {
    let mut world = World::pair();
    for gateway in ["fd00::66", "fd00::2"] {
        add_gateway(&mut world.nets[0], "::/0", gateway);
    }
    world.drain();
    let next = |world: &World| ask(&world.nets[0], "2a00::1").unwrap().next_hop;
    assert_eq!(next(&world), "fd00::66".parse::<IpAddr>().unwrap());
    world.send(0, &datagram("2a00::1", 99), b"x").unwrap();
    world.run(Duration::from_secs(4));
    assert_eq!(next(&world), "fd00::2".parse::<IpAddr>().unwrap());
}

#[test]
fn ipv6_sources_as_rfc_6724_chooses_them() {
    let choose = |sources: &[(&str, u32)], to: &str| {
        let mut world = World::new(1);
        let net = &mut world.nets[0];
        for (source, flags) in sources {
            add_address_with(net, ETH, source, *flags);
        }
        add_route(net, route("::/0", Some(ETH), MAIN, RouteKind::Unicast));
        world.drain();
        ask(&world.nets[0], to).map(|path| path.source.to_string())
    };
    let plain = |text| (text, 0);
    // Clause 5, rules 1, 2, 3, 6 and 8; examples of clause 10.1.
    let two = [plain("2001:db8:1::1/64"), plain("fe80::1/64")];
    assert_eq!(choose(&two, "2001:db8:2::1").unwrap(), "2001:db8:1::1");
    assert_eq!(choose(&two, "ff05::1").unwrap(), "2001:db8:1::1");
    let near = [plain("2001:db8:1::2/64"), plain("2001:db8:3::2/64")];
    assert_eq!(choose(&near, "2001:db8:1::1").unwrap(), "2001:db8:1::2");
    assert_eq!(choose(&near, "2001:db8:3::1").unwrap(), "2001:db8:3::2");
    let labels = [plain("2002:c633:6401::d5e3/64"), plain("2001:db8:1::2/64")];
    assert_eq!(choose(&labels, "2002:c633:6401::1").unwrap(), "2002:c633:6401::d5e3");
    assert_eq!(choose(&labels, "2001:db8:7::1").unwrap(), "2001:db8:1::2");
    let ula = [plain("fd00::1/64"), plain("2001:db8:1::2/64")];
    assert_eq!(choose(&ula, "2a00::1").unwrap(), "2001:db8:1::2");
    assert_eq!(choose(&ula, "fd01::1").unwrap(), "fd00::1");
    let old = [("2001:db8:1::2/64", libc::IFA_F_DEPRECATED), ("2001:db8:ffff::2/64", 0)];
    assert_eq!(choose(&old, "2001:db8:1::1").unwrap(), "2001:db8:ffff::2");
    let same = [plain("2001:db8:1::2/64"), plain("2001:db8:1::3/64")];
    assert_eq!(choose(&same, "2a00::1").unwrap(), "2001:db8:1::3", "the youngest");
    let tentative = [("2001:db8:1::2/64", libc::IFA_F_TENTATIVE)];
    assert_eq!(choose(&tentative, "2a00::1"), Err(Errno::EADDRNOTAVAIL));
}

#[test]
fn changes_make_paths_old() {
    let mut net = net();
    let path = ask(&net, "10.0.0.9").unwrap();
    assert_eq!(path.generation, net.generation());
    add(&mut net, by("0.0.0.0/0", ETH, "10.0.0.254", 0));
    assert_ne!(path.generation, net.generation());
    let before = net.generation();
    net.tables.links.get_mut(&ETH).unwrap().counters.rx_packets += 1;
    assert_eq!(before, net.generation());
}

proptest! {
    /// The index finds what a look at every route finds.
    #[test]
    fn the_index_equals_a_plain_search(
        routes in prop::collection::vec((any::<u32>(), 0u8..=32, 0u32..4), 0..40),
        to in prop::collection::vec(any::<u32>(), 20),
    ) {
        let mut world = World::new(1);
        let net = &mut world.nets[0];
        for (number, (network, length, metric)) in routes.iter().enumerate() {
            // Addresses that are special have rules of their own.
            let network = std::net::Ipv4Addr::from(network & 0x1F0F_0F0F | 0x1000_0000);
            let mut route = by(&format!("{network}/{length}"), ETH, "10.0.0.1", *metric);
            route.gateway = Some(std::net::Ipv4Addr::from(0x0A00_0000 + number as u32).into());
            add_route(net, route);
        }
        world.drain();
        let net = &world.nets[0];
        for to in to {
            let to = IpAddr::from(std::net::Ipv4Addr::from(to & 0x1F0F_0F0F | 0x1000_0000));
            let fitting = net.tables.routes.iter().filter(|route| route.to.contains(&to));
            let best = fitting.min_by_key(|route| (32 - route.to.prefix_len(), route.metric));
            let found = net.route(to, &Wish::default()).map(|path| path.next_hop);
            prop_assert_eq!(found.ok(), best.and_then(|route| route.gateway));
        }
    }
}

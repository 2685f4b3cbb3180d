//! What a Linux 6.18 namespace shows after the same commands, line by line as ip(8) prints it.

use std::fmt::Write;
use std::time::Duration;

use proptest::prelude::*;

use super::routes::order;
use super::*;
use crate::config::StackConfig;

const MAC: Mac = Mac([0x7a, 0xdf, 0x52, 0x35, 0x39, 0x7b]);
const ETH0: IfIndex = IfIndex(2);

mod routes;

/// `lo` up, and `eth0` down without carrier.
fn host() -> Tables {
    let mut tables = Tables::new();
    tables.set_up(LOOPBACK, true).unwrap();
    assert_eq!(tables.add_link(0, "eth0", LinkKind::Ethernet, MAC), Ok(ETH0));
    tables
}

/// As [`host`], and `eth0` up with carrier, its link-local address found to be its own.
fn running() -> Tables {
    let mut tables = host();
    tables.set_carrier(ETH0, true).unwrap();
    tables.set_up(ETH0, true).unwrap();
    tables.dad_done(ETH0, "fe80::78df:52ff:fe35:397b".parse().unwrap(), true);
    tables
}

#[expect(clippy::disallowed_methods, reason = "any moment will do, and there is no other way to one")]
fn moment() -> Instant {
    Instant::now()
}

/// Errno and Linux's words.
type Answer = Result<(), (Errno, &'static str)>;

fn add(tables: &mut Tables, net: &str, flags: u32) -> Result<(), Errno> {
    let address = Address { flags, ..Address::new(ETH0, net.parse().unwrap()) };
    tables.add_address(address, Mode::ADD).map_err(|e| e.errno)
}

fn remove(tables: &mut Tables, net: &str) -> Result<(), Errno> {
    tables.remove_address(ETH0, net.parse().unwrap()).map_err(|e| e.errno)
}

/// A route as `ip route` makes it of `TO [via GATEWAY] [dev eth0]`.
fn route(words: &str) -> Route {
    let mut words = words.split(' ');
    let mut route = Route {
        to: words.next().unwrap().parse().unwrap(),
        gateway: None,
        link: None,
        source: None,
        metric: 0,
        table: TABLE_MAIN,
        kind: RouteKind::Unicast,
        scope: SCOPE_LINK,
        protocol: PROTOCOL_BOOT,
        flags: 0,
        mtu: None,
        expires: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match word {
            "via" => (route.gateway, route.scope) = (Some(value().parse().unwrap()), SCOPE_UNIVERSE),
            "dev" => route.link = Some(if value() == "lo" { LOOPBACK } else { ETH0 }),
            "src" => route.source = Some(value().parse().unwrap()),
            "metric" => route.metric = value().parse().unwrap(),
            "scope" => route.scope = value().parse().unwrap(),
            "onlink" => route.flags = NEXTHOP_ONLINK,
            "blackhole" => (route.kind, route.scope) = (RouteKind::Blackhole, SCOPE_UNIVERSE),
            _ => panic!("{word}"),
        }
    }
    route
}

fn try_route(tables: &mut Tables, words: &str, mode: Mode) -> Answer {
    tables.add_route(route(words), mode).map_err(|e| (e.errno, e.why))
}

fn delete(tables: &mut Tables, words: &str) -> Result<(), Errno> {
    let Route { to, gateway, link, .. } = route(words);
    let which = RouteMatch { gateway, link, ..RouteMatch::new(to) };
    tables.remove_route(&which).map_err(|e| e.errno)
}

/// `ip -d route show table all` and the same with `-6`, less what is the same on all lines.
fn shown(tables: &Tables) -> String {
    let mut text = String::new();
    for route in &tables.routes {
        let _ = write!(text, "{:?} {}", route.kind, route.to);
        if let Some(gateway) = route.gateway {
            let _ = write!(text, " via {gateway}");
        }
        if let Some(link) = route.link {
            let _ = write!(text, " dev {}", tables.links[&link].name);
        }
        let _ = write!(text, " table {}", route.table);
        if let Some(source) = route.source {
            let _ = write!(text, " src {source}");
        }
        if route.metric != 0 {
            let _ = write!(text, " metric {}", route.metric);
        }
        text.push('\n');
    }
    text
}

const LOOPBACK_ROUTES_V4: &str = "\
Local 127.0.0.0/8 dev lo table 255 src 127.0.0.1
Local 127.0.0.1/32 dev lo table 255 src 127.0.0.1
Broadcast 127.255.255.255/32 dev lo table 255 src 127.0.0.1
";

#[test]
fn a_loopback_comes_up_with_its_addresses() {
    let mut tables = Tables::new();
    assert!(tables.addresses.is_empty() && tables.routes.is_empty() && !tables.links[&LOOPBACK].up);
    tables.set_up(LOOPBACK, true).unwrap();
    assert_eq!(shown(&tables), format!("{LOOPBACK_ROUTES_V4}Local ::1/128 dev lo table 255\n"));
    let changes: Vec<_> = tables.changes.iter().map(|c| format!("{c:?}")).collect();
    assert_eq!(changes.len(), 1 + 1 + 3 + 1 + 1, "{changes:#?}");
    assert!(changes[0].starts_with("Link"));
    // It keeps its IPv4 address when it goes down, not the IPv6 one.
    tables.set_up(LOOPBACK, false).unwrap();
    assert_eq!(tables.addresses.len(), 1);
    assert_eq!(shown(&tables), LOOPBACK_ROUTES_V4.lines().take(2).fold(String::new(), |t, l| t + l + "\n"));
    tables.set_up(LOOPBACK, true).unwrap();
    assert_eq!(tables.addresses.len(), 2);
}

#[test]
fn an_ethernet_link_gets_its_link_local_address_with_its_carrier() {
    let mut tables = host();
    tables.set_up(ETH0, true).unwrap();
    assert_eq!(tables.addresses_of(ETH0).count(), 0);
    tables.set_carrier(ETH0, true).unwrap();
    let own: Vec<_> = tables.addresses_of(ETH0).cloned().collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].net.to_string(), "fe80::78df:52ff:fe35:397b/64");
    assert_eq!(own[0].flags, ifa_flags::TENTATIVE | ifa_flags::PERMANENT);
    let groups = "Multicast ff00::/8 dev eth0 table 255 metric 256\n";
    let lo = "Local ::1/128 dev lo table 255\n";
    let network = "Unicast fe80::/64 dev eth0 table 254 metric 256\n";
    assert_eq!(shown(&tables), format!("{LOOPBACK_ROUTES_V4}{network}{lo}{groups}"));
    tables.dad_done(ETH0, "fe80::78df:52ff:fe35:397b".parse().unwrap(), true);
    let local = "Local fe80::78df:52ff:fe35:397b/128 dev eth0 table 255\n";
    assert_eq!(shown(&tables), format!("{LOOPBACK_ROUTES_V4}{network}{lo}{local}{groups}"));
    // The carrier's loss takes nothing away, down does.
    let all = shown(&tables);
    tables.set_carrier(ETH0, false).unwrap();
    assert_eq!(shown(&tables), all);
    tables.set_up(ETH0, false).unwrap();
    assert_eq!(shown(&tables), format!("{LOOPBACK_ROUTES_V4}{lo}"));
    assert_eq!(tables.addresses_of(ETH0).count(), 0);
}

#[test]
fn an_address_brings_its_routes() {
    let mut tables = running();
    add(&mut tables, "10.0.0.2/24", 0).unwrap();
    let second = Address {
        broadcast: Some("10.0.0.255".parse().unwrap()),
        ..Address::new(ETH0, "10.0.0.3/24".parse().unwrap())
    };
    tables.add_address(second, Mode::ADD).unwrap();
    add(&mut tables, "fd00::2/64", 0).unwrap();
    let before = "\
Unicast 10.0.0.0/24 dev eth0 table 254 src 10.0.0.2
Local 10.0.0.2/32 dev eth0 table 255 src 10.0.0.2
Local 10.0.0.3/32 dev eth0 table 255 src 10.0.0.2
Broadcast 10.0.0.255/32 dev eth0 table 255 src 10.0.0.2
Local 127.0.0.0/8 dev lo table 255 src 127.0.0.1
Local 127.0.0.1/32 dev lo table 255 src 127.0.0.1
Broadcast 127.255.255.255/32 dev lo table 255 src 127.0.0.1
Unicast fd00::/64 dev eth0 table 254 metric 256
Unicast fe80::/64 dev eth0 table 254 metric 256
Local ::1/128 dev lo table 255
Local fe80::78df:52ff:fe35:397b/128 dev eth0 table 255
Multicast ff00::/8 dev eth0 table 255 metric 256
";
    assert_eq!(shown(&tables), before);
    let order: Vec<_> = tables.addresses_of(ETH0).map(|a| a.net.to_string()).collect();
    assert_eq!(order, ["fd00::2/64", "fe80::78df:52ff:fe35:397b/64", "10.0.0.2/24", "10.0.0.3/24"]);
    assert_eq!(tables.addresses.last().unwrap().flags, ifa_flags::SECONDARY | ifa_flags::PERMANENT);
    tables.dad_done(ETH0, "fd00::2".parse().unwrap(), true);
    assert!(shown(&tables).contains("Local fd00::2/128 dev eth0 table 255\n"));

    // IPv4 keeps its local routes when the link goes down.
    tables.set_up(ETH0, false).unwrap();
    let down = shown(&tables);
    let of_eth0: Vec<_> = down.lines().filter(|line| line.contains("eth0")).collect();
    let local = [
        "Local 10.0.0.2/32 dev eth0 table 255 src 10.0.0.2",
        "Local 10.0.0.3/32 dev eth0 table 255 src 10.0.0.2",
    ];
    assert_eq!(of_eth0, local);
    tables.set_up(ETH0, true).unwrap();
    assert!(shown(&tables).starts_with("Unicast 10.0.0.0/24"));
}

#[test]
fn a_primary_takes_its_secondaries_along() {
    let mut tables = running();
    for net in ["10.0.0.2/24", "10.0.0.3/24", "10.0.0.130/25", "10.1.0.2/24"] {
        add(&mut tables, net, 0).unwrap();
    }
    assert_eq!(add(&mut tables, "10.0.0.3/24", 0), Err(Errno::EEXIST));
    try_route(&mut tables, "10.9.0.0/16 via 10.0.0.1", Mode::ADD).unwrap();
    try_route(&mut tables, "10.8.0.0/16 via 10.1.0.1 src 10.0.0.3", Mode::ADD).unwrap();
    remove(&mut tables, "10.0.0.2/24").unwrap();
    let left: Vec<_> =
        tables.addresses_of(ETH0).filter(|a| a.net.addr().is_ipv4()).map(|a| a.net.to_string()).collect();
    assert_eq!(left, ["10.0.0.130/25", "10.1.0.2/24"]);
    let text = shown(&tables);
    assert!(!text.contains("10.0.0.0/24") && !text.contains("10.0.0.3/32"), "{text}");
    // A route through the network that went stays; one that prefers an address that went does not.
    assert!(text.contains("10.9.0.0/16") && !text.contains("10.8.0.0/16"), "{text}");
    assert!(text.contains("Broadcast 10.0.0.255/32 dev eth0 table 255 src 10.0.0.130"), "{text}");
    // The last one takes every IPv4 route of the link along.
    remove(&mut tables, "10.0.0.130/25").unwrap();
    remove(&mut tables, "10.1.0.2/24").unwrap();
    assert!(!shown(&tables).lines().any(|line| line.contains("eth0") && line.contains("10.")));
    assert_eq!(remove(&mut tables, "10.1.0.2/24"), Err(Errno::EADDRNOTAVAIL));
}

#[test]
fn addresses_with_a_peer_a_label_or_no_network() {
    let mut tables = running();
    let mut address = Address::new(ETH0, "10.0.0.1/32".parse().unwrap());
    address.peer = Some("10.0.0.2".parse().unwrap());
    tables.add_address(address, Mode::ADD).unwrap();
    add(&mut tables, "10.5.0.1/32", 0).unwrap();
    add(&mut tables, "10.6.0.0/31", 0).unwrap();
    add(&mut tables, "10.7.0.1/24", ifa_flags::NOPREFIXROUTE).unwrap();
    let text = shown(&tables);
    assert!(text.contains("Unicast 10.0.0.2/32 dev eth0 table 254 src 10.0.0.1"), "{text}");
    assert!(!text.contains("Unicast 10.5.0.1") && !text.contains("Unicast 10.7.0.0"), "{text}");
    assert!(text.contains("Unicast 10.6.0.0/31") && !text.contains("Broadcast 10.6.0.1"), "{text}");
    assert_eq!(tables.addresses.last().unwrap().label, "eth0");
    tables.rename(ETH0, "wan").unwrap();
    let labels: Vec<_> =
        tables.addresses.iter().filter(|a| a.net.addr().is_ipv4()).map(|a| &*a.label).collect();
    assert_eq!(labels, ["lo", "wan", "wan:2", "wan:3", "wan:4"]);
    assert_eq!(tables.rename(ETH0, "lo").unwrap_err().errno, Errno::EEXIST);
    assert_eq!(tables.rename(ETH0, "a name").unwrap_err().errno, Errno::EINVAL);
}

#[test]
fn addresses_that_linux_does_not_take() {
    let mut tables = running();
    for net in ["ff02::5/64", "::/64", "::1/64"] {
        assert_eq!(add(&mut tables, net, 0), Err(Errno::EADDRNOTAVAIL), "{net}");
    }
    add(&mut tables, "fd00::5/64", 0).unwrap();
    assert_eq!(add(&mut tables, "fd00::5/96", 0), Err(Errno::EEXIST));
    let nowhere = Address::new(IfIndex(77), "10.0.0.1/24".parse().unwrap());
    assert_eq!(tables.add_address(nowhere, Mode::ADD).unwrap_err().errno, Errno::ENODEV);
}

#[test]
fn a_duplicate_is_not_used() {
    let mut tables = running();
    add(&mut tables, "fd00::5/64", 0).unwrap();
    tables.dad_done(ETH0, "fd00::5".parse().unwrap(), false);
    let address = tables.addresses_of(ETH0).next().unwrap();
    let expected = ifa_flags::TENTATIVE | ifa_flags::DADFAILED | ifa_flags::PERMANENT;
    assert_eq!(address.flags, expected);
    assert!(!shown(&tables).contains("Local fd00::5"));
    add(&mut tables, "fd00::6/64", ifa_flags::NODAD).unwrap();
    assert!(shown(&tables).contains("Local fd00::6"));
}

#[test]
fn addresses_of_a_link_that_is_down_get_their_networks_when_it_comes_up() {
    let mut tables = host();
    add(&mut tables, "fd00::22/64", ifa_flags::NODAD).unwrap();
    add(&mut tables, "fd00::23/64", 0).unwrap();
    add(&mut tables, "10.1.0.2/24", 0).unwrap();
    let local = "Local fd00::22/128 dev eth0 table 255\n";
    let text = shown(&tables);
    assert!(text.contains(local) && !text.contains("Unicast"), "{text}");
    tables.set_up(ETH0, true).unwrap();
    let text = shown(&tables);
    assert!(text.contains("Unicast fd00::/64") && text.contains("Unicast 10.1.0.0/24"), "{text}");
}

#[test]
fn lifetimes_end() {
    let now = moment();
    let mut tables = running();
    let mut address = Address::new(ETH0, "fd00::5/64".parse().unwrap());
    address.preferred_until = Some(now + Duration::from_secs(5));
    address.valid_until = Some(now + Duration::from_secs(9));
    tables.add_address(address, Mode::ADD).unwrap();
    assert_eq!(tables.next_expiry(), Some(now + Duration::from_secs(5)));
    tables.expire(now + Duration::from_secs(5));
    assert_ne!(tables.addresses_of(ETH0).next().unwrap().flags & ifa_flags::DEPRECATED, 0);
    assert_eq!(tables.next_expiry(), Some(now + Duration::from_secs(9)));
    tables.expire(now + Duration::from_secs(9));
    assert!(!shown(&tables).contains("fd00::"));
    assert_eq!(tables.next_expiry(), None);
}

#[test]
fn a_subinterface_lives_with_its_parent() {
    let mut tables = host();
    let kind = LinkKind::Vlan { parent: ETH0, vid: 10 };
    let vlan = tables.add_link(0, "eth0.10", kind, Mac([0; 6])).unwrap();
    assert_eq!(tables.links[&vlan].mac, MAC);
    assert_eq!(tables.add_link(0, "other", kind, Mac([0; 6])).unwrap_err().errno, Errno::EEXIST);
    assert_eq!(tables.set_up(vlan, true).unwrap_err().errno, Errno::ENETDOWN);
    tables.set_carrier(ETH0, true).unwrap();
    tables.set_up(ETH0, true).unwrap();
    assert!(tables.links[&vlan].is_running(), "Linux sets VLANs up with their parent");
    assert_eq!(tables.addresses_of(vlan).count(), 1);
    assert_eq!(tables.set_mtu(vlan, 1600).unwrap_err().errno, Errno::ERANGE);
    tables.set_mtu(ETH0, 1400).unwrap();
    assert_eq!(tables.links[&vlan].mtu, 1400);
    tables.set_mac(ETH0, Mac([2, 0, 0, 0, 0, 9])).unwrap();
    assert_eq!(tables.links[&vlan].mac, Mac([2, 0, 0, 0, 0, 9]));
    tables.set_carrier(ETH0, false).unwrap();
    assert!(!tables.links[&vlan].carrier);
    tables.changes.clear();
    tables.remove_link(ETH0).unwrap();
    assert_eq!(tables.links.len(), 1);
    assert!(tables.addresses.iter().all(|a| a.link == LOOPBACK));
    assert!(tables.routes.iter().all(|r| r.link == Some(LOOPBACK)));
    assert!(matches!(tables.changes.back(), Some(Change::LinkGone(link)) if link.index == ETH0));
}

#[test]
fn a_pair_lives_and_dies_together() {
    let mut tables = Tables::new();
    let end = |name| NewLink { index: 0, name, mac: None };
    let one = tables.add_veth(&end("vp0"), &end("vp1")).unwrap();
    let other = tables.link_by_name("vp1").unwrap().index;
    assert_eq!((other, one), (IfIndex(2), IfIndex(3)));
    assert_eq!(tables.add_veth(&end("vp0"), &end("vp9")).unwrap_err().errno, Errno::EEXIST);
    assert!(tables.link_by_name("vp9").is_none());
    tables.set_up(one, true).unwrap();
    assert!(!tables.links[&one].carrier && !tables.links[&other].carrier);
    tables.set_up(other, true).unwrap();
    assert!(tables.links[&one].is_running() && tables.links[&other].is_running());
    assert_eq!(tables.addresses_of(one).count(), 1);
    tables.set_up(one, false).unwrap();
    assert!(!tables.links[&other].carrier);
    tables.remove_link(other).unwrap();
    assert_eq!(tables.links.len(), 1);
}

#[test]
fn ipv6_needs_1280_bytes() {
    let mut tables = running();
    tables.set_mtu(ETH0, 1279).unwrap();
    assert_eq!(tables.addresses_of(ETH0).count(), 0);
    assert_eq!(add(&mut tables, "fd00::2/64", 0), Err(Errno::EINVAL));
    tables.set_mtu(ETH0, 1280).unwrap();
    assert_eq!(tables.addresses_of(ETH0).count(), 1);
    assert_eq!(tables.set_mtu(ETH0, 67).unwrap_err().why, "mtu less than device minimum");
    assert_eq!(tables.set_mtu(ETH0, 65_536).unwrap_err().why, "mtu greater than device maximum");
}

#[test]
fn promiscuity_is_counted_and_shown_only_if_wished() {
    let mut tables = host();
    tables.ask_promiscuous(ETH0, true).unwrap();
    assert_eq!(tables.links[&ETH0].flags() & libc::IFF_PROMISC as u32, 0);
    for _ in 0..2 {
        let promisc = libc::IFF_PROMISC as u32;
        tables.wish_flags(ETH0, promisc, promisc).unwrap();
    }
    assert_eq!(tables.links[&ETH0].promiscuous, 2);
    assert_ne!(tables.links[&ETH0].flags() & libc::IFF_PROMISC as u32, 0);
    tables.wish_flags(ETH0, 0, libc::IFF_PROMISC as u32).unwrap();
    tables.ask_promiscuous(ETH0, false).unwrap();
    assert_eq!(tables.links[&ETH0].promiscuous, 0);
}

#[test]
fn neighbours_set_by_hand() {
    let now = moment();
    let mut tables = running();
    let ip = "10.0.0.77".parse().unwrap();
    let mac = Some(Mac([2, 0, 0, 0, 0, 0x77]));
    let mut set = |mac, state, mode| {
        tables.add_neighbour(now, ETH0, ip, mac, state, false, mode).map_err(|e| (e.errno, e.why))
    };
    assert_eq!(set(mac, Nud::Permanent, Mode::CHANGE), Err((Errno::ENOENT, "")));
    let none = Err((Errno::EINVAL, "No link layer address given"));
    assert_eq!(set(None, Nud::Permanent, Mode::ADD), none);
    assert_eq!(set(mac, Nud::Permanent, Mode::ADD), Ok(()));
    assert_eq!(set(mac, Nud::Permanent, Mode::ADD), Err((Errno::EEXIST, "")));
    assert_eq!(set(None, Nud::Stale, Mode::REPLACE), Ok(()));
    assert_eq!(tables.neighbours[&(ETH0, ip)].mac, mac);
    tables.set_carrier(ETH0, false).unwrap();
    assert!(tables.neighbours.is_empty());
    assert_eq!(tables.remove_neighbour(ETH0, ip).unwrap_err().errno, Errno::ENOENT);
}

#[test]
fn routers_listen_to_an_anycast_address_per_network() {
    let mut tables = running();
    add(&mut tables, "fd00::2/64", ifa_flags::NODAD).unwrap();
    tables.set_forwarding(true);
    assert!(shown(&tables).contains("Anycast fd00::/128 dev eth0 table 255\n"));
    tables.set_forwarding(false);
    assert!(!shown(&tables).contains("Anycast"));
}

fn configured(lines: &[&str], routes: &[&str]) -> Result<Tables, msocket_proto::line::Refusal> {
    let mut config = StackConfig::default();
    for line in lines {
        config.add_line(line).unwrap();
    }
    for route in routes {
        config.add_route(route).unwrap();
    }
    let mut tables = Tables::new();
    let mut next = 0;
    let mut random = || {
        next += 1;
        Mac([2, 0, 0, 0, 0, next])
    };
    tables.apply(&config, &mut random).map(|()| tables)
}

#[test]
fn a_configuration_becomes_tables() {
    let line = "eth0=switch:lan[vlan 10],ip=10.0.0.2/24,ip=fd00::2/64,gw=10.0.0.1,gw=fd00::1,mtu=1400";
    let tables = configured(&[line, "none,mac=02:00:00:00:00:99"], &["10.8.0.0/16 via 10.0.0.254"]).unwrap();
    let link = tables.link_by_name("eth0").unwrap();
    assert_eq!((link.index, link.mtu, link.mac), (ETH0, 1400, Mac([2, 0, 0, 0, 0, 1])));
    assert_eq!(link.plugged, "switch:lan[vlan 10]");
    assert!(link.up && !link.carrier);
    assert_eq!(tables.link_by_name("eth1").unwrap().mac, Mac([2, 0, 0, 0, 0, 0x99]));
    let text = shown(&tables);
    for line in [
        "Unicast 0.0.0.0/0 via 10.0.0.1 dev eth0 table 254\n",
        "Unicast 10.8.0.0/16 via 10.0.0.254 dev eth0 table 254\n",
        "Unicast ::/0 via fd00::1 dev eth0 table 254 metric 1024\n",
        "Local fd00::2/128 dev eth0 table 255\n",
        "Broadcast 10.0.0.255/32 dev eth0 table 255 src 10.0.0.2\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

#[test]
fn a_configuration_that_cannot_be_says_why() {
    let why = |lines: &[&str], routes: &[&str]| configured(lines, routes).unwrap_err();
    let refusal = why(&["none,ip=10.0.0.2/24,gw=10.1.0.1"], &[]);
    assert_eq!(refusal.what, "cannot add route 0.0.0.0/0 via 10.1.0.1");
    assert_eq!(refusal.why, "the gateway is on no network of this stack");
    assert!(refusal.hint.unwrap().contains("--ip"));
    let refusal = why(&["none,ip=10.0.0.2/24,ip=10.0.0.2/24"], &[]);
    assert_eq!(refusal.what, "cannot add 10.0.0.2/24");
    assert!(refusal.hint.unwrap().contains("leave one of the two out"));
    assert_eq!(why(&["none"], &["10.0.0.0/8 dev nope"]).what, "cannot find nope");
    let refusal = why(&["none,ip=fd00::1/64"], &["default via fe80::1"]);
    assert!(refusal.hint.unwrap().contains("dev"), "{}", refusal.why);
}

/// One of everything, by numbers.
fn operate(tables: &mut Tables, operation: (u8, u8, u8)) {
    let (what, a, b) = operation;
    let link = IfIndex(u32::from(a % 5));
    let v4 = IpNet::new(IpAddr::from([10, 0, a % 4, b % 8]), 24 + b % 9).unwrap();
    let v6 =
        IpNet::new(IpAddr::from([0xfd00, 0, 0, u16::from(a % 4), 0, 0, 0, u16::from(b % 4)]), 128 - (b % 80))
            .unwrap();
    let net = if what & 0x80 == 0 { v4 } else { v6 };
    let mode = Mode { create: b & 1 != 0, exclusive: b & 2 != 0, replace: b & 4 != 0, append: b & 8 != 0 };
    let _ = match what & 0x0f {
        0 if b & 3 == 0 => {
            let (one, other) = (format!("p{a}"), format!("p{b}"));
            let end = |name| NewLink { index: 0, name, mac: None };
            tables.add_veth(&end(&one), &end(&other)).map(drop)
        }
        0 if b & 3 == 1 => {
            tables.add_dummy(&NewLink { index: 0, name: &format!("d{a}"), mac: Some(MAC) }).map(drop)
        }
        0 => tables.add_link(0, &format!("eth{a}"), LinkKind::Ethernet, MAC).map(drop),
        1 => {
            let kind = LinkKind::Vlan { parent: link, vid: u16::from(b) };
            tables.add_link(0, &format!("v{b}"), kind, Mac([0; 6])).map(drop)
        }
        2 => tables.remove_link(link),
        3 | 4 => tables.set_up(link, b & 1 == 0),
        5 => tables.set_carrier(link, b & 1 == 0),
        6 => tables.set_mtu(link, u32::from(b) * 16),
        7 | 8 => tables.add_address(Address::new(link, net), mode),
        9 => tables.remove_address(link, net),
        10 | 11 => {
            let mut route = route("10.0.0.0/8");
            route.to = net.trunc();
            route.link = (b & 16 != 0).then_some(link);
            route.gateway = (b & 32 != 0).then_some(v4.addr());
            tables.add_route(route, mode)
        }
        12 => tables.remove_route(&RouteMatch::new(net.trunc())),
        13 => {
            if let IpAddr::V6(ip) = v6.addr() {
                tables.dad_done(link, ip, b & 64 != 0);
            }
            Ok(())
        }
        14 => tables.rename(link, &format!("r{b}")),
        _ => {
            tables.set_forwarding(b & 1 == 0);
            Ok(())
        }
    };
}

proptest! {
    #[test]
    fn whatever_is_done_the_tables_agree_with_themselves(
        operations in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..200),
    ) {
        let mut tables = Tables::new();
        for operation in operations {
            operate(&mut tables, operation);
            let mut sorted = tables.routes.clone();
            sorted.sort_by(|a, b| order((a.table, a.to), (b.table, b.to)).then(a.metric.cmp(&b.metric)));
            prop_assert_eq!(&sorted, &tables.routes, "routes are in the order of a dump");
            let known = |link: Option<IfIndex>| link.is_none_or(|link| tables.links.contains_key(&link));
            prop_assert!(tables.routes.iter().all(|r| known(r.link)));
            prop_assert!(tables.addresses.iter().all(|a| known(Some(a.link))));
            for link in tables.links.values() {
                for owned in tables.owned_routes(link.index).iter().filter(|r| r.kind == RouteKind::Local) {
                    prop_assert!(tables.routes.iter().any(|r| r.to == owned.to && r.kind == RouteKind::Local));
                }
                if let LinkKind::Vlan { parent, .. } = link.kind {
                    prop_assert!(!link.up || tables.links[&parent].up);
                    prop_assert!(link.mtu <= tables.links[&parent].mtu);
                }
                if let LinkKind::Veth { peer } = link.kind {
                    prop_assert_eq!(tables.links[&peer].kind, LinkKind::Veth { peer: link.index });
                }
            }
        }
        tables.changes.clear();
    }
}

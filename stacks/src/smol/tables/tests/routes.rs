//! Which routes Linux takes, refuses and replaces, and with which words.

use super::*;

#[test]
fn routes_of_ipv4_are_refused_as_linux_does() {
    let mut tables = running();
    add(&mut tables, "10.0.0.2/24", 0).unwrap();
    let gateway = "Nexthop has invalid gateway";
    let error_kind = "Gateway, device and multipath can not be specified for this route type";
    let cases: [(&str, Answer); 15] = [
        ("10.9.0.0/16 via 10.0.0.1", Ok(())),
        ("10.9.0.0/16 via 10.0.0.1", Err((Errno::EEXIST, ""))),
        ("10.10.0.0/16 via 10.0.0.2", Ok(())),
        ("10.11.0.0/16 via 99.0.0.1", Err((Errno::ENETUNREACH, gateway))),
        ("10.11.0.0/16 via 10.0.0.255", Err((Errno::EINVAL, gateway))),
        ("10.11.0.0/16 via 10.9.0.1", Err((Errno::ENETUNREACH, gateway))),
        ("10.11.0.0/16 via 99.0.0.1 dev eth0", Err((Errno::ENETUNREACH, gateway))),
        ("10.12.0.0/16 via 99.0.0.1 dev eth0 onlink", Ok(())),
        ("10.11.0.0/16", Err((Errno::ENODEV, ""))),
        ("10.11.0.1/16 dev eth0", Err((Errno::EINVAL, "Invalid prefix for given prefix length"))),
        ("10.11.0.0/16 dev eth0 src 1.2.3.4", Err((Errno::EINVAL, "Invalid prefsrc address"))),
        ("10.13.0.0/16 via 10.0.0.1 dev eth0 scope 253", Err((Errno::ENETUNREACH, gateway))),
        ("10.14.0.0/16 blackhole dev eth0", Err((Errno::EINVAL, error_kind))),
        ("10.14.0.0/16 blackhole", Ok(())),
        ("10.15.0.0/16 dev eth0 scope 254", Ok(())),
    ];
    for (words, expected) in cases {
        assert_eq!(try_route(&mut tables, words, Mode::ADD), expected, "{words}");
    }
    tables.set_up(ETH0, false).unwrap();
    let not_up = Err((Errno::ENETDOWN, "Device for nexthop is not up"));
    assert_eq!(try_route(&mut tables, "10.99.0.0/16 dev eth0", Mode::ADD), not_up);
}

#[test]
fn routes_of_ipv4_are_replaced_and_stacked_as_linux_does() {
    let mut tables = running();
    add(&mut tables, "10.0.0.2/24", 0).unwrap();
    let to = |tables: &Tables| -> Vec<String> {
        let ours = |r: &&Route| r.to.to_string() == "10.15.0.0/16";
        tables.routes.iter().filter(ours).map(|r| r.gateway.unwrap().to_string()).collect()
    };
    let via = |n: u8| format!("10.15.0.0/16 via 10.0.0.{n}");
    assert_eq!(try_route(&mut tables, &via(1), Mode::CHANGE), Err((Errno::ENOENT, "")));
    try_route(&mut tables, &via(1), Mode::REPLACE).unwrap();
    assert_eq!(try_route(&mut tables, &via(1), Mode::APPEND), Err((Errno::EEXIST, "")));
    try_route(&mut tables, &via(4), Mode::APPEND).unwrap();
    try_route(&mut tables, &via(5), Mode { append: false, ..Mode::APPEND }).unwrap();
    assert_eq!(to(&tables), ["10.0.0.5", "10.0.0.1", "10.0.0.4"]);
    try_route(&mut tables, &via(6), Mode::REPLACE).unwrap();
    assert_eq!(to(&tables), ["10.0.0.6", "10.0.0.1", "10.0.0.4"]);
    assert_eq!(try_route(&mut tables, &via(4), Mode::REPLACE), Err((Errno::EEXIST, "")));
    delete(&mut tables, &via(1)).unwrap();
    assert_eq!(delete(&mut tables, &via(1)), Err(Errno::ESRCH));
    try_route(&mut tables, "10.16.0.0/16 via 10.0.0.1 metric 6", Mode::ADD).unwrap();
    try_route(&mut tables, "10.16.0.0/16 via 10.0.0.1 metric 5", Mode::ADD).unwrap();
    delete(&mut tables, "10.16.0.0/16").unwrap();
    assert!(shown(&tables).contains("via 10.0.0.1 dev eth0 table 254 metric 6"));
    let table = RouteMatch { table: 77, ..RouteMatch::new("10.0.0.0/8".parse().unwrap()) };
    let missing = Refused::new(Errno::ESRCH, "FIB table does not exist");
    assert_eq!(tables.remove_route(&table), Err(missing));
}

#[test]
fn routes_of_ipv6_are_refused_as_linux_does() {
    let mut tables = running();
    add(&mut tables, "fd00::2/64", ifa_flags::NODAD).unwrap();
    let unreachable = Err((Errno::EHOSTUNREACH, ""));
    let cases: [(&str, Answer); 13] = [
        ("fd01::/64 via fd00::1", Ok(())),
        ("fd01::/64 via fd00::1", Err((Errno::EEXIST, ""))),
        ("fd02::/64 via fd00::2", Err((Errno::EINVAL, "Gateway can not be a local address"))),
        ("fd02::/64 via fd99::1", unreachable),
        ("fd02::/64 via fd99::1 dev eth0", unreachable),
        ("fd02::/64 via fd99::1 dev eth0 onlink", Ok(())),
        ("fd03::/64 via fe80::1", Err((Errno::EINVAL, "Egress device not specified"))),
        (
            "fd03::/64 via fe80::1 dev lo",
            Err((Errno::EINVAL, "Egress device can not be loopback device for this route")),
        ),
        ("fd03::/64 via ff02::1 dev eth0", Err((Errno::EINVAL, "Invalid gateway address"))),
        ("fd03::/64 via fd01::1", unreachable),
        ("fd03::5/64 via fe80::1 dev eth0", Ok(())),
        ("fd04::/64", Err((Errno::ENODEV, ""))),
        ("fd04::/64 dev eth0 src fd88::1", Err((Errno::EINVAL, "Invalid source address"))),
    ];
    for (words, expected) in cases {
        assert_eq!(try_route(&mut tables, words, Mode::ADD), expected, "{words}");
    }
    assert!(shown(&tables).contains("fd03::/64 via fe80::1 dev eth0 table 254 metric 1024"));
    let none = Err((Errno::ENOENT, "Can not replace route - no match found"));
    assert_eq!(try_route(&mut tables, "fd55::/64 via fd00::1", Mode::CHANGE), none);
    try_route(&mut tables, "fd01::/64 via fd00::9", Mode::REPLACE).unwrap();
    assert!(!shown(&tables).contains("fd01::/64 via fd00::1 "));
    try_route(&mut tables, "fd06::/64 blackhole", Mode::ADD).unwrap();
    assert!(shown(&tables).contains("Blackhole fd06::/64 dev lo"));
    assert_eq!(delete(&mut tables, "fd55::/64"), Err(Errno::ESRCH));
}

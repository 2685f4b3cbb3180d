//! What ifconfig, route and arp ask, and what Linux 6.18 answers.

use proptest::prelude::*;

use super::*;
use crate::smol::netlink::tests::{Host, host, moment};
use crate::smol::tables::{IfIndex, Nud, RouteKind};

fn request(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; IFREQ];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[NAME..NAME + value.len()].copy_from_slice(value);
    bytes
}

fn inet(ip: [u8; 4]) -> [u8; 16] {
    address::sockaddr(ip.into())
}

fn call(host: &mut Host, code: u32, argument: &[u8]) -> Result<Vec<u8>, Errno> {
    answer(code, argument, libc::AF_INET, host, moment(), true)
}

/// The union behind the name.
fn value(host: &mut Host, code: u32, name: &str) -> Result<Vec<u8>, Errno> {
    call(host, code, &request(name, &[])).map(|answer| answer[NAME..].to_vec())
}

fn addresses(host: &Host) -> Vec<String> {
    let v4 = host.0.addresses_of(IfIndex(2)).filter(|a| a.net.addr().is_ipv4());
    v4.map(|a| format!("{} {} {}", a.net, a.broadcast.map_or_else(|| "-".into(), |b| b.to_string()), a.label))
        .collect()
}

#[test]
fn interfaces_are_shown() {
    let host = &mut host();
    assert_eq!(value(host, SIOCGIFMTU, "eth0").unwrap()[..4], 1500u32.to_ne_bytes());
    assert_eq!(value(host, SIOCGIFINDEX, "eth0").unwrap()[..4], 2u32.to_ne_bytes());
    assert_eq!(value(host, SIOCGIFTXQLEN, "lo").unwrap()[..4], 1000u32.to_ne_bytes());
    let flags = (libc::IFF_UP | libc::IFF_BROADCAST | libc::IFF_RUNNING | libc::IFF_MULTICAST) as u16;
    assert_eq!(value(host, SIOCGIFFLAGS, "eth0").unwrap()[..2], flags.to_ne_bytes());
    let hardware = value(host, SIOCGIFHWADDR, "eth0").unwrap();
    assert_eq!(hardware[..8], [1, 0, 0x7a, 0xdf, 0x52, 0x35, 0x39, 0x7b]);
    assert_eq!(value(host, SIOCGIFHWADDR, "lo").unwrap()[..2], libc::ARPHRD_LOOPBACK.to_ne_bytes());
    assert_eq!(value(host, SIOCGIFADDR, "eth0").unwrap()[..16], inet([10, 0, 0, 2]));
    assert_eq!(value(host, SIOCGIFNETMASK, "eth0").unwrap()[..16], inet([255, 255, 255, 0]));
    assert_eq!(value(host, SIOCGIFBRDADDR, "eth0").unwrap()[..16], inet([0; 4]));
    assert_eq!(value(host, SIOCGIFADDR, "eth0:1"), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(value(host, SIOCGIFMTU, "nope"), Err(Errno::ENODEV));
    assert_eq!(value(host, 0x89ff, "eth0"), Err(Errno::EOPNOTSUPP));
    assert_eq!(value(host, 0x89ff, "nope"), Err(Errno::ENODEV));
    assert_eq!(value(host, 0x8935, "lo"), Err(Errno::EINVAL));
    assert_eq!(value(host, 0x89e0, "lo"), Err(Errno::ENOTTY));
    let name = call(host, SIOCGIFNAME, &request("", &2u32.to_ne_bytes())).unwrap();
    assert!(name.starts_with(b"eth0\0"));
    // Only sockets that speak IPv4 know of its addresses.
    let other = answer(SIOCGIFADDR, &request("eth0", &[]), libc::AF_NETLINK, host, moment(), true);
    assert_eq!(other, Err(Errno::ENOTTY));
}

#[test]
fn the_list_has_as_many_records_as_there_is_room_for() {
    let host = &mut host();
    let list = |host: &mut Host, room: u32| call(host, SIOCGIFCONF, &room.to_ne_bytes()).unwrap();
    assert_eq!(list(host, 0), 80u32.to_ne_bytes());
    let all = list(host, 4096);
    assert_eq!(all[..4], 80u32.to_ne_bytes());
    assert!(all[4..].starts_with(b"lo\0") && all[44..].starts_with(b"eth0\0"));
    assert_eq!(all[60..76], inet([10, 0, 0, 2]));
    assert_eq!(list(host, 79)[..4], 40u32.to_ne_bytes());
    assert_eq!(call(host, SIOCGIFCONF, &u32::MAX.to_ne_bytes()), Err(Errno::EINVAL));
}

#[test]
fn ifconfig_sets_an_address_by_its_class_and_then_a_mask() {
    let host = &mut host();
    let set = |host: &mut Host, code, name, ip| call(host, code, &request(name, &inet(ip)));
    set(host, SIOCSIFADDR, "eth0", [10, 1, 2, 3]).unwrap();
    assert_eq!(addresses(host), ["10.1.2.3/8 10.255.255.255 eth0"]);
    set(host, SIOCSIFNETMASK, "eth0", [255, 255, 255, 0]).unwrap();
    assert_eq!(addresses(host), ["10.1.2.3/24 10.1.2.255 eth0"]);
    set(host, SIOCSIFBRDADDR, "eth0", [10, 1, 2, 99]).unwrap();
    set(host, SIOCSIFNETMASK, "eth0", [255, 255, 0, 0]).unwrap();
    assert_eq!(addresses(host), ["10.1.2.3/16 10.1.2.99 eth0"]);
    set(host, SIOCSIFADDR, "eth0:1", [192, 168, 1, 1]).unwrap();
    assert_eq!(addresses(host)[1], "192.168.1.1/24 192.168.1.255 eth0:1");
    assert_eq!(set(host, SIOCSIFADDR, "eth0", [224, 0, 0, 1]), Err(Errno::EINVAL));
    assert_eq!(set(host, SIOCSIFNETMASK, "eth0", [255, 0, 255, 0]), Err(Errno::EINVAL));
    assert_eq!(set(host, SIOCSIFNETMASK, "eth0:7", [255, 0, 0, 0]), Err(Errno::EADDRNOTAVAIL));
    // A label that is set down goes, and so does an address that becomes none.
    call(host, SIOCSIFFLAGS, &request("eth0:1", &[0; 2])).unwrap();
    set(host, SIOCSIFADDR, "eth0", [0; 4]).unwrap();
    assert!(addresses(host).is_empty());
}

#[test]
fn interfaces_are_changed() {
    let host = &mut host();
    let index = IfIndex(2);
    call(host, SIOCSIFMTU, &request("eth0", &1300u32.to_ne_bytes())).unwrap();
    call(host, SIOCSIFTXQLEN, &request("eth0", &77u32.to_ne_bytes())).unwrap();
    let promiscuous = (libc::IFF_UP | libc::IFF_PROMISC) as u16;
    call(host, SIOCSIFFLAGS, &request("eth0", &promiscuous.to_ne_bytes())).unwrap();
    let link = &host.0.links[&index];
    assert_eq!((link.mtu, link.queue_length, link.promiscuous, link.up), (1300, 77, 1, true));
    call(host, SIOCSIFNAME, &request("eth0", b"wan\0")).unwrap();
    call(host, SIOCSIFHWADDR, &request("wan", &[1, 0, 2, 0, 0, 0, 0, 9])).unwrap();
    assert_eq!(host.0.link_by_name("wan").unwrap().mac, Mac([2, 0, 0, 0, 0, 9]));
    let wrong = request("wan", &[9, 9, 2, 0, 0, 0, 0, 9]);
    assert_eq!(call(host, SIOCSIFHWADDR, &wrong), Err(Errno::EINVAL));
    call(host, SIOCSIFFLAGS, &request("wan", &[0; 2])).unwrap();
    assert!(!host.0.links[&index].up);
    let denied = answer(SIOCSIFMTU, &request("wan", &[0; 4]), libc::AF_INET, host, moment(), false);
    assert_eq!(denied, Err(Errno::EPERM));
}

/// `struct rtentry` to a network, with what is behind its pointer.
fn entry(to: [u8; 4], mask: [u8; 4], gateway: [u8; 4], flags: u16, device: &str) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[8..24].copy_from_slice(&inet(to));
    bytes[24..40].copy_from_slice(&inet(gateway));
    bytes[40..56].copy_from_slice(&inet(mask));
    bytes[56..58].copy_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(device.as_bytes());
    bytes
}

#[test]
fn routes_come_and_go() {
    let host = &mut host();
    let default = entry([0; 4], [0; 4], [10, 0, 0, 1], 3, "");
    call(host, SIOCADDRT, &default).unwrap();
    assert_eq!(call(host, SIOCADDRT, &default), Err(Errno::EEXIST));
    let network = entry([10, 9, 0, 0], [255, 255, 0, 0], [0; 4], 1, "eth0");
    call(host, SIOCADDRT, &network).unwrap();
    let reject = entry([10, 8, 0, 0], [255, 255, 0, 0], [0; 4], 0x201, "lo");
    call(host, SIOCADDRT, &reject).unwrap();
    let kind = |host: &Host, to: &str| {
        host.0.routes.iter().find(|r| r.to.to_string() == to).map(|r| (r.kind, r.gateway.is_some()))
    };
    assert_eq!(kind(host, "0.0.0.0/0"), Some((RouteKind::Unicast, true)));
    assert_eq!(kind(host, "10.9.0.0/16"), Some((RouteKind::Unicast, false)));
    assert_eq!(kind(host, "10.8.0.0/16"), Some((RouteKind::Unreachable, false)));
    for gone in [&default, &network, &reject] {
        call(host, SIOCDELRT, gone).unwrap();
        assert_eq!(call(host, SIOCDELRT, gone), Err(Errno::ESRCH));
    }
    let unknown = entry([10, 9, 0, 0], [255, 255, 0, 0], [0; 4], 1, "nope");
    assert_eq!(call(host, SIOCADDRT, &unknown), Err(Errno::ENODEV));
    let far = entry([10, 9, 0, 0], [255, 255, 0, 0], [99, 0, 0, 1], 3, "");
    assert_eq!(call(host, SIOCADDRT, &far), Err(Errno::ENETUNREACH));
    let odd = entry([10, 9, 0, 0], [255, 0, 255, 0], [0; 4], 1, "eth0");
    assert_eq!(call(host, SIOCADDRT, &odd), Err(Errno::EINVAL));
}

#[test]
fn addresses_and_routes_of_ipv6() {
    let host = &mut host();
    let v6 =
        |host: &mut Host, code, argument: &[u8]| answer(code, argument, libc::AF_INET6, host, moment(), true);
    let mut address = vec![0; 24];
    (address[0], address[15], address[16], address[20]) = (0xfd, 5, 64, 2);
    v6(host, SIOCSIFADDR, &address).unwrap();
    assert_eq!(v6(host, SIOCSIFADDR, &address), Err(Errno::EEXIST));
    v6(host, SIOCDIFADDR, &address).unwrap();
    assert_eq!(v6(host, SIOCDIFADDR, &address), Err(Errno::EADDRNOTAVAIL));
    let mut route = vec![0; 80];
    (route[0], route[1], route[52], route[56], route[72], route[76]) = (0xfd, 9, 64, 1, 3, 2);
    (route[32], route[33], route[47]) = (0xfe, 0x80, 1);
    v6(host, SIOCADDRT, &route).unwrap();
    assert!(host.0.routes.iter().any(|r| r.to.to_string() == "fd09::/64" && r.metric == 1));
    v6(host, SIOCDELRT, &route).unwrap();
    assert_eq!(v6(host, SIOCDELRT, &route), Err(Errno::ESRCH));
}

#[test]
fn neighbours_by_arp() {
    let host = &mut host();
    let mut entry = vec![0; 68];
    entry[..16].copy_from_slice(&inet([10, 0, 0, 77]));
    entry[16] = 1;
    entry[18..24].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    entry[32] = 6;
    call(host, SIOCSARP, &entry).unwrap();
    assert_eq!(host.0.neighbours.values().next().unwrap().state, Nud::Permanent);
    assert_eq!(call(host, SIOCGARP, &entry), Err(Errno::ENODEV));
    entry[52..56].copy_from_slice(b"eth0");
    let found = call(host, SIOCGARP, &entry).unwrap();
    assert_eq!((&found[18..24], found[32]), (&[2, 0, 0, 0, 0, 1][..], 6));
    call(host, SIOCDARP, &entry).unwrap();
    assert_eq!(call(host, SIOCDARP, &entry), Err(Errno::ENXIO));
    assert_eq!(call(host, SIOCGARP, &entry), Err(Errno::ENXIO));
}

#[test]
fn ethtool_learns_that_there_is_a_link() {
    let host = &mut host();
    let mut argument = request("eth0", &[]);
    argument.extend([0x0a, 0, 0, 0, 0, 0, 0, 0]);
    let link = call(host, SIOCETHTOOL, &argument).unwrap();
    assert_eq!(link[44..48], 1u32.to_ne_bytes());
    argument[40] = 1;
    assert_eq!(call(host, SIOCETHTOOL, &argument), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(host, SIOCETHTOOL, &argument[..41]), Err(Errno::EFAULT));
    argument[40] = 3;
    argument.resize(40 + 196, 0);
    assert!(call(host, SIOCETHTOOL, &argument).unwrap()[44..].starts_with(b"viewnet\0"));
}

proptest! {
    #[test]
    fn whatever_is_asked_nothing_breaks(
        code in prop_oneof![0x8900u32..0x8990, any::<u32>()],
        family in prop_oneof![Just(libc::AF_INET), Just(libc::AF_INET6), Just(libc::AF_PACKET), any::<i32>()],
        named: bool,
        mut argument in proptest::collection::vec(any::<u8>(), 0..260),
    ) {
        let mut host = host();
        if named && argument.len() > NAME {
            argument[..5].copy_from_slice(b"eth0\0");
        }
        if let Ok(answer) = answer(code, &argument, family, &mut host, moment(), true) {
            prop_assert!(answer.len() <= argument.len().max(4096));
        }
    }
}

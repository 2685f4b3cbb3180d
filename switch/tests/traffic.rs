//! Real kernels talking through a served switch: TAPs with and without offloads, packet sockets, VLANs.

mod common;

use common::{Namespace, Served, access, has_tap, isolated, transfer, trunk};
use switch::client::{Attach, Attached, Kind, PortInfo};

const LEN: usize = 8 << 20;
/// Ethernet header, tag, MTU.
const WIRE_MAX: u64 = 1518;

/// Two stations with one address family each.
fn stations(served: &Served, a: Attach, b: Attach, plain_b: bool) -> (Namespace, Namespace, Attached) {
    let (na, nb) = (Namespace::new(), Namespace::new());
    let fd = |ns: &Namespace, kind, plain| match kind {
        Kind::Packet => ns.veth(),
        Kind::Tap if plain => ns.plain_tap(),
        Kind::Tap => ns.tap(),
        _ => unreachable!("others are not of a namespace"),
    };
    let mut attached = served.client().attach(fd(&na, a.kind, false), &a).unwrap();
    attached.attach(fd(&nb, b.kind, plain_b), &b).unwrap();
    (na, nb, attached)
}

fn average_sent(port: &PortInfo) -> u64 {
    port.tx_bytes / port.tx_frames
}

#[test]
fn two_taps_talk_in_super_segments() {
    isolated("two_taps_talk_in_super_segments", || {
        if !has_tap() {
            return;
        }
        let served = Served::new(None);
        let (a, b, mut attached) = stations(&served, Attach::new(Kind::Tap), Attach::new(Kind::Tap), false);
        a.configure("eth0", &["10.0.0.1/24", "fd00::1/64"]);
        b.configure("eth0", &["10.0.0.2/24", "fd00::2/64"]);
        assert!(a.ping("10.0.0.2") && a.ping("fd00::2"));
        transfer(&a, &b, "10.0.0.2", LEN);
        transfer(&a, &b, "fd00::2", LEN);
        let ports = attached.client().ports().unwrap();
        assert!(average_sent(&ports[1]) > 2 * WIRE_MAX, "no super-segments: {:?}", ports[1]);
        let stations = attached.client().stations(Default::default()).unwrap();
        assert_eq!(stations.len(), 2);
    });
}

#[test]
fn a_tap_without_offloads_gets_whole_frames() {
    isolated("a_tap_without_offloads_gets_whole_frames", || {
        if !has_tap() {
            return;
        }
        let served = Served::new(None);
        let (a, b, mut attached) = stations(&served, Attach::new(Kind::Tap), Attach::new(Kind::Tap), true);
        a.configure("eth0", &["10.0.0.1/24", "fd00::1/64"]);
        b.configure("eth0", &["10.0.0.2/24", "fd00::2/64"]);
        transfer(&a, &b, "10.0.0.2", LEN);
        transfer(&a, &b, "fd00::2", LEN);
        transfer(&b, &a, "10.0.0.1", LEN);
        b.sh("! nstat -asz TcpInCsumErrors UdpInCsumErrors Ip6InDelivers 2>/dev/null | grep -E 'CsumErrors +[1-9]'");
        let ports = attached.client().ports().unwrap();
        assert!(average_sent(&ports[1]) <= WIRE_MAX, "{:?}", ports[1]);
        assert!(ports[1].tx_frames > ports[0].rx_frames, "nothing was cut");
    });
}

#[test]
fn vlans_do_not_meet_but_share_a_trunk() {
    isolated("vlans_do_not_meet_but_share_a_trunk", || {
        let (left, right) = (Served::new(None), Served::new(None));
        // A cable between two switches, tagged but for VLAN 20 which is native on one and the other.
        let cable = Namespace::new();
        let (near, far) = (cable.veth(), cable.packet("eth0"));
        cable.sh("ip link set eth0 up");
        let uplink = trunk(Kind::Packet, "10-20", Some(20));
        let _trunks =
            (left.client().attach(near, &uplink).unwrap(), right.client().attach(far, &uplink).unwrap());
        let kind = if has_tap() { Kind::Tap } else { Kind::Packet };
        let (ten, twenty, mut attached) = stations(&left, access(kind, 10), access(kind, 20), false);
        let (ten_far, twenty_far, mut attached_far) =
            stations(&right, access(kind, 10), access(kind, 20), false);
        for (ns, address) in [(&ten, 1), (&twenty, 2), (&ten_far, 3), (&twenty_far, 4)] {
            ns.configure("eth0", &[&format!("10.0.0.{address}/24"), &format!("fd00::{address}/64")]);
        }
        assert!(!ten.ping("10.0.0.2") && !ten.ping("10.0.0.4"), "two VLANs met");
        assert!(ten.ping("10.0.0.3") && twenty.ping("10.0.0.4"));
        transfer(&ten, &ten_far, "10.0.0.3", LEN);
        transfer(&ten_far, &ten, "fd00::1", LEN);
        transfer(&twenty, &twenty_far, "10.0.0.4", LEN);
        for port in attached.client().ports().unwrap().iter().filter(|p| p.tx_frames > 1000) {
            assert!(average_sent(port) > WIRE_MAX, "tags cost the super-segments: {port:?}");
        }
        let vlans = attached_far.client().vlans().unwrap();
        assert_eq!(vlans.iter().map(|v| v.vid.number()).filter(|v| [10, 20].contains(v)).count(), 2);
        let ten = vlans.iter().find(|v| v.vid.number() == 10).unwrap();
        assert!(ten.rx_frames > 0 && ten.flooded > 0, "{ten:?}");
        assert_eq!((ten.tagged.len(), ten.untagged.len()), (1, 1));
    });
}

#[test]
fn packet_sockets_on_veth_ends_carry_super_segments() {
    isolated("packet_sockets_on_veth_ends_carry_super_segments", || {
        let served = Served::new(None);
        let (a, b, mut attached) =
            stations(&served, Attach::new(Kind::Packet), Attach::new(Kind::Packet), false);
        for (ns, n) in [(&a, 1), (&b, 2)] {
            ns.configure("eth0", &[&format!("10.0.0.{n}/24"), &format!("fd00::{n}/64")]);
        }
        assert!(a.ping("10.0.0.2") && a.ping("fd00::2"));
        transfer(&a, &b, "10.0.0.2", LEN);
        transfer(&b, &a, "fd00::1", LEN);
        let ports = attached.client().ports().unwrap();
        assert!(ports.iter().all(|p| average_sent(p) > WIRE_MAX), "{ports:?}");
    });
}

#[test]
fn udp_super_segments_arrive_as_the_datagrams_they_were() {
    isolated("udp_super_segments_arrive_as_the_datagrams_they_were", || {
        if !has_tap() {
            return;
        }
        for plain in [false, true] {
            let served = Served::new(None);
            let (a, b, mut attached) =
                stations(&served, Attach::new(Kind::Tap), Attach::new(Kind::Tap), plain);
            a.configure("eth0", &["10.0.0.1/24", "fd00::1/64"]);
            b.configure("eth0", &["10.0.0.2/24", "fd00::2/64"]);
            let mut dropped =
                || attached.client().ports().unwrap().iter().map(|p| p.drops.clone()).collect::<Vec<_>>();
            assert!(a.ping("10.0.0.2"));
            // The first station speaks while the other's interface is still down; from here on nothing is lost.
            let before = dropped();
            for (address, any) in [("10.0.0.2", "0.0.0.0"), ("fd00::2", "::")] {
                assert!(a.ping(address));
                let bytes: Vec<u8> = (0..10_100).map(|i| (i / 7) as u8).collect();
                let (received, expected) =
                    (udp_super_segment(&a, &b, address, any, &bytes), bytes.chunks(1000));
                assert!(received.iter().map(Vec::as_slice).eq(expected), "plain {plain} {address}");
            }
            assert_eq!(dropped(), before);
        }
    });
}

/// Sends `bytes` as datagrams of 1000 in one call; returns those that arrived.
fn udp_super_segment(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    any: &str,
    bytes: &[u8],
) -> Vec<Vec<u8>> {
    use std::net::{IpAddr, UdpSocket};
    let (address, any): (IpAddr, IpAddr) = (address.parse().unwrap(), any.parse().unwrap());
    let count = bytes.len().div_ceil(1000);
    let socket = to.run(move || UdpSocket::bind((address, 0)).unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let target = socket.local_addr().unwrap();
    let bytes = bytes.to_owned();
    from.run(move || {
        let sender = UdpSocket::bind((any, 0)).unwrap();
        nix::sys::socket::setsockopt(&sender, nix::sys::socket::sockopt::UdpGsoSegment, &1000).unwrap();
        sender.send_to(&bytes, target).unwrap();
    });
    let receive = || {
        let mut datagram = vec![0; 2000];
        let len = socket.recv(&mut datagram).ok()?;
        datagram.truncate(len);
        Some(datagram)
    };
    std::iter::from_fn(receive).take(count).collect()
}

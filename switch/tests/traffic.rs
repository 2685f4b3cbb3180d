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
fn vlans_do_not_meet_but_on_the_trunk() {
    isolated("vlans_do_not_meet_but_on_the_trunk", || {
        if !has_tap() {
            return;
        }
        let served = Served::new(None);
        let (ten, twenty, mut attached) =
            stations(&served, access(Kind::Tap, 10), access(Kind::Tap, 20), false);
        let router = Namespace::new();
        attached.attach(router.tap(), &trunk(Kind::Tap, "10,20", None)).unwrap();
        ten.configure("eth0", &["10.0.0.1/24"]);
        twenty.configure("eth0", &["10.0.0.2/24", "10.0.20.2/24"]);
        router.sh("ip link set eth0 up; for v in 10 20; do ip link add link eth0 name eth0.$v type vlan id $v; done");
        router.configure("eth0.10", &["10.0.0.3/24"]);
        router.configure("eth0.20", &["10.0.20.3/24"]);
        assert!(!ten.ping("10.0.0.2"), "two VLANs met");
        assert!(ten.ping("10.0.0.3"));
        assert!(twenty.ping("10.0.20.3"));
        transfer(&ten, &router, "10.0.0.3", LEN);
        transfer(&router, &ten, "10.0.0.1", LEN);
        transfer(&router, &twenty, "10.0.20.2", LEN);
        let ports = attached.client().ports().unwrap();
        assert!(ports.iter().all(|p| average_sent(p) > WIRE_MAX), "tags cost the super-segments: {ports:?}");
        let vlans = attached.client().vlans().unwrap();
        assert_eq!(vlans.iter().map(|v| v.vid.number()).collect::<Vec<_>>(), [10, 20]);
        assert!(vlans.iter().all(|v| v.rx_frames > 0 && v.flooded > 0 && v.tagged == ["p3"]));
    });
}

#[test]
fn packet_sockets_on_veth_ends_carry_tags_and_super_segments() {
    isolated("packet_sockets_on_veth_ends_carry_tags_and_super_segments", || {
        let served = Served::new(None);
        let all = || trunk(Kind::Packet, "all", Some(1));
        let (a, b, mut attached) = stations(&served, all(), all(), false);
        for (ns, n) in [(&a, 1), (&b, 2)] {
            ns.configure("eth0", &[&format!("10.0.0.{n}/24"), &format!("fd00::{n}/64")]);
            ns.sh("ip link add link eth0 name eth0.7 type vlan id 7");
            ns.configure("eth0.7", &[&format!("10.0.7.{n}/24")]);
        }
        assert!(a.ping("10.0.0.2") && a.ping("fd00::2") && a.ping("10.0.7.2"));
        transfer(&a, &b, "10.0.0.2", LEN);
        transfer(&b, &a, "fd00::1", LEN);
        transfer(&a, &b, "10.0.7.2", LEN);
        let ports = attached.client().ports().unwrap();
        assert!(ports.iter().all(|p| average_sent(p) > WIRE_MAX), "{ports:?}");
    });
}

//! Links to elsewhere through served switches: UDP, VXLAN with the kernel's device and Open vSwitch, QEMU's stream
//! and dgram, and a ring between two switches.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use common::programs::{OpenVSwitch, Running};
use common::{Namespace, Served, access, any_port, eventually, has_tap, isolated, transfer, trunk};
use switch::client::{Attach, Attached, Kind, PortInfo, Request};
use switch::link::Link;
use switch::port::DropReason;
use switch::ports::ring::{CAPACITY, Ring};

const LEN: usize = 4 << 20;

/// A namespace whose kernel is a port of its own, in a VLAN.
fn station(served: &Served, vid: u16, address: &str) -> (Namespace, Attached) {
    let ns = Namespace::new();
    let (fd, kind) = any_port(&ns);
    let attached = served.client().attach(fd, &access(kind, vid)).unwrap();
    ns.configure("eth0", &[address]);
    (ns, attached)
}

/// Adds a port that stays.
fn add(served: &Served, name: &str, fds: Vec<OwnedFd>, attach: Attach) {
    let attach = Attach { name: Some(name.into()), linger: true, ..attach };
    served.client().add_port_of(&fds, &attach).unwrap();
}

fn port(served: &Served, name: &str) -> Option<PortInfo> {
    served.client().ports().unwrap().into_iter().find(|port| port.name == name)
}

/// A socket of a namespace, bound there.
fn udp(ns: &Namespace, local: &str) -> UdpSocket {
    let local: SocketAddr = local.parse().unwrap();
    ns.run(move || UdpSocket::bind(local).unwrap())
}

/// Two namespaces joined by a veth pair with addresses 192.0.2.1 and .2, fd01::1 and ::2.
fn cable() -> (Namespace, Namespace) {
    let (left, right) = (Namespace::new(), Namespace::new());
    let id = right.run(|| std::fs::read_link("/proc/thread-self").unwrap());
    let path = Path::new("/proc").join(id).join("ns/net");
    left.sh(&format!(
        "ip link add wire type veth peer name wire netns /proc/{}/ns/net",
        path.strip_prefix("/proc").unwrap().parent().unwrap().parent().unwrap().display()
    ));
    left.configure("wire", &["192.0.2.1/24", "fd01::1/64"]);
    right.configure("wire", &["192.0.2.2/24", "fd01::2/64"]);
    (left, right)
}

#[test]
fn two_switches_by_udp() {
    isolated("two_switches_by_udp", || {
        let (left, right) = (Served::new(None), Served::new(None));
        let (near, far) = cable();
        for (one, other) in [("192.0.2.1:5000", "192.0.2.2:5000"), ("[fd01::1]:5000", "[fd01::2]:5000")] {
            let sockets = (udp(&near, one), udp(&far, other));
            sockets.0.connect(other).unwrap();
            sockets.1.connect(one).unwrap();
            add(&left, "far", vec![sockets.0.into()], Attach::new(Kind::Dgram));
            add(&right, "far", vec![sockets.1.into()], Attach::new(Kind::Dgram));
            let (a, _one) = station(&left, 1, "10.0.0.1/24");
            let (b, _two) = station(&right, 1, "10.0.0.2/24");
            assert!(a.ping("10.0.0.2"), "{one}");
            transfer(&a, &b, "10.0.0.2", LEN);
            left.client().call::<()>(&Request::PortRm { port: "far".into() }).unwrap();
            // ICMP says that nobody is there; the port does not mind.
            for _ in 0..200 {
                let sent =
                    b.run(|| UdpSocket::bind("10.0.0.2:0").and_then(|s| s.send_to(&[1], "10.0.0.255:9")));
                let _ = sent;
            }
            assert!(!b.ping("10.0.0.1"));
            assert!(port(&right, "far").is_some());
            right.client().call::<()>(&Request::PortRm { port: "far".into() }).unwrap();
        }
    });
}

/// A tunnel's port for a link's text, its socket made in the namespace.
fn add_tunnel(served: &Served, ns: &Namespace, text: &str) {
    let Link::Vxlan { config, local } = text.parse().unwrap() else { panic!("{text} is no tunnel") };
    let socket = udp(ns, &local.to_string());
    let attach = Attach { vxlan: Some(config), peer: text.into(), ..Attach::new(Kind::Vxlan) };
    add(served, "tunnel", vec![socket.into()], attach);
}

#[test]
fn vxlan_with_the_kernels_device() {
    isolated("vxlan_with_the_kernels_device", || {
        let (near, far) = cable();
        let probe = "ip link add probe type vxlan id 1 dstport 4789 && ip link del probe";
        if !far.try_sh(probe) {
            return eprintln!("SKIPPED, no vxlan device in this kernel");
        }
        for (peer, ours) in [("192.0.2.2", "192.0.2.1"), ("fd01::2", "fd01::1")] {
            let served = Served::new(None);
            add_tunnel(&served, &near, &format!("vxlan:42[peer {peer} local {ours}]"));
            far.sh(&format!(
                "ip link add vx0 type vxlan id 42 dstport 4789 local {peer} remote {ours} && \
                 ip addr add 10.0.0.2/24 dev vx0 && ip link set vx0 up"
            ));
            // A NIC fills the inner checksums and cuts; a veth pair leaves both to the device at the other end.
            far.sh("ethtool -K vx0 tx off gso off >/dev/null");
            let (a, _one) = station(&served, 1, "10.0.0.1/24");
            assert!(a.ping("10.0.0.2"), "{peer}");
            // The station's packets are as long as its MTU of 1500 allows, the outer ones of theirs are in fragments.
            transfer(&a, &far, "10.0.0.2", LEN);
            transfer(&far, &a, "10.0.0.1", LEN);
            // Another network is none of ours.
            let before = port(&served, "tunnel").unwrap().rx_frames;
            far.sh(&format!(
                "ip link del vx0 && ip link add vx1 type vxlan id 43 dstport 4789 local {peer} remote {ours} && \
                 ip addr add 10.0.0.2/24 dev vx1 && ip link set vx1 up"
            ));
            assert!(!far.ping("10.0.0.1"));
            let tunnel = port(&served, "tunnel").unwrap();
            assert_eq!(tunnel.rx_frames, before);
            assert!(tunnel.drops[&DropReason::BadTunnel] > 0, "{tunnel:?}");
            far.sh("ip link del vx1");
        }
    });
}

#[test]
fn vxlan_learns_who_is_where() {
    isolated("vxlan_learns_who_is_where", || {
        // Three switches on one segment; the first knows the others, they know the first.
        let ns = Namespace::new();
        let switches = [Served::new(None), Served::new(None), Served::new(None)];
        let peers = ["127.0.0.2,127.0.0.3", "127.0.0.1", "127.0.0.1"];
        let mut stations = Vec::new();
        for (at, (served, peers)) in switches.iter().zip(peers).enumerate() {
            add_tunnel(served, &ns, &format!("vxlan:7[peer {peers} local 127.0.0.{}]", at + 1));
            stations.push(station(served, 1, &format!("10.0.0.{}/24", at + 1)));
        }
        assert!(stations[0].0.ping("10.0.0.2") && stations[0].0.ping("10.0.0.3"));
        let before = port(&switches[2], "tunnel").unwrap().rx_frames;
        for _ in 0..5 {
            assert!(stations[0].0.ping("10.0.0.2"));
        }
        let after = port(&switches[2], "tunnel").unwrap().rx_frames;
        assert!(after < before + 5, "what one station said went to all: {before} {after}");
        // Another list of peers: what is not on it hears no flood.
        let set = |peers: &[&str]| Request::PortSet {
            port: "tunnel".into(),
            vlans: None,
            rename: None,
            peers: Some(peers.iter().map(|peer| peer.parse().unwrap()).collect()),
        };
        switches[0].client().call::<()>(&set(&["127.0.0.3:4789"])).unwrap();
        stations[0].0.sh("ip neigh flush dev eth0");
        assert!(stations[0].0.ping("10.0.0.3") && !stations[0].0.ping("10.0.0.9"));
        let config = port(&switches[0], "tunnel").unwrap().vxlan.unwrap();
        assert_eq!(config.peers, ["127.0.0.3:4789".parse().unwrap()]);
    });
}

#[test]
fn vxlan_with_open_vswitch() {
    isolated("vxlan_with_open_vswitch", || {
        if !has_tap() {
            return;
        }
        let (near, far) = cable();
        let dir = tempfile::tempdir().unwrap();
        let ovs = OpenVSwitch::new(&far, dir.path());
        // Its user-space tunnels need their own bridge over the wire, which has the address then.
        far.sh("ip addr flush dev wire");
        ovs.vsctl(&far, "add-br phy -- set bridge phy datapath_type=netdev -- add-port phy wire");
        far.configure("phy", &["192.0.2.2/24"]);
        near.sh("ethtool -K wire tx off >/dev/null");
        ovs.vsctl(
            &far,
            "add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 vx -- \
             set interface vx type=vxlan options:remote_ip=192.0.2.1 options:key=42",
        );
        far.configure("br0", &["10.0.0.2/24"]);
        far.sh("ip link set br0 mtu 1400");
        let served = Served::new(None);
        add_tunnel(&served, &near, "vxlan:42[peer 192.0.2.2 local 192.0.2.1]");
        let (a, _one) = station(&served, 1, "10.0.0.1/24");
        a.sh("ip link set eth0 mtu 1400");
        eventually("an answer through Open vSwitch", || a.ping("10.0.0.2"));
        transfer(&a, &far, "10.0.0.2", LEN / 8);
        transfer(&far, &a, "10.0.0.1", LEN / 8);
    });
}

/// QEMU without a machine: a hub of two network back ends.
fn qemu_hub(ns: &Namespace, one: &str, other: &str) -> Running {
    let (one, other) = (format!("{one},id=a"), format!("{other},id=b"));
    let hub = ["hubport,id=ha,hubid=0,netdev=a", "hubport,id=hb,hubid=0,netdev=b"];
    let mut args = vec!["-M", "none", "-display", "none", "-monitor", "none", "-serial", "none"];
    [&*one, &*other, hub[0], hub[1]].iter().for_each(|netdev| args.extend(["-netdev", netdev]));
    Running::within(ns, "qemu-system-x86_64", &args)
}

#[test]
fn qemus_stream_and_dgram() {
    isolated("qemus_stream_and_dgram", || {
        let served = Served::new(None);
        let dir = served.dir.path();
        let (a, _one) = station(&served, 10, "10.0.0.1/24");
        let (b, _two) = station(&served, 20, "10.0.0.2/24");
        // VLAN 10: QEMU connects to us. VLAN 20: we connect to QEMU. It comes twice.
        let listener = UnixListener::bind(dir.join("stream")).unwrap();
        add(&served, "stream", vec![listener.into()], access(Kind::Stream, 10));
        for _ in 0..2 {
            let (ours, theirs) = (dir.join("ours"), dir.join("theirs"));
            let stream = format!("stream,addr.type=unix,addr.path={}", dir.join("stream").display());
            let dgram = format!(
                "dgram,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                theirs.display(),
                ours.display()
            );
            let qemu = qemu_hub(&a, &stream, &dgram);
            eventually("QEMU's socket", || theirs.exists());
            let socket = UnixDatagram::bind(&ours).unwrap();
            socket.connect(&theirs).unwrap();
            add(&served, "dgram", vec![socket.into()], access(Kind::Dgram, 20));
            eventually("an answer through QEMU", || a.ping("10.0.0.2"));
            transfer(&a, &b, "10.0.0.2", LEN / 8);
            transfer(&b, &a, "10.0.0.1", LEN / 8);
            drop(qemu);
            served.client().call::<()>(&Request::PortRm { port: "dgram".into() }).unwrap();
            assert!(!ours.exists(), "the port's socket left its name");
            let _ = std::fs::remove_file(&theirs);
            a.sh("ip neigh flush dev eth0");
        }
        assert!(port(&served, "stream").is_some(), "it waits for the next");
        // A connection that was made is gone with its port, and the other way round.
        let (near, far) = UnixStream::pair().unwrap();
        add(&served, "once", vec![near.into()], Attach::new(Kind::Stream));
        drop(far);
        eventually("the port goes", || port(&served, "once").is_none());
    });
}

/// Joins two switches by a ring.
fn join(left: &Served, right: &Served) {
    let (_, [memory, theirs, ours]) = Ring::create(CAPACITY).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let copies = [&memory, &ours, &theirs].map(|fd| fd.try_clone().unwrap());
    let rules = trunk(Kind::Ring, "10-20", Some(10));
    add(right, "left", vec![memory, theirs, ours, there.into()], rules.clone());
    let fds = copies.into_iter().chain([OwnedFd::from(here)]).collect();
    add(left, "right", fds, Attach { mirrored: true, ..rules });
}

#[test]
fn two_switches_by_a_ring() {
    isolated("two_switches_by_a_ring", || {
        let (left, mut right) = (Served::new(None), Served::new(None));
        join(&left, &right);
        for vid in [10, 20] {
            let (a, _one) = station(&left, vid, "10.0.0.1/24");
            let (b, two) = station(&right, vid, "10.0.0.2/24");
            assert!(a.ping("10.0.0.2"), "VLAN {vid}");
            transfer(&a, &b, "10.0.0.2", LEN);
            transfer(&b, &a, "10.0.0.1", LEN);
            let link = port(&left, "right").unwrap();
            assert!(link.tx_bytes / link.tx_frames > 3000, "super-segments were cut: {link:?}");
            drop(two);
        }
        let (a, _one) = station(&left, 30, "10.0.0.1/24");
        let (_b, two) = station(&right, 30, "10.0.0.2/24");
        assert!(!a.ping("10.0.0.2"), "VLAN 30 is not of the trunk");
        drop(two);
        right.client().down().unwrap();
        right.join();
        eventually("the port goes with the other switch", || port(&left, "right").is_none());
    });
}

#[test]
fn what_is_not_fit_is_refused() {
    let served = Served::new(None);
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let stream = || OwnedFd::from(UnixStream::pair().unwrap().0);
    let dgram = || OwnedFd::from(UnixDatagram::pair().unwrap().0);
    let unbound = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let vxlan = |text: &str| match text.parse().unwrap() {
        Link::Vxlan { config, .. } => Attach { vxlan: Some(config), ..Attach::new(Kind::Vxlan) },
        other => panic!("{other:?}"),
    };
    for (fds, attach) in [
        (vec![file()], Attach::new(Kind::Stream)),
        (vec![dgram()], Attach::new(Kind::Stream)),
        (vec![stream()], Attach::new(Kind::Dgram)),
        (vec![unbound()], Attach::new(Kind::Dgram)),
        (vec![unbound()], Attach::new(Kind::Vxlan)),
        (vec![dgram()], vxlan("vxlan:1")),
        (vec![dgram()], Attach { vxlan: vxlan("vxlan:1").vxlan, ..Attach::new(Kind::Dgram) }),
        (vec![dgram()], Attach::new(Kind::Vde)),
        (vec![stream(), dgram()], Attach::new(Kind::Vde)),
        (vec![dgram(), dgram()], Attach::new(Kind::Vde)),
        (vec![stream(), stream(), stream(), stream()], Attach { mirrored: true, ..Attach::new(Kind::Ring) }),
        (vec![dgram()], Attach { mirrored: true, ..Attach::new(Kind::Dgram) }),
    ] {
        let refused = served.client().add_port_of(&fds, &attach);
        assert!(refused.is_err(), "{attach:?}");
    }
    assert!(served.client().ports().unwrap().is_empty());
}

#[test]
fn a_socket_that_is_shut_down_is_no_port() {
    use rustix::net::{Shutdown, shutdown};

    let served = Served::new(None);
    for how in [Shutdown::Read, Shutdown::Both] {
        let (near, _far) = UnixDatagram::pair().unwrap();
        add(&served, "half", vec![near.try_clone().unwrap().into()], Attach::new(Kind::Dgram));
        shutdown(&near, how).unwrap();
        eventually("it goes", || port(&served, "half").is_none());
    }
}

#[test]
fn a_stream_of_rubbish_ends() {
    use std::io::{Read, Write};

    let served = Served::new(None);
    let path = served.dir.path().join("stream");
    let listener = UnixListener::bind(&path).unwrap();
    add(&served, "stream", vec![listener.into()], Attach::new(Kind::Stream));
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&[0, 0, 0, 20]).unwrap();
        stream.write_all(&[0; 20]).unwrap();
        eventually("the frame", || port(&served, "stream").unwrap().rx_frames > 0);
        // Only one at a time.
        let mut second = UnixStream::connect(&path).unwrap();
        assert_eq!(second.read(&mut [0]).unwrap_or(0), 0);
        stream.write_all(&[0xFF; 8]).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the connection is closed");
    }
    assert!(port(&served, "stream").is_some());
    served.client().call::<()>(&Request::PortRm { port: "stream".into() }).unwrap();
    assert!(!path.exists());
}

//! Priorities, rates, queues, limits and stacked tags of a served switch: Linux at the other end, or rings that see
//! every byte.

mod common;

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use common::{Namespace, Served, access, any_port, eventually, isolated, transfer, trunk};
use msocket_proto::line::{CallError, Refusal};
use switch::client::traffic::{
    GuardSet, MacAdd, MacRm, PortOpen, PortQos, QosSet, ReserveAdd, ReserveRm, VlanSet,
};
use switch::client::{Attach, Client, Kind, MacFilter, PortInfo, Request};
use switch::frame::{Frame, TagKind};
use switch::guard::{Exceed, GuardRules, Police, Shut, Violation};
use switch::offload::VnetHdr;
use switch::port::DropReason;
use switch::ports::ring::{CAPACITY, Ring};
use switch::ports::{BUFFER_LEN, Wire};
use switch::qos::priority::PriorityRules;
use switch::qos::queues::Shape;
use switch::qos::reserve::Reservation;
use switch::vlan::{PortVlans, Vid, VidSet};

fn vid(n: u16) -> Vid {
    Vid::new(n).unwrap()
}

fn set(list: &str) -> VidSet {
    list.parse().unwrap()
}

/// A station that sends and sees raw frames.
struct Station {
    ring: Ring,
    _client: Client,
}

impl Station {
    fn new(served: &Served, name: &str, vlans: PortVlans) -> Self {
        let (ring, ends) = Ring::create(CAPACITY).unwrap();
        let mut client = served.client();
        let attach = Attach { name: Some(name.into()), vlans, ..Attach::new(Kind::Ring) };
        client.add_ring(&ends, &attach).unwrap();
        Self { ring, _client: client }
    }

    fn send(&mut self, frame: &[u8]) {
        self.ring.send(&VnetHdr::default(), &[frame]);
        self.ring.flush();
        self.ring.wake_peer();
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; BUFFER_LEN];
        self.ring.receive(&mut buffer).unwrap().map(|(_, frame)| frame.to_vec())
    }

    /// The next frame that passes, within five seconds.
    fn wait_for(&mut self, what: &str, mut is_it: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
        let mut found = None;
        eventually(what, || {
            while let Some(frame) = self.next() {
                if is_it(&frame) {
                    found = Some(frame);
                    return true;
                }
            }
            false
        });
        found.unwrap()
    }
}

/// An experimental frame (EtherType 0x88B5) from station `from`, with these tags.
fn frame(to: [u8; 6], from: u8, tags: &[(u16, u16)], len: usize) -> Vec<u8> {
    let mut frame = [to, [2, 0, 0, 0, 0, from]].concat();
    for (tpid, tci) in tags {
        frame.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    frame.extend([0x88, 0xB5]);
    frame.resize(len.max(frame.len()), from);
    frame
}

const ALL: [u8; 6] = [0xFF; 6];

fn station(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn call(client: &mut Client, request: &Request) {
    client.call::<()>(request).unwrap();
}

fn refusal(client: &mut Client, request: &Request) -> Refusal {
    match client.call::<()>(request) {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn qos(port: &str, qos: PortQos) -> Request {
    Request::QosSet(QosSet { port: port.into(), qos })
}

fn shaped(rate: &str, classes: &str) -> PortQos {
    let classes = classes.split(',').map(|class| class.parse().unwrap()).collect();
    let shape = Shape { rate: Some(rate.parse().unwrap()), classes, ..Shape::default() };
    PortQos { shape: Some(shape), ..PortQos::default() }
}

fn port(client: &mut Client, name: &str) -> PortInfo {
    client.ports().unwrap().into_iter().find(|port| port.name == name).unwrap()
}

fn drops(client: &mut Client, name: &str, reason: DropReason) -> u64 {
    port(client, name).drops.get(&reason).copied().unwrap_or(0)
}

#[expect(clippy::disallowed_methods, reason = "a rate is never too slow for the test, only too fast")]
fn now() -> Instant {
    Instant::now()
}

/// Has this kernel VLAN interfaces (CONFIG_VLAN_8021Q)? Says so if not.
fn has_vlan_interfaces() -> bool {
    let ns = Namespace::new();
    let has =
        ns.try_sh("ip link add d0 type veth peer name d1 && ip link add link d0 name d0.1 type vlan id 1");
    if !has {
        eprintln!("SKIPPED, this kernel has no VLAN interfaces");
    }
    has
}

/// Open vSwitch in a namespace of its own, with bridge `br0` and no kernel datapath.
struct Ovs {
    ns: Namespace,
    dir: tempfile::TempDir,
    servers: Vec<Child>,
}

impl Ovs {
    /// `None` where it is not installed, or may make no TAP for its bridge; says so.
    fn start() -> Option<Self> {
        if !common::has_tap() {
            return None;
        }
        let (ns, dir) = (Namespace::new(), tempfile::tempdir().unwrap());
        if !ns.try_sh("PATH=$PATH:/usr/sbin; command -v ovs-vswitchd ovsdb-server ovs-vsctl >/dev/null") {
            eprintln!("SKIPPED, there is no Open vSwitch");
            return None;
        }
        let mut ovs = Self { ns, dir, servers: Vec::new() };
        ovs.sh("ovsdb-tool create conf.db /usr/share/openvswitch/vswitch.ovsschema");
        ovs.serve("ovsdb-server conf.db --remote=punix:db.sock");
        ovs.vsctl("--no-wait init");
        ovs.serve("ovs-vswitchd unix:db.sock");
        ovs.vsctl("-- set Open_vSwitch . other_config:vlan-limit=2");
        ovs.vsctl("-- add-br br0 -- set bridge br0 datapath_type=netdev");
        Some(ovs)
    }

    fn sh(&self, command: &str) {
        let dir = self.dir.path().display();
        self.ns.sh(&format!("cd {dir}; export OVS_RUNDIR={dir}; {command}"));
    }

    /// Waits for the server, and for what it was told to be done.
    fn vsctl(&self, command: &str) {
        self.sh(&format!("ovs-vsctl --retry --timeout=10 --db=unix:db.sock {command}"));
    }

    fn serve(&mut self, command: &str) {
        let (dir, line) = (self.dir.path().to_owned(), format!("PATH=$PATH:/usr/sbin exec {command}"));
        self.servers.push(self.ns.run(move || {
            let mut command = Command::new("sh");
            command.args(["-c", &line]).env("OVS_RUNDIR", &dir).current_dir(&dir).stderr(Stdio::null());
            command.spawn().unwrap()
        }));
    }

    /// A port with this configuration, and the other end of its cable as a descriptor.
    fn port(&self, name: &'static str, far: &'static str, settings: &str) -> OwnedFd {
        self.ns.sh(&format!(
            "ip link add {name} type veth peer name {far} && ip link set {name} up && ip link set {far} up"
        ));
        self.vsctl(&format!("-- add-port br0 {name} {settings}"));
        self.ns.packet(far)
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Frames of ours (EtherType 0x88B5 innermost) that arrive on a wire.
fn wait_on(wire: &mut Wire, what: &str) -> Vec<u8> {
    let (mut found, mut buffer) = (None, vec![0; BUFFER_LEN]);
    eventually(what, || {
        while let Ok((_, frame)) = wire.receive(&mut buffer) {
            if Frame::new(frame).is_some_and(|f| f.innermost().0 == 0x88B5) {
                found = Some(frame.to_vec());
                return true;
            }
        }
        false
    });
    found.unwrap()
}

#[test]
fn open_vswitch_speaks_stacked_tags_and_priorities() {
    isolated("open_vswitch_speaks_stacked_tags_and_priorities", || {
        let Some(ovs) = Ovs::start() else { return };
        let served = Served::new(None);
        let plug = |fd, name: &str, vlans| {
            let attach = Attach { name: Some(name.into()), vlans, ..Attach::new(Kind::Packet) };
            served.client().attach(fd, &attach).unwrap()
        };
        let stag = "other_config:qinq-ethtype=802.1ad";
        let fd = ovs.port("stag", "stag-far", &format!("vlan_mode=trunk trunks=100 {stag}"));
        let _service = plug(fd, "service", PortVlans::Service { native: None, allowed: set("100") });
        let fd = ovs.port("ctag", "ctag-far", "vlan_mode=native-untagged tag=5 trunks=5,10,100");
        let vlans = PortVlans::Hybrid { pvid: Some(vid(5)), allowed: set("10"), untagged: set("5") };
        let mut ctag = plug(fd, "ctag", vlans);
        let wire = |fd| Wire::new(vec![fd], Kind::Packet).unwrap();
        let tunnel = ovs.port("cust", "cust-far", &format!("vlan_mode=dot1q-tunnel tag=100 {stag}"));
        let ten = ovs.port("ten", "ten-far", "vlan_mode=access tag=10 other_config:priority-tags=always");
        let five = ovs.port("five", "five-far", "vlan_mode=access tag=5");
        let (mut tunnel, mut ten, mut five) = (wire(tunnel), wire(ten), wire(five));
        let mut customer = Station::new(&served, "customer", PortVlans::Tunnel { vid: vid(100) });
        let mut trunk_station = Station::new(&served, "trunk", trunk(Kind::Ring, "5,10", None).vlans);

        // A customer's tag across both switches, with the provider's around it, there and back.
        let sent = frame(ALL, 1, &[(0x8100, 0xA007)], 100);
        customer.send(&sent);
        assert_eq!(wait_on(&mut tunnel, "Open vSwitch takes the service tag off"), sent);
        let back = frame(station(1), 2, &[(0x8100, 0x2008)], 100);
        tunnel.send(&VnetHdr::default(), &[&back, &[], &[], &[]]);
        let got = customer.wait_for("we take the service tag off", |f| f[11] == 2);
        assert_eq!(got, back);

        // Priority 6 by tag, and Open vSwitch tells it on an access port in a priority tag.
        trunk_station.send(&frame(ALL, 3, &[(0x8100, 0xC00A)], 100));
        assert_eq!(wait_on(&mut ten, "VLAN 10 by the hybrid port"), frame(ALL, 3, &[(0x8100, 0xC000)], 100));
        let rules = PriorityRules { egress: "0,0,0,0,0,0,1,0".parse().unwrap(), ..PriorityRules::default() };
        call(ctag.client(), &qos("ctag", PortQos { priority: rules, ..PortQos::default() }));
        trunk_station.send(&frame(ALL, 3, &[(0x8100, 0xC00A)], 100));
        assert_eq!(wait_on(&mut ten, "priority 1 instead"), frame(ALL, 3, &[(0x8100, 0x2000)], 100));
        // And the VLAN without tag.
        trunk_station.send(&frame(ALL, 3, &[(0x8100, 5)], 100));
        assert_eq!(wait_on(&mut five, "VLAN 5 by the hybrid port"), frame(ALL, 3, &[], 96));
        five.send(&VnetHdr::default(), &[&frame(ALL, 4, &[], 96), &[], &[], &[]]);
        let got = trunk_station.wait_for("and back", |f| f[11] == 4);
        assert_eq!(got, frame(ALL, 4, &[(0x8100, 5)], 100));
    });
}

#[test]
fn linux_speaks_stacked_tags_through_tunnel_and_service_ports() {
    isolated("linux_speaks_stacked_tags_through_tunnel_and_service_ports", || {
        if !has_vlan_interfaces() {
            return;
        }
        let served = Served::new(None);
        let (customer, provider, old) = (Namespace::new(), Namespace::new(), Namespace::new());
        let attach = |ns: &Namespace, vlans: PortVlans| {
            let (fd, kind) = any_port(ns);
            served.client().attach(fd, &Attach { vlans, ..Attach::new(kind) }).unwrap()
        };
        let _customer = attach(&customer, PortVlans::Tunnel { vid: vid(100) });
        let _provider = attach(&provider, PortVlans::Service { native: None, allowed: set("100,200") });
        let mut last = attach(&old, PortVlans::Trunk { native: None, allowed: set("100") });
        // A customer's VLAN 7 inside the provider's 100; the third has 0x8100 outside, too.
        customer.sh("ip link set eth0 up && ip link add link eth0 name c7 type vlan id 7");
        provider.sh("ip link set eth0 up && ip link add link eth0 name s100 type vlan proto 802.1ad id 100 && ip link set s100 up");
        provider.sh("ip link add link s100 name c7 type vlan id 7");
        old.sh(
            "ip link set eth0 up && ip link add link eth0 name s100 type vlan id 100 && ip link set s100 up",
        );
        old.sh("ip link add link s100 name c7 type vlan id 7");
        for (ns, n) in [(&customer, 1), (&provider, 2), (&old, 3)] {
            // Linux counts a second tag into the device's MTU.
            ns.sh("ip link set c7 mtu 1492");
            ns.configure("c7", &[&format!("10.0.0.{n}/24"), &format!("fd00::{n}/64")]);
        }
        customer.configure("eth0", &["10.1.0.1/24"]);
        provider.configure("s100", &["10.1.0.2/24"]);
        assert!(customer.ping("10.0.0.2") && customer.ping("fd00::2"), "tunnel to 802.1ad");
        assert!(customer.ping("10.0.0.3") && old.ping("10.0.0.2"), "tunnel and 802.1ad to 0x8100");
        assert!(customer.ping("10.1.0.2"), "a customer's frames without tag");
        assert!(!customer.ping("10.1.0.3"));
        transfer(&customer, &provider, "10.0.0.2", 4 << 20);
        transfer(&provider, &customer, "fd00::1", 4 << 20);
        transfer(&old, &customer, "10.0.0.1", 4 << 20);
        let vlans = last.client().vlans().unwrap();
        let hundred = vlans.iter().find(|v| v.vid == vid(100)).unwrap();
        assert!(hundred.tx_bytes > 12 << 20 && hundred.rx_bytes > 12 << 20, "{hundred:?}");
        assert_eq!((hundred.untagged.len(), hundred.tagged.len()), (1, 2));
    });
}

#[test]
fn a_hybrid_port_and_linux() {
    isolated("a_hybrid_port_and_linux", || {
        if !has_vlan_interfaces() {
            return;
        }
        let served = Served::new(None);
        let (host, ten) = (Namespace::new(), Namespace::new());
        let (fd, kind) = any_port(&host);
        let vlans = PortVlans::Hybrid { pvid: Some(vid(5)), allowed: set("10"), untagged: set("5,6") };
        let _host = served.client().attach(fd, &Attach { vlans, ..Attach::new(kind) }).unwrap();
        let (fd, kind) = any_port(&ten);
        let _ten = served.client().attach(fd, &access(kind, 10)).unwrap();
        let mut five = Station::new(&served, "five", PortVlans::Access { vid: vid(5) });
        let mut six = Station::new(&served, "six", PortVlans::Access { vid: vid(6) });
        host.configure("eth0", &["10.5.0.1/24"]);
        host.sh("ip link add link eth0 name v10 type vlan id 10");
        host.configure("v10", &["10.0.0.1/24"]);
        ten.configure("eth0", &["10.0.0.2/24"]);
        assert!(host.ping("10.0.0.2") && !host.ping("10.5.0.2"));
        let arp = five.wait_for("what has no tag is of VLAN 5", |f| f[12..14] == [0x08, 0x06]);
        assert_eq!(arp[..6], ALL);
        // VLAN 6 leaves without tag, but what comes without is of VLAN 5: one way only.
        six.send(&frame(ALL, 66, &[], 60));
        assert!(!ten.ping("10.5.0.1"));
        assert!(six.next().is_none());
    });
}

#[test]
fn linux_priorities_cross_the_switch_and_are_mapped() {
    isolated("linux_priorities_cross_the_switch_and_are_mapped", || {
        if !has_vlan_interfaces() {
            return;
        }
        let served = Served::new(None);
        let host = Namespace::new();
        let (fd, kind) = any_port(&host);
        let attach = Attach { name: Some("host".into()), ..trunk(kind, "10,20", None) };
        let mut attached = served.client().attach(fd, &attach).unwrap();
        let mut peer = Station::new(&served, "peer", trunk(kind, "10,20", Some(20)).vlans);
        host.sh("ip link set eth0 up && ip link add link eth0 name v10 type vlan id 10 egress-qos-map 0:5");
        host.configure("v10", &["10.0.0.1/24"]);
        host.sh("ip neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev v10");
        let pcp_of = |peer: &mut Station| {
            let frame =
                peer.wait_for("a packet of VLAN 10", |f| f[12..14] == [0x81, 0] && f[16..18] == [8, 0]);
            Frame::new(&frame).unwrap().tag().unwrap().priority().pcp()
        };
        assert!(!host.ping("10.0.0.9"));
        assert_eq!(pcp_of(&mut peer), 5, "kept");
        let priority =
            |text: &str| PriorityRules { egress: text.parse().unwrap(), ..PriorityRules::default() };
        let out = PortQos { priority: priority("0,0,0,0,0,2,0,0"), ..PortQos::default() };
        call(attached.client(), &qos("peer", out));
        while peer.next().is_some() {}
        assert!(!host.ping("10.0.0.9"));
        assert_eq!(pcp_of(&mut peer), 2, "mapped on the way out");
        let distrust = PriorityRules { trust: false, default_pcp: 7, ..PriorityRules::default() };
        call(attached.client(), &qos("host", PortQos { priority: distrust, ..PortQos::default() }));
        call(attached.client(), &qos("peer", PortQos::default()));
        while peer.next().is_some() {}
        assert!(!host.ping("10.0.0.9"));
        assert_eq!(pcp_of(&mut peer), 7, "overridden");
        // Linux sees what the switch gives an untagged frame.
        let default = PriorityRules { default_pcp: 3, ..PriorityRules::default() };
        call(attached.client(), &qos("peer", PortQos { priority: default, ..PortQos::default() }));
        host.sh("ip link add link eth0 name v20 type vlan id 20 ingress-qos-map 3:6 && ip link set v20 up");
        let classified = "tc qdisc add dev v20 clsact && \
            tc filter add dev v20 ingress prio 1 basic match 'meta(priority eq 6)' action ok";
        if !host.try_sh(classified) {
            return eprintln!("SKIPPED, this kernel has no cls_basic");
        }
        peer.send(&frame(ALL, 9, &[], 60));
        eventually("Linux took the frame for one of priority 3", || {
            host.try_sh("tc -s filter show dev v20 ingress | grep -Eq 'Sent [1-9][0-9]* bytes'")
        });
        assert_eq!(attached.client().qos().unwrap().len(), 2);
    });
}

#[test]
fn a_double_tag_through_a_tunnel_keeps_every_byte_and_its_priority() {
    let served = Served::new(None);
    let mut customer = Station::new(&served, "customer", PortVlans::Tunnel { vid: vid(100) });
    let mut provider =
        Station::new(&served, "provider", PortVlans::Service { native: None, allowed: VidSet::all() });
    let mut far = Station::new(&served, "far", PortVlans::Tunnel { vid: vid(100) });
    let sent = frame(ALL, 1, &[(0x8100, 0xB007), (0x8100, 0x2008)], 100);
    customer.send(&sent);
    let got = provider.wait_for("the frame", |_| true);
    // The customer's priority (5, drop eligible) is in the provider's tag, too.
    assert_eq!(got, frame(ALL, 1, &[(0x88A8, 0xB064), (0x8100, 0xB007), (0x8100, 0x2008)], 104));
    assert_eq!(Frame::with(&got, Some(TagKind::Service)).unwrap().innermost(), (0x88B5, 26));
    assert_eq!(far.wait_for("the frame", |_| true), sent);
    provider.send(&frame(station(1), 2, &[(0x88A8, 100), (0x8100, 7)], 80));
    assert_eq!(customer.wait_for("the answer", |_| true), frame(station(1), 2, &[(0x8100, 7)], 76));
}

#[test]
fn a_shaped_port_keeps_its_rate() {
    isolated("a_shaped_port_keeps_its_rate", || {
        const LEN: usize = 4 << 20;
        let served = Served::new(None);
        let (a, b) = (Namespace::new(), Namespace::new());
        let ((a_fd, kind), (b_fd, _)) = (any_port(&a), any_port(&b));
        let _a = served.client().attach(a_fd, &Attach::new(kind)).unwrap();
        let attach = Attach { name: Some("b".into()), ..Attach::new(kind) };
        let mut attached = served.client().attach(b_fd, &attach).unwrap();
        a.configure("eth0", &["10.0.0.1/24"]);
        b.configure("eth0", &["10.0.0.2/24"]);
        assert!(a.ping("10.0.0.2"));
        call(attached.client(), &qos("b", shaped("50M", "1")));
        let (before, start) = (port(attached.client(), "b"), now());
        transfer(&a, &b, "10.0.0.2", LEN);
        let (after, took) = (port(attached.client(), "b"), start.elapsed());
        // A slow machine takes longer, never less: what went is at most rate × time + burst.
        let bits = 8.0 * (after.tx_bytes - before.tx_bytes) as f64;
        let bound = 50e6 * took.as_secs_f64() + 8.0 * 65_600.0;
        assert!(bits >= 8.0 * LEN as f64 && bits <= bound, "{bits} in {took:?}");
        let info = &attached.client().qos().unwrap()[0];
        assert_eq!(info.queues.len(), 1);
        assert!(info.queues[0].counters.tx_bytes >= LEN as u64, "{info:?}");
        // Without the rate the same port is a plain one again.
        call(attached.client(), &qos("b", PortQos::default()));
        transfer(&a, &b, "10.0.0.2", LEN);
        assert!(attached.client().qos().unwrap().is_empty());
    });
}

#[test]
fn a_strict_class_overtakes_and_a_reservation_has_its_own_queue() {
    let served = Served::new(None);
    let all = || trunk(Kind::Ring, "1-100", None).vlans;
    let (mut from, mut to) = (Station::new(&served, "from", all()), Station::new(&served, "to", all()));
    let mut client = served.client();
    let reserve = |vid_, rate: &str| {
        let reservation = Reservation { vid: vid(vid_), rate: rate.parse().unwrap(), max: None };
        Request::ReserveAdd(ReserveAdd { port: "to".into(), reservation })
    };
    let refused = refusal(&mut client, &reserve(10, "1M"));
    assert!(refused.why.contains("no rate"), "{refused:?}");
    call(&mut client, &qos("to", shaped("4M", "1,strict")));
    call(&mut client, &reserve(10, "2M"));
    let refused = refusal(&mut client, &reserve(20, "2M"));
    assert!(refused.why.contains("1 Mbit/s are free"), "{refused:?}");
    assert!(refusal(&mut client, &reserve(200, "1M")).why.contains("does not carry"));
    let refused = refusal(&mut client, &qos("to", shaped("1M", "1")));
    assert!(refused.why.contains("VLAN 10 has a reservation"), "{refused:?}");
    to.send(&frame(ALL, 2, &[(0x8100, 1)], 60));
    from.wait_for("the first frame", |_| true);

    // Half a second of low priority, then one of high priority and one of the reserved VLAN.
    for _ in 0..80 {
        from.send(&frame(station(2), 1, &[(0x8100, 1)], 1500));
    }
    from.send(&frame(station(2), 3, &[(0x8100, 0xE001)], 1500));
    from.send(&frame(ALL, 4, &[(0x8100, 10)], 1500));
    let mut order = Vec::new();
    eventually("all arrived", || {
        order.extend(std::iter::from_fn(|| to.next()).map(|frame| frame[11]));
        order.len() == 82
    });
    let place = |from: u8| order.iter().position(|f| *f == from).unwrap();
    assert!(place(3) < 60 && place(4) < 60, "{order:?}");
    let reserved = client.reservations().unwrap();
    assert_eq!((reserved.len(), reserved[0].counters.tx_frames, reserved[0].free_bps), (1, 1, 1_000_000));
    call(&mut client, &Request::ReserveRm(ReserveRm { port: "to".into(), vid: vid(10) }));
    assert!(client.reservations().unwrap().is_empty());
    // A promise to a VLAN that is not there any more, or not on this port, is one to nobody.
    call(&mut client, &reserve(10, "1M"));
    call(&mut client, &reserve(20, "1M"));
    call(&mut client, &Request::VlanRm { vid: vid(10) });
    let left = client.reservations().unwrap();
    assert_eq!((left.len(), left[0].reservation.vid, left[0].free_bps), (1, vid(20), 2_000_000));
    let vlans = Some(trunk(Kind::Ring, "1-9", None).vlans);
    call(&mut client, &Request::PortSet { port: "to".into(), vlans, rename: None, peers: None });
    assert!(client.reservations().unwrap().is_empty());
    assert_eq!(client.qos().unwrap()[0].queues.len(), 2);
}

#[test]
fn too_much_too_often_and_too_many_are_dropped_and_counted() {
    let served = Served::new(None);
    let (mut from, mut to) = (
        Station::new(&served, "from", PortVlans::default()),
        Station::new(&served, "to", PortVlans::default()),
    );
    let mut client = served.client();
    let guard = |rules| Request::GuardSet(GuardSet { port: "from".into(), guard: rules });
    let rules = GuardRules { broadcast_fps: Some(1), multicast_fps: Some(0), ..GuardRules::default() };
    call(&mut client, &guard(rules));
    (0..3).for_each(|_| from.send(&frame([1, 0, 0x5E, 0, 0, 1], 1, &[], 60)));
    for _ in 0..50 {
        from.send(&frame(ALL, 1, &[], 60));
    }
    eventually("broadcasts are dropped", || drops(&mut client, "from", DropReason::StormBroadcast) > 10);
    assert_eq!(drops(&mut client, "from", DropReason::StormMulticast), 3);
    to.wait_for("one broadcast", |_| true);

    let police = Police { rate: "8k".parse().unwrap(), burst_bytes: Some(1000), exceed: Exceed::Drop };
    call(&mut client, &guard(GuardRules::default()));
    call(&mut client, &qos("from", PortQos { police: Some(police), ..PortQos::default() }));
    (0..20).for_each(|_| from.send(&frame(station(9), 1, &[], 500)));
    eventually("the rate is kept", || drops(&mut client, "from", DropReason::RateLimit) > 10);
    call(&mut client, &qos("from", PortQos::default()));
    call(&mut client, &Request::VlanSet(VlanSet { vid: vid(1), police: Some(police) }));
    (0..20).for_each(|_| from.send(&frame(station(9), 1, &[], 500)));
    eventually("the VLAN's, too", || drops(&mut client, "from", DropReason::VlanRateLimit) > 10);
    assert!(client.vlans().unwrap()[0].limited > 10);
    call(&mut client, &Request::VlanSet(VlanSet { vid: vid(1), police: None }));

    call(&mut client, &guard(GuardRules { mac_limit: Some(2), ..GuardRules::default() }));
    (1..=5).for_each(|n| from.send(&frame(station(9), n, &[], 60)));
    eventually("three are too many", || drops(&mut client, "from", DropReason::MacLimit) == 3);
    assert_eq!(client.guards().unwrap()[0].macs, 2);
    let refused = refusal(&mut client, &guard(GuardRules { mac_limit: Some(0), ..GuardRules::default() }));
    assert!(refused.why.contains("1 to"), "{refused:?}");
}

#[test]
fn a_station_where_it_may_not_be_shuts_the_port() {
    let served = Served::new(None);
    let (mut thief, mut home) = (
        Station::new(&served, "thief", PortVlans::default()),
        Station::new(&served, "home", PortVlans::default()),
    );
    let mut client = served.client();
    let mac = "02:00:00:00:00:07".parse().unwrap();
    call(&mut client, &Request::MacAdd(MacAdd { vid: vid(1), mac, port: "home".into() }));
    let rules = GuardRules { violation: Violation::Shutdown, mac_limit: Some(5), ..GuardRules::default() };
    call(&mut client, &Request::GuardSet(GuardSet { port: "thief".into(), guard: rules }));
    // Its frames go home, though it never said a word.
    thief.send(&frame(station(7), 1, &[], 60));
    home.wait_for("the frame", |f| f[11] == 1);
    thief.send(&frame(ALL, 7, &[], 60));
    eventually("the port is shut", || port(&mut client, "thief").shut == Some(Shut::WrongPort));
    thief.send(&frame(ALL, 1, &[], 60));
    eventually("nothing comes in", || drops(&mut client, "thief", DropReason::Shut) == 1);
    home.send(&frame(ALL, 7, &[], 60));
    call(&mut client, &Request::PortOpen(PortOpen { port: "thief".into(), open: true }));
    home.send(&frame(ALL, 8, &[], 60));
    thief.wait_for("only the second", |f| f[11] == 8);
    assert_eq!(drops(&mut client, "thief", DropReason::WrongPort), 1);
    // It outlives a flush, and goes when told to.
    assert_eq!(client.call::<usize>(&Request::MacFlush(MacFilter::default())).unwrap(), 1);
    assert!(client.stations(MacFilter::default()).unwrap()[0].pinned);
    call(&mut client, &Request::MacRm(MacRm { vid: vid(1), mac }));
    refusal(&mut client, &Request::MacRm(MacRm { vid: vid(1), mac }));
}

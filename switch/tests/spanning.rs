//! The spanning tree between served switches, with the kernel's bridge (STP) and with Open vSwitch (RSTP), over real links.

mod common;

use std::time::Duration;

use common::programs::OpenVSwitch;
use common::{Namespace, Served, eventually, isolated};
use switch::client::{Attach, Client, Kind, Request, StpChange, StpPortChange};
use switch::stp::bpdu::Role;
use switch::stp::config::{Edge, Protocol, State};

/// The shortest times there may be: an old bridge needs twice the forward delay.
const FAST: StpChange = StpChange {
    enabled: Some(true),
    protocol: None,
    priority: None,
    hello_s: Some(1),
    max_age_s: Some(6),
    forward_delay_s: Some(4),
    tx_hold: None,
};

fn set(client: &mut Client, priority: u16) {
    let change = StpChange { priority: Some(priority), ..FAST };
    client.call::<()>(&Request::StpSet(change)).unwrap();
}

fn attach(name: &str) -> Attach {
    Attach { name: Some(name.into()), linger: true, ..Attach::new(Kind::Packet) }
}

/// A switch plugged into both ends of cables that lie in `cables`, each a veth pair `lN`, `rN`.
fn cable(cables: &Namespace, number: usize, near: &Served, far: &Served) {
    cables.sh(&format!("ip link add l{number} type veth peer name r{number}"));
    for (side, served) in [("l", near), ("r", far)] {
        let interface = format!("{side}{number}");
        cables.sh(&format!("ip link set {interface} up addrgenmode none"));
        served.client().add_port(cables.packet(interface.clone().leak()), &attach(&interface)).unwrap();
    }
}

/// A host behind a port of its own.
fn host(served: &Served, address: u8) -> Namespace {
    let ns = Namespace::new();
    served.client().add_port(ns.veth(), &attach("host")).unwrap();
    ns.configure("eth0", &[&format!("10.0.0.{address}/24")]);
    let change = StpPortChange { edge: Some(Edge::On), ..StpPortChange::default() };
    served.client().call::<()>(&Request::StpPortSet { port: "host".into(), change }).unwrap();
    ns
}

fn roles(served: &Served) -> Vec<(Role, State)> {
    served.client().stp().unwrap().ports.iter().map(|p| (p.role, p.state)).collect()
}

fn blocked(switches: &[Served]) -> usize {
    let is = |(role, state): &(Role, State)| *role == Role::Alternate && *state == State::Discarding;
    switches.iter().map(|s| roles(s).iter().filter(|r| is(r)).count()).sum()
}

fn is_settled(switches: &[Served]) -> bool {
    let settled = |(role, state): (Role, State)| match role {
        Role::Root | Role::Designated => state == State::Forwarding,
        Role::Alternate | Role::Backup | Role::Disabled => state == State::Discarding,
    };
    switches.iter().all(|s| roles(s).into_iter().all(settled))
}

#[test]
fn a_ring_of_five_switches_has_no_loop_and_heals() {
    isolated("a_ring_of_five_switches_has_no_loop_and_heals", || {
        let switches: Vec<Served> = (0..5).map(|_| Served::new(None)).collect();
        switches.iter().zip(0..).for_each(|(s, n)| set(&mut s.client(), 4096 * n));
        let cables = Namespace::new();
        for n in 0..5 {
            cable(&cables, n, &switches[n], &switches[(n + 1) % 5]);
        }
        let (a, _b) = (host(&switches[1], 1), host(&switches[3], 2));
        eventually("one port blocked", || is_settled(&switches) && blocked(&switches) == 1);
        let root = switches[4].client().stp().unwrap().root;
        assert!(switches.iter().all(|s| s.client().stp().unwrap().root == root));
        assert!(root.starts_with("0000."));
        assert!(a.ping("10.0.0.2"));
        // One broadcast is one frame on each link, and not a storm.
        let count =
            || switches.iter().flat_map(|s| s.client().ports().unwrap()).map(|p| p.rx_frames).sum::<u64>();
        let before = count();
        a.sh("ip neigh flush all; ! ping -n -c 1 -W 1 10.0.0.99 >/dev/null");
        assert!(count() - before < 200, "{} frames", count() - before);
        for n in 0..5 {
            cables.sh(&format!("ip link set l{n} down"));
            eventually("the ring is a line", || is_settled(&switches) && blocked(&switches) == 0);
            eventually("and carries", || a.ping("10.0.0.2"));
            cables.sh(&format!("ip link set l{n} up"));
            eventually("the ring is one again", || is_settled(&switches) && blocked(&switches) == 1);
            eventually("and carries", || a.ping("10.0.0.2"));
        }
        // Without the protocol every port forwards; two of the links go first.
        cables.sh("ip link del l0; ip link del l2");
        for s in &switches {
            s.client()
                .call::<()>(&Request::StpSet(StpChange { enabled: Some(false), ..StpChange::default() }))
                .unwrap();
        }
        assert!(switches.iter().all(|s| s.client().ports().unwrap().iter().all(|p| p.stp.is_none())));
    });
}

/// Two links to the kernel's bridge, which speaks the old protocol.
fn beside_the_kernel(ours: u16, theirs: u16) -> (Served, Namespace, Namespace) {
    let served = Served::new(None);
    set(&mut served.client(), ours);
    let kernel = Namespace::new();
    kernel.sh(&format!(
        "ip link add br0 type bridge stp_state 1 priority {theirs} forward_delay 400 hello_time 100 max_age 600
         ip addr add 10.0.0.2/24 dev br0"
    ));
    for n in 0..2 {
        kernel.sh(&format!(
            "ip link add k{n} type veth peer name w{n}; ip link set k{n} up master br0; ip link set w{n} up"
        ));
        let wire = kernel.packet(format!("w{n}").leak());
        served.client().add_port(wire, &attach(&format!("p{n}"))).unwrap();
    }
    kernel.sh("ip link set br0 up");
    let host = host(&served, 1);
    (served, kernel, host)
}

/// The kernel's states of its two ports.
fn kernel_states(kernel: &Namespace) -> Vec<String> {
    let command = "bridge -d link show | grep -o 'state [a-z]*' | cut -d' ' -f2";
    let out = kernel.run(move || std::process::Command::new("sh").args(["-ec", command]).output().unwrap());
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// As `eventually`, for what takes twice the forward delay and the maximum age.
fn in_due_time(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..8 {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eventually(what, &mut holds))).is_ok() {
            return;
        }
    }
    panic!("never: {what}");
}

#[test]
fn the_kernels_bridge_is_root() {
    isolated("the_kernels_bridge_is_root", || {
        let (served, kernel, host) = beside_the_kernel(8192, 4096);
        let open = || kernel_states(&kernel) == ["forwarding", "forwarding"];
        in_due_time("the kernel forwards", open);
        let tree = served.client().stp().unwrap();
        assert!(tree.root.starts_with("1000.") && tree.root_port.as_deref() == Some("p0"), "{tree:?}");
        assert_eq!((tree.ports[0].role, tree.ports[0].state), (Role::Root, State::Forwarding));
        assert_eq!((tree.ports[1].role, tree.ports[1].state), (Role::Alternate, State::Discarding));
        assert!(tree.ports[..2].iter().all(|p| p.protocol == Protocol::Stp), "{tree:?}");
        assert!(host.ping("10.0.0.2"));
        kernel.sh("ip link set k0 down");
        eventually("the other link stands in", || roles(&served)[1] == (Role::Root, State::Forwarding));
        eventually("and carries", || host.ping("10.0.0.2"));
    });
}

#[test]
fn the_kernels_bridge_follows_us() {
    isolated("the_kernels_bridge_follows_us", || {
        let (served, kernel, host) = beside_the_kernel(4096, 8192);
        in_due_time("the kernel forwards", || kernel_states(&kernel) == ["forwarding", "blocking"]);
        let tree = served.client().stp().unwrap();
        assert!(tree.root_port.is_none() && tree.root == tree.bridge, "{tree:?}");
        in_due_time("we forward", || {
            roles(&served)[..2].iter().all(|r| *r == (Role::Designated, State::Forwarding))
        });
        assert!(host.ping("10.0.0.2"));
        let changes = tree.topology_changes;
        kernel.sh("ip link set k0 down");
        in_due_time("the kernel's other port", || kernel_states(&kernel).contains(&"forwarding".to_owned()));
        eventually("it carries", || host.ping("10.0.0.2"));
        assert!(served.client().stp().unwrap().topology_changes >= changes);
    });
}

#[test]
fn a_guarded_port_is_shut_by_a_bridge() {
    isolated("a_guarded_port_is_shut_by_a_bridge", || {
        let (served, _kernel, _host) = beside_the_kernel(4096, 8192);
        let guard = |on: bool| {
            let change = StpPortChange { bpdu_guard: Some(on), ..StpPortChange::default() };
            served.client().call::<()>(&Request::StpPortSet { port: "p1".into(), change }).unwrap();
        };
        let shut = || served.client().stp().unwrap().ports[1].shut;
        // The kernel's bridge speaks up when it is told of another root, and then once more at times.
        guard(true);
        set(&mut served.client(), 61_440);
        eventually("shut", shut);
        assert_eq!(roles(&served)[1], (Role::Disabled, State::Discarding));
        guard(false);
        assert!(!shut());
        eventually("heard", || roles(&served)[1].0 != Role::Disabled);
        std::thread::sleep(Duration::from_millis(10));
    });
}

/// Two links to Open vSwitch, which speaks RSTP.
fn beside_open_vswitch(ours: u16, theirs: u16) -> (Served, Namespace, OpenVSwitch, tempfile::TempDir) {
    let (served, ns) = (Served::new(None), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    let ovs = OpenVSwitch::new(&ns, dir.path());
    let bridge = "add-br br0 -- set bridge br0 datapath_type=netdev rstp_enable=true";
    ovs.vsctl(
        &ns,
        &format!("{bridge} other_config:rstp-priority={theirs} other_config:rstp-forward-delay=4"),
    );
    let change = StpChange { priority: Some(ours), enabled: Some(true), ..StpChange::default() };
    served.client().call::<()>(&Request::StpSet(change)).unwrap();
    for (n, wire) in [(0, "w0"), (1, "w1")] {
        ns.sh(&format!(
            "ip link add k{n} type veth peer name w{n}; ip link set k{n} up; ip link set w{n} up"
        ));
        ovs.vsctl(&ns, &format!("add-port br0 k{n}"));
        served.client().add_port(ns.packet(wire), &attach(&format!("p{n}"))).unwrap();
    }
    ns.configure("br0", &["10.0.0.2/24"]);
    (served, ns, ovs, dir)
}

#[test]
fn open_vswitch_is_root_and_goes() {
    isolated("open_vswitch_is_root_and_goes", || {
        let (served, ns, ovs, _dir) = beside_open_vswitch(8192, 4096);
        let host = host(&served, 1);
        let both = [(Role::Root, State::Forwarding), (Role::Alternate, State::Discarding)];
        eventually("it leads", || roles(&served)[..2] == both);
        let tree = served.client().stp().unwrap();
        assert!(tree.root.starts_with("1000.") && tree.root_port.as_deref() == Some("p0"), "{tree:?}");
        assert!(tree.ports[..2].iter().all(|p| p.protocol == Protocol::Rstp), "{tree:?}");
        eventually("it carries", || host.ping("10.0.0.2"));
        ns.sh("ip link set k0 down");
        eventually("the other link stands in", || roles(&served)[1] == both[0]);
        eventually("and carries", || host.ping("10.0.0.2"));
        drop(ovs);
        in_due_time("we are the root", || served.client().stp().unwrap().root_port.is_none());
    });
}

#[test]
fn open_vswitch_follows_us() {
    isolated("open_vswitch_follows_us", || {
        let (served, ns, ovs, _dir) = beside_open_vswitch(4096, 8192);
        let host = host(&served, 1);
        let shows = |words: &[&str]| {
            let shown = ovs.ask(&ns, "rstp/show br0");
            words.iter().all(|word| shown.contains(word))
        };
        in_due_time("it follows", || shows(&["Root", "Alternate", "Forwarding", "Discarding"]));
        in_due_time("we forward", || {
            roles(&served)[..2].iter().all(|r| *r == (Role::Designated, State::Forwarding))
        });
        eventually("it carries", || host.ping("10.0.0.2"));
        // Its own words of who is root: our address.
        let address = served.client().stp().unwrap().bridge.split_once('.').unwrap().1.to_owned();
        assert!(shows(&[&address]), "{}", ovs.ask(&ns, "rstp/show br0"));
    });
}

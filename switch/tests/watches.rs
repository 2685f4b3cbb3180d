//! Links that go down and come up under ports, told by the kernel: with and without spanning tree.

mod common;

use std::os::fd::OwnedFd;
use std::time::Duration;

use common::{Namespace, Served, eventually, has_tap, isolated};
use msocket_proto::line::{Line, Received};
use switch::client::{Attach, Kind, Request, StpChange};
use switch::events::{Event, Told};
use switch::ports::{tap, watch};
use switch::stp::bpdu::Role;

fn add(served: &Served, name: &str, kind: Kind, fds: &[OwnedFd]) {
    let attach = Attach { name: Some(name.into()), linger: true, ..Attach::new(kind) };
    served.client().add_port_of(fds, &attach).unwrap();
}

/// Two veth pairs `aN`, `bN`, all up, with ports over the `bN`.
fn two_nics(served: &Served, ns: &Namespace) {
    for (n, far) in [(0, "b0"), (1, "b1")] {
        ns.sh(&format!(
            "ip link add a{n} type veth peer name b{n}; ip link set a{n} up; ip link set b{n} up"
        ));
        add(served, far, Kind::Packet, &[ns.packet(far), ns.run(watch::open).unwrap()]);
    }
}

fn link(served: &Served, name: &str) -> Option<bool> {
    served.client().ports().unwrap().into_iter().find(|p| p.name == name).map(|p| p.link)
}

/// Listens to the switch's events.
fn listen(served: &Served) -> Line {
    let mut client = served.client();
    client.call::<()>(&Request::Events).unwrap();
    let line = client.into_line();
    line.stream().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    line
}

/// Waits until it is told that the link of this port is up, or down.
fn await_link(line: &mut Line, name: &str, is_up: bool) {
    loop {
        match line.receive::<Told>().unwrap() {
            Received::Message(Told { event: Event::PortLink { port, up }, .. }, _)
                if (&port[..], up) == (name, is_up) =>
            {
                return;
            }
            Received::Message(..) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_carrier_is_told_of_without_a_tree() {
    isolated("a_carrier_is_told_of_without_a_tree", || {
        let (served, ns) = (Served::new(None), Namespace::new());
        two_nics(&served, &ns);
        let mut news = listen(&served);
        // The kernel itself takes a moment to tell (net/core/link_watch.c).
        let links = || (link(&served, "b0"), link(&served, "b1"));
        eventually("they are up", || links() == (Some(true), Some(true)));
        // Somebody is behind the port, and is not looked for there any more when its link is gone.
        ns.sh("ip addr add 10.0.0.1/24 dev a0; ! ping -n -c 1 -W 1 10.0.0.9 >/dev/null");
        let stations = || served.client().show().unwrap().stations;
        eventually("a station is known", || stations() > 0);
        ns.sh("ip link set a0 down");
        await_link(&mut news, "b0", false);
        assert_eq!(links(), (Some(false), Some(true)));
        assert!(served.client().stations(Default::default()).unwrap().iter().all(|s| s.port != "b0"));
        ns.sh("ip link set a1 down; ip link set a0 up");
        await_link(&mut news, "b1", false);
        await_link(&mut news, "b0", true);
        // The watch is shared, and stays with the other port.
        served.client().call::<()>(&Request::PortRm { port: "b0".into() }).unwrap();
        ns.sh("ip link set a1 up");
        await_link(&mut news, "b1", true);
        // An interface that goes while it is down takes its port with it.
        ns.sh("ip link set b1 down; ip link del b1");
        eventually("the port is gone", || link(&served, "b1").is_none());
        // The next one brings its own.
        ns.sh("ip link del a0");
        two_nics(&served, &ns);
        ns.sh("ip link set a1 down");
        await_link(&mut news, "b1", false);
    });
}

#[test]
fn a_tap_is_told_of_too() {
    isolated("a_tap_is_told_of_too", || {
        if !has_tap() {
            return;
        }
        let (served, ns) = (Served::new(None), Namespace::new());
        let fds = ns.run(|| [tap::open(tap::DEVICE.as_ref(), "tap0").unwrap().0, watch::open().unwrap()]);
        add(&served, "vm", Kind::Tap, &fds);
        drop(fds);
        let mut news = listen(&served);
        assert_eq!(link(&served, "vm"), Some(false));
        ns.sh("ip link set tap0 up");
        await_link(&mut news, "vm", true);
        ns.sh("ip link set tap0 down");
        await_link(&mut news, "vm", false);
    });
}

#[test]
fn the_tree_hears_of_a_carrier_and_of_shut_ports() {
    isolated("the_tree_hears_of_a_carrier_and_of_shut_ports", || {
        let (served, ns) = (Served::new(None), Namespace::new());
        two_nics(&served, &ns);
        served
            .client()
            .call::<()>(&Request::StpSet(StpChange { enabled: Some(true), ..StpChange::default() }))
            .unwrap();
        let role = |n: usize| served.client().stp().unwrap().ports[n].role;
        eventually("both are in the tree", || (role(0), role(1)) == (Role::Designated, Role::Designated));
        ns.sh("ip link set a0 down");
        eventually("it is out of the tree", || role(0) == Role::Disabled);
        ns.sh("ip link set a0 up");
        eventually("it is back", || role(0) == Role::Designated);
        // What is done by command has been done when it is answered.
        let open = |open| {
            let change = switch::control::traffic::PortOpen { port: "b1".into(), open };
            served.client().call::<()>(&Request::PortOpen(change)).unwrap();
        };
        open(false);
        assert_eq!((role(1), link(&served, "b1")), (Role::Disabled, Some(true)));
        open(true);
        assert_eq!(role(1), Role::Designated);
    });
}

#[test]
fn what_tells_nothing_is_done_without() {
    isolated("what_tells_nothing_is_done_without", || {
        let (served, ns, other) = (Served::new(None), Namespace::new(), Namespace::new());
        ns.sh("ip link add a0 type veth peer name b0; ip link set a0 up; ip link set b0 up");
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        add(&served, "p1", Kind::Packet, &[ns.packet("b0"), socket.into()]);
        add(&served, "p2", Kind::Packet, &[ns.packet("b0"), other.run(watch::open).unwrap()]);
        let on = StpChange { enabled: Some(true), ..StpChange::default() };
        served.client().call::<()>(&Request::StpSet(on)).unwrap();
        ns.sh("ip link set a0 down");
        eventually("who asks is told", || [link(&served, "p1"), link(&served, "p2")] == [Some(false); 2]);
        let roles = || served.client().stp().unwrap().ports.iter().map(|p| p.role).collect::<Vec<_>>();
        eventually("the tree has asked", || roles() == [Role::Disabled; 2]);
    });
}

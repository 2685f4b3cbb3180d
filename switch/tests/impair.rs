//! Links that misbehave on purpose, with real traffic.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::{Namespace, Served, eventually, has_tap, isolated, transfer};
use switch::client::{Attach, Client, Impair, Impairment, Kind, Request};

/// Two hosts behind ports `a` and `b`.
fn hosts(served: &Served, kind: Kind) -> (Namespace, Namespace) {
    let [a, b] = [("a", 1), ("b", 2)].map(|(name, n)| {
        let ns = Namespace::new();
        let fd = if kind == Kind::Tap { ns.tap() } else { ns.veth() };
        let attach = Attach { name: Some(name.into()), linger: true, ..Attach::new(kind) };
        served.client().add_port(fd, &attach).unwrap();
        ns.configure("eth0", &[&format!("10.0.0.{n}/24")]);
        ns
    });
    eventually("they see each other", || a.ping("10.0.0.2"));
    (a, b)
}

fn impair(client: &mut Client, port: &str, ingress: &str, egress: &str, seed: Option<u64>) {
    let [ingress, egress] = [ingress, egress].map(|spec| Some(spec.parse().unwrap()));
    let change = Impair { port: port.into(), ingress, egress, seed };
    client.call::<()>(&Request::Impair(change)).unwrap();
}

fn only(client: &mut Client) -> Impairment {
    let mut all = client.impairments().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[expect(clippy::disallowed_methods, reason = "how long a real ping takes")]
fn ping_time(from: &Namespace, address: &str) -> Option<Duration> {
    let began = Instant::now();
    from.ping(address).then(|| began.elapsed())
}

#[test]
fn each_direction_by_itself_and_changed_while_running() {
    isolated("each_direction_by_itself_and_changed_while_running", || {
        let served = Served::new(None);
        let (a, _b) = hosts(&served, Kind::Packet);
        let mut client = served.client();
        impair(&mut client, "b", "delay 100ms", "delay 200ms", None);
        assert!(ping_time(&a, "10.0.0.2").unwrap() >= Duration::from_millis(300));
        impair(&mut client, "b", "none", "loss 100%", None);
        assert_eq!(ping_time(&a, "10.0.0.2"), None);
        let link = only(&mut client);
        assert!(link.ingress.is_none() && link.egress.unwrap().counters.lost > 0);
        impair(&mut client, "b", "none", "none", None);
        assert_eq!(client.impairments().unwrap(), []);
        assert!(a.ping("10.0.0.2"));
        let refused = client.call::<()>(&Request::Impair(Impair {
            port: "c".into(),
            ingress: None,
            egress: None,
            seed: None,
        }));
        assert!(refused.is_err());
    });
}

#[test]
fn a_port_goes_with_what_is_in_flight() {
    isolated("a_port_goes_with_what_is_in_flight", || {
        let served = Served::new(None);
        let (a, _b) = hosts(&served, Kind::Packet);
        let mut client = served.client();
        impair(&mut client, "b", "none", "delay 60s", None);
        assert!(!a.ping("10.0.0.2"));
        assert!(only(&mut client).egress.unwrap().in_flight > 0);
        client.call::<()>(&Request::PortRm { port: "b".into() }).unwrap();
        assert_eq!(client.impairments().unwrap(), []);
    });
}

#[test]
fn super_segments_are_cut_before() {
    isolated("super_segments_are_cut_before", || {
        if !has_tap() {
            return;
        }
        const LEN: usize = 8 << 20;
        let served = Served::new(None);
        let (a, b) = hosts(&served, Kind::Tap);
        let mut client = served.client();
        impair(&mut client, "b", "delay 1ms", "delay 1ms, duplicate 1%, loss 0.1%, reorder 1%", Some(1));
        transfer(&a, &b, "10.0.0.2", LEN);
        let counters = only(&mut client).egress.unwrap().counters;
        assert!(
            counters.packets as usize > LEN / 1500 && counters.bytes / counters.packets <= 1514,
            "{counters:?}"
        );
        assert!(counters.lost > 0 && counters.duplicated > 0, "{counters:?}");
        impair(&mut client, "b", "none", "none", None);
        let sent = |client: &mut Client| client.ports().unwrap().remove(1).tx_frames;
        let before = sent(&mut client);
        transfer(&a, &b, "10.0.0.2", LEN);
        assert!(((sent(&mut client) - before) as usize) < LEN / 3000, "they cross whole again");
    });
}

/// Which of 200 datagrams arrive.
fn survivors(a: &Namespace, b: &Namespace) -> Vec<u16> {
    let receiver = b.run(|| UdpSocket::bind("10.0.0.2:5000").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let received = b.start(move || {
        let mut numbers = Vec::new();
        let mut bytes = [0; 2];
        while receiver.recv(&mut bytes).is_ok() {
            numbers.push(u16::from_be_bytes(bytes));
        }
        numbers
    });
    a.run(|| {
        let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
        for n in 0..200u16 {
            socket.send_to(&n.to_be_bytes(), "10.0.0.2:5000").unwrap();
            // No queue on the way is to lose any.
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    received.recv().unwrap()
}

#[test]
fn the_same_seed_loses_the_same_datagrams() {
    isolated("the_same_seed_loses_the_same_datagrams", || {
        let served = Served::new(None);
        let (a, b) = hosts(&served, Kind::Packet);
        // Nobody else speaks on this link.
        for (ns, peer) in [(&a, 2), (&b, 1)] {
            ns.sh("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
            let mac = if peer == 2 { b.run(mac) } else { a.run(mac) };
            ns.sh(&format!("ip neigh replace 10.0.0.{peer} lladdr {mac} dev eth0"));
        }
        let mut client = served.client();
        let mut run = |seed| {
            impair(&mut client, "b", "none", "delay 1ms, loss gilbert 5% 30%, duplicate 3%", Some(seed));
            survivors(&a, &b)
        };
        let (one, again, other) = (run(7), run(7), run(8));
        assert_eq!(one, again);
        assert_ne!(one, other);
        assert!((100..200).contains(&one.len()), "{}", one.len());
    });
}

/// The address of `eth0` in this thread's network; /sys shows another's.
fn mac() -> String {
    let command = "ip -o link show eth0 | sed 's/.*ether //; s/ .*//'";
    let out = std::process::Command::new("sh").args(["-ec", command]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

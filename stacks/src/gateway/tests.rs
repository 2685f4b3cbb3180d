//! How long flows last, and who gives one up, with time as an argument: RFC 4787, RFC 5382, RFC 5508.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::quote::{quote, udp};
use super::*;
use crate::smol::call::SocketCall;
use crate::smol::sockets::address::{Domain, Endpoint, emit};
use crate::stack::SocketSpec;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const MINUTE: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn inside(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, host)
}

/// A gateway's, plugged into nothing, whose own address is the host's loopback.
fn hall(now: Instant) -> Hall {
    let mut stack = StackConfig::default();
    stack.add_line("eth0=none,ip=10.0.2.1/24").unwrap();
    let mut engine = Engine::new(&stack, [1; 32], now).unwrap();
    let caller = Caller { pid: 1, uid: 0, fd: -1, rights: true };
    let listener = engine.stand_for_others(now, &caller).unwrap();
    let link = IfIndex(LOOPBACK.0 + 1);
    engine.plug(now, link, true);
    let rules = Rules { host_loopback: true, ..Rules::default() };
    Hall {
        engine,
        policy: Policy::new(rules, vec!["10.0.2.1/24".parse().unwrap()]),
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap(),
        link,
        caller,
        listener,
        nameserver: None,
        dns64: false,
        way: None,
        scratch: vec![0; host::LONGEST + 1],
    }
}

/// What an address of the inside sends from a port to one of the host's loopback.
fn datagram(hall: &Hall, from: (Ipv4Addr, u16), port: u16) -> Packet<'static> {
    let ends = (from.0.into(), OWN.into());
    Packet { ttl: 64, ..quote(hall.link, ends, libc::IPPROTO_UDP as u8, udp(from.1, port, b"hello")) }
}

/// Somebody on the host's loopback.
fn server() -> (UdpSocket, u16) {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

#[test]
fn a_port_of_udp_lasts_five_minutes_from_its_last_datagram() {
    let t0 = start();
    let (mut hall, mut datagrams) = (hall(t0), Datagrams::new());
    let (server, port) = server();
    let mut send = |now, datagrams: &mut Datagrams| {
        let packet = datagram(&hall, (inside(2), 5000), port);
        datagrams.handle_udp(now, &packet, &mut hall);
        datagrams.depart(now, &mut hall);
        server.recv_from(&mut [0; 9]).unwrap().1
    };
    let first = send(t0, &mut datagrams);
    // What leaves refreshes it (RFC 4787 REQ-6).
    let t1 = t0 + 4 * MINUTE;
    datagrams.handle_timeout(t1);
    assert_eq!(send(t1, &mut datagrams), first, "another port");
    datagrams.handle_timeout(t1 + 5 * MINUTE - MOMENT);
    assert_eq!(datagrams.len(), 1);
    datagrams.handle_timeout(t1 + 5 * MINUTE);
    assert_eq!(datagrams.len(), 0);
    // So does what comes.
    let t2 = t1 + 10 * MINUTE;
    let port = send(t2, &mut datagrams);
    server.send_to(b"world", port).unwrap();
    datagrams.handle_event(0);
    datagrams.run(t2 + 3 * MINUTE, &mut hall);
    datagrams.handle_timeout(t2 + 8 * MINUTE - MOMENT);
    assert_eq!(datagrams.len(), 1);
    datagrams.handle_timeout(t2 + 8 * MINUTE);
    assert_eq!(datagrams.len(), 0);
}

#[test]
fn a_port_that_only_asks_nameservers_lasts_half_a_minute() {
    let t0 = start();
    let (mut hall, mut datagrams) = (hall(t0), Datagrams::new());
    for (number, then) in [(1, None), (2, Some(9))] {
        for port in std::iter::once(services::DOMAIN).chain(then) {
            let packet = datagram(&hall, (inside(2), number), port);
            datagrams.handle_udp(t0, &packet, &mut hall);
        }
    }
    assert_eq!(datagrams.len(), 2);
    datagrams.handle_timeout(t0 + MINUTE / 2 - MOMENT);
    assert_eq!(datagrams.len(), 2);
    datagrams.handle_timeout(t0 + MINUTE / 2);
    // One has asked somebody else, too.
    assert_eq!(datagrams.len(), 1);
}

#[test]
fn an_ident_of_echoes_lasts_a_minute() {
    let t0 = start();
    let (mut hall, mut datagrams) = (hall(t0), Datagrams::new());
    if host::echo_socket(true).is_err() {
        return eprintln!("not tested: who runs the tests may not ping (net.ipv4.ping_group_range)");
    }
    let message = vec![8, 0, 0, 0, 0, 7, 0, 1];
    let ends = (inside(2).into(), OWN.into());
    let packet = Packet { ttl: 64, ..quote(hall.link, ends, libc::IPPROTO_ICMP as u8, message) };
    datagrams.handle_echo(t0, &packet, &mut hall);
    // RFC 5508 REQ-2: no less than a minute.
    datagrams.handle_timeout(t0 + MINUTE - MOMENT);
    assert_eq!(datagrams.len(), 1);
    datagrams.handle_timeout(t0 + MINUTE);
    assert_eq!(datagrams.len(), 0);
}

#[test]
fn who_has_most_ports_of_udp_loses_its_own() {
    let t0 = start();
    let (mut hall, mut datagrams) = (hall(t0), Datagrams::new());
    datagrams.flows = flows::Flows::new(4);
    let (_server, port) = server();
    let modest = datagram(&hall, (inside(9), 1), port);
    datagrams.handle_udp(t0, &modest, &mut hall);
    for number in 1..=20 {
        let packet = datagram(&hall, (inside(2), number), port);
        datagrams.handle_udp(t0, &packet, &mut hall);
    }
    let mut owners: Vec<_> = datagrams.owners().collect();
    owners.sort_unstable();
    assert_eq!(owners, [(inside(2).into(), 3), (inside(9).into(), 1)]);
    assert_eq!(datagrams.evicted, 17);
}

/// A listener of the stack itself, whom connections that the host has can be for.
fn listener(now: Instant, hall: &mut Hall) {
    let spec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 };
    let id = hall.engine.socket(now, spec, &hall.caller).unwrap();
    let address = emit(Domain::V4, &Endpoint::new(OWN.into(), 80));
    hall.engine.call(now, id, &hall.caller, &SocketCall::Bind { address }).unwrap();
    hall.engine.call(now, id, &hall.caller, &SocketCall::Listen { backlog: 100 }).unwrap();
}

/// A connection that the host has is passed on to `to`, in the name of a port of the gateway's; the host's other end.
fn call(now: Instant, from: u16, to: Ipv4Addr, hall: &mut Hall, streams: &mut Streams) -> UnixStream {
    let (far, near) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let ends = (SocketAddr::new(OWN.into(), from), SocketAddr::new(to.into(), 80));
    let id = hall.engine.connect_as(now, ends, &hall.caller).unwrap();
    streams.call(now, (id, to.into()), near.into(), hall, &mut Counts::default());
    // It goes over the stack's own loopback, a packet at a time.
    for _ in 0..4 {
        while let Some((_, child)) = hall.engine.poll_knock() {
            assert!(hall.engine.admit(child));
        }
        let _ = hall.engine.poll_transmit(now, &mut |_, _, _| {});
        hall.engine.handle_timeout(now);
    }
    streams.handle_dirty(now, id, hall);
    far
}

fn is_open(far: &UnixStream) -> bool {
    far.set_nonblocking(true).unwrap();
    let read = std::io::Read::read(&mut &*far, &mut [0; 9]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn a_connection_lasts_two_hours_and_four_minutes_and_four_while_being_made() {
    let t0 = start();
    let (mut hall, mut streams) = (hall(t0), Streams::new());
    listener(t0, &mut hall);
    let open = call(t0, 4000, OWN, &mut hall, &mut streams);
    // Nobody answers there.
    let made = call(t0, 4001, inside(9), &mut hall, &mut streams);
    streams.handle_timeout(t0 + 4 * MINUTE - MOMENT, &mut hall);
    assert!(is_open(&made) && streams.flows.len() == 2);
    streams.handle_timeout(t0 + 4 * MINUTE, &mut hall);
    assert!(!is_open(&made) && streams.flows.len() == 1);
    // RFC 5382 REQ-5: as long as TCP's own keep-alive, and what that takes.
    streams.handle_timeout(t0 + 124 * MINUTE - MOMENT, &mut hall);
    assert!(is_open(&open) && streams.flows.len() == 1);
    streams.handle_timeout(t0 + 124 * MINUTE, &mut hall);
    assert!(!is_open(&open) && streams.flows.is_empty());
}

#[test]
fn who_has_most_connections_loses_one_of_its_own() {
    let t0 = start();
    let (mut hall, mut streams) = (hall(t0), Streams::new());
    streams.flows = flows::Flows::new(3);
    let modest = call(t0, 4000, inside(9), &mut hall, &mut streams);
    let greedy: Vec<_> =
        (4001..4011).map(|port| call(t0, port, inside(2), &mut hall, &mut streams)).collect();
    assert!(is_open(&modest));
    assert_eq!(greedy.iter().filter(|far| is_open(far)).count(), 2);
}

//! UDP, ICMP datagram and raw sockets.

use super::*;
use crate::smol::sockets::cmsg::{Control, records};

/// One record of ancillary data.
fn record(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Control::new(&mut out, 1024).put(level, kind, data);
    out
}

fn find(message: &Message, level: i32, kind: i32) -> Option<Vec<u8>> {
    records(&message.control)
        .map(Result::unwrap)
        .find(|record| (record.level, record.kind) == (level, kind))
        .map(|record| record.data.to_vec())
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_ne_bytes(bytes[..4].try_into().unwrap())
}

#[test]
fn there_and_back() {
    for (bound, to) in
        [("127.0.0.1:53", "127.0.0.1:53"), ("0.0.0.0:54", "127.0.0.9:54"), ("[::]:55", "127.0.0.1:55")]
    {
        let mut world = World::alone();
        let family = if bound.starts_with('[') { libc::AF_INET6 } else { libc::AF_INET };
        let server = world.socket(0, family, libc::SOCK_DGRAM, 0);
        world.bind(0, server, bound).unwrap();
        let client = world.udp(0);
        assert_eq!(world.send_to(0, client, None, b"x"), Err(Errno::EDESTADDRREQ));
        assert_eq!(world.send_to(0, client, Some(to), b"query"), Ok(Done::Value(5)));
        assert_eq!(world.engines[0].status(server).readable, 1);
        let message = world.receive(0, server).unwrap();
        assert_eq!(message.data, b"query");
        assert_eq!(parsed(&message.from).port(), world.name(0, client).port());
        assert_eq!(message.from.len(), if family == libc::AF_INET { 16 } else { 28 });
        let call = SocketCall::Send { to: Some(message.from), control: vec![], data: vec![], flags: 0 };
        assert_eq!(world.call(0, server, call), Ok(Done::Value(0)), "an empty one");
        assert_eq!(world.receive(0, client).unwrap().length, 0);
        assert_eq!(world.receive(0, client), Err(Errno::EAGAIN));
    }
}

#[test]
fn between_two_engines_and_too_long_for_one_packet() {
    for to in ["10.0.0.2:53", "[fd00::2]:53"] {
        let mut world = World::pair(1, Trouble::default());
        let family = if to.starts_with('[') { libc::AF_INET6 } else { libc::AF_INET };
        let server = world.socket(1, family, libc::SOCK_DGRAM, 0);
        world.bind(1, server, to).unwrap();
        let client = world.socket(0, family, libc::SOCK_DGRAM, 0);
        for length in [1, 1472, 9000, 65_507] {
            let data: Vec<u8> = (0..length).map(|n| n as u8).collect();
            world.send_to(0, client, Some(to), &data).unwrap();
            world.run(ms(100));
            assert_eq!(world.receive(1, server).unwrap().data, data, "{to} {length}");
        }
        assert_eq!(world.send_to(0, client, Some(to), &vec![0; 65_528]), Err(Errno::EMSGSIZE));
    }
}

#[test]
fn peeking_and_cutting() {
    let mut world = World::alone();
    let server = world.udp(0);
    world.bind(0, server, "127.0.0.1:53").unwrap();
    world.send_to(0, server, Some("127.0.0.1:53"), b"0123456789").unwrap();
    let peek =
        SocketCall::Receive { length: 4, control: 0, flags: libc::MSG_PEEK | libc::MSG_TRUNC, named: true };
    let Ok(Done::Received(message)) = world.call(0, server, peek) else { panic!() };
    assert_eq!((message.data.as_slice(), message.length, message.flags), (&b"0123"[..], 10, libc::MSG_TRUNC));
    let cut = SocketCall::Receive { length: 4, control: 0, flags: 0, named: true };
    let Ok(Done::Received(message)) = world.call(0, server, cut) else { panic!() };
    assert_eq!((message.length, message.flags), (4, libc::MSG_TRUNC));
    assert_eq!(world.receive(0, server), Err(Errno::EAGAIN));
}

#[test]
fn a_connected_socket_hears_its_peer_only() {
    let mut world = World::alone();
    let one = world.udp(0);
    world.bind(0, one, "127.0.0.1:1000").unwrap();
    let (two, three) = (world.udp(0), world.udp(0));
    world.bind(0, two, "127.0.0.1:2000").unwrap();
    world.bind(0, three, "127.0.0.1:3000").unwrap();
    assert_eq!(world.peer(0, one), Err(Errno::ENOTCONN));
    world.connect(0, one, "127.0.0.1:2000").unwrap();
    assert_eq!(world.peer(0, one).unwrap().port(), 2000);
    world.send_to(0, three, Some("127.0.0.1:1000"), b"stranger").unwrap();
    world.send_to(0, two, Some("127.0.0.1:1000"), b"friend").unwrap();
    assert_eq!(world.receive(0, one).unwrap().data, b"friend");
    assert_eq!(world.receive(0, one), Err(Errno::EAGAIN));
    assert_eq!(world.error(0, three), None);
    world.engines[0].send_datagram(world.now, one, None, b"hi").unwrap();
    assert_eq!(world.receive(0, two).unwrap().data, b"hi");
    world.call(0, one, SocketCall::Connect { address: unspecified() }).unwrap();
    world.send_to(0, three, Some("127.0.0.1:1000"), b"stranger").unwrap();
    assert_eq!(world.receive(0, one).unwrap().data, b"stranger");
}

#[test]
fn a_port_that_nobody_has() {
    let mut world = World::pair(1, Trouble::default());
    let client = world.udp(0);
    world.send_to(0, client, Some("10.0.0.2:9"), b"x").unwrap();
    world.run(ms(50));
    assert_eq!(world.error(0, client), None, "not connected: nothing is told");
    world.connect(0, client, "10.0.0.2:9").unwrap();
    world.send_to(0, client, None, b"x").unwrap();
    world.run(ms(50));
    assert_eq!(world.engines[0].status(client).error, Some(Errno::ECONNREFUSED));
    assert_eq!(world.send_to(0, client, None, b"x"), Err(Errno::ECONNREFUSED));
    assert!(world.send_to(0, client, None, b"x").is_ok());
    world.run(ms(50));
    assert_eq!(world.receive(0, client), Err(Errno::ECONNREFUSED));
    assert_eq!(world.receive(0, client), Err(Errno::EAGAIN));
}

#[test]
fn errors_with_their_datagrams() {
    let mut world = World::pair(1, Trouble::default());
    for (to, family, level, kind, origin) in [
        ("10.0.0.2:9", libc::AF_INET, libc::IPPROTO_IP, libc::IP_RECVERR, 2),
        ("[fd00::2]:9", libc::AF_INET6, libc::IPPROTO_IPV6, 25, 3),
    ] {
        let client = world.socket(0, family, libc::SOCK_DGRAM, 0);
        world.set(0, client, level, kind, 1).unwrap();
        assert_eq!(world.receive_with(0, client, libc::MSG_ERRQUEUE), Err(Errno::EAGAIN));
        world.send_to(0, client, Some(to), b"to nobody").unwrap();
        world.run(ms(50));
        let message = world.receive_with(0, client, libc::MSG_ERRQUEUE).unwrap();
        assert_eq!(message.data, b"to nobody");
        assert_eq!(message.flags, libc::MSG_ERRQUEUE);
        assert_eq!(parsed(&message.from).to_string(), to);
        let error = find(&message, level, kind).unwrap();
        assert_eq!(int(&error), libc::ECONNREFUSED);
        assert_eq!(error[4], origin);
        assert_eq!(parsed(&error[16..]).ip(), to.parse::<SocketAddr>().unwrap().ip());
        assert_eq!(world.error(0, client), None);
    }
}

#[test]
fn errors_of_sending() {
    let mut world = World::pair(1, Trouble::default());
    let id = world.udp(0);
    assert_eq!(world.send_to(0, id, Some("192.0.2.1:9"), b"x"), Err(Errno::ENETUNREACH));
    assert_eq!(world.send_to(0, id, Some("10.0.0.255:9"), b"x"), Err(Errno::EACCES));
    assert_eq!(
        world.send_to(0, id, Some("255.255.255.255:9"), b"x"),
        Err(Errno::ENETUNREACH),
        "no default route"
    );
    assert_eq!(world.send_to(0, id, Some("10.0.0.2:0"), b"x"), Err(Errno::EINVAL));
    assert_eq!(world.send_to(0, id, Some("[fd00::2]:9"), b"x"), Err(Errno::EAFNOSUPPORT));
    world.set(0, id, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO).unwrap();
    assert_eq!(world.send_to(0, id, Some("10.0.0.2:9"), &[0; 1473]), Err(Errno::EMSGSIZE));
    assert!(world.send_to(0, id, Some("10.0.0.2:9"), &[0; 1472]).is_ok());
    let only = world.socket(0, libc::AF_INET6, libc::SOCK_DGRAM, 0);
    world.set(0, only, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).unwrap();
    assert_eq!(world.connect(0, only, "[::ffff:10.0.0.2]:9"), Err(Errno::ENETUNREACH));
    assert_eq!(world.send_to(0, id, Some("10.0.0.2:9"), b"x"), Ok(Done::Value(1)));
    world.call(0, id, SocketCall::Shutdown { how: 1 }).unwrap_err();
    world.connect(0, id, "10.0.0.2:9").unwrap();
    world.call(0, id, SocketCall::Shutdown { how: 1 }).unwrap();
    world.run(ms(50));
    let _ = world.error(0, id);
    assert_eq!(world.send_to(0, id, None, b"x"), Err(Errno::EPIPE));
}

#[test]
fn a_full_queue_drops_and_counts() {
    let mut world = World::alone();
    let id = world.udp(0);
    world.bind(0, id, "127.0.0.1:53").unwrap();
    world.set(0, id, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1).unwrap();
    for _ in 0..400 {
        world.send_to(0, id, Some("127.0.0.1:53"), &[0; 100]).unwrap();
    }
    let queued = world.engines[0].status(id).readable;
    assert!((200..300).contains(&queued), "{queued}: Linux has 278");
    let message = world.receive(0, id).unwrap();
    let drops = find(&message, libc::SOL_SOCKET, libc::SO_RXQ_OVFL).unwrap();
    assert_eq!(int(&drops) as usize, 400 - queued);
    assert_eq!(world.engines[0].counters().overflows as usize, 400 - queued);
}

#[test]
fn what_a_datagram_tells() {
    let mut world = World::pair(1, Trouble::default());
    let server = world.socket(1, libc::AF_INET6, libc::SOCK_DGRAM, 0);
    world.bind(1, server, "[::]:53").unwrap();
    for (level, name) in [
        (libc::IPPROTO_IP, libc::IP_PKTINFO),
        (libc::IPPROTO_IP, libc::IP_RECVTTL),
        (libc::IPPROTO_IP, libc::IP_RECVTOS),
        (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
        (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    ] {
        world.set(1, server, level, name, 1).unwrap();
    }
    let (now, day) = (world.now, Duration::from_secs(86_400));
    world.engines[1].set_realtime(now, day);
    let client = world.socket(0, libc::AF_INET6, libc::SOCK_DGRAM, 0);
    let control = [
        record(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &7i32.to_ne_bytes()),
        record(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0x28i32.to_ne_bytes()),
    ]
    .concat();
    let send = |to: &str, control: Vec<u8>| SocketCall::Send {
        to: Some(sockaddr(to)),
        control,
        data: vec![1],
        flags: 0,
    };
    world.call(0, client, send("[fd00::2]:53", control)).unwrap();
    world.run(ms(50));
    let message = world.receive(1, server).unwrap();
    let get = |level, kind| find(&message, level, kind).unwrap();
    assert_eq!(int(&get(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT)), 7);
    assert_eq!(int(&get(libc::IPPROTO_IPV6, libc::IPV6_TCLASS)), 0x28);
    let info = get(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
    assert_eq!((info[0], info[15], int(&info[16..])), (0xfd, 2, 2));
    let stamp = get(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
    assert_eq!(i64::from_ne_bytes(stamp[..8].try_into().unwrap()), 86_400);
    let client = world.udp(0);
    let control = record(libc::IPPROTO_IP, libc::IP_TTL, &9i32.to_ne_bytes());
    world.call(0, client, send("10.0.0.2:53", control)).unwrap();
    world.run(ms(50));
    let message = world.receive(1, server).unwrap();
    let get = |kind| find(&message, libc::IPPROTO_IP, kind).unwrap();
    assert_eq!(int(&get(libc::IP_TTL)), 9);
    assert_eq!(get(libc::IP_TOS), [0]);
    assert_eq!(get(libc::IP_PKTINFO)[8..], [10, 0, 0, 2]);
    assert_eq!(parsed(&get(libc::IP_RECVORIGDSTADDR)).to_string(), "10.0.0.2:53");
    let bad = record(libc::IPPROTO_IP, libc::IP_TTL, &900i32.to_ne_bytes());
    assert_eq!(world.call(0, client, send("10.0.0.2:53", bad)), Err(Errno::EINVAL));
}

#[test]
fn many_datagrams_in_one_send() {
    for coalesced in [0, 1] {
        let mut world = World::pair(1, Trouble::default());
        let server = world.udp(1);
        world.bind(1, server, "10.0.0.2:53").unwrap();
        world.set(1, server, libc::IPPROTO_UDP, 104, coalesced).unwrap();
        let client = world.udp(0);
        let send = |data: usize, size: u16| SocketCall::Send {
            to: Some(sockaddr("10.0.0.2:53")),
            control: record(libc::IPPROTO_UDP, 103, &size.to_ne_bytes()),
            data: vec![7; data],
            flags: 0,
        };
        world.call(0, client, send(5000, 1400)).unwrap();
        world.run(ms(50));
        let mut lengths = Vec::new();
        while let Ok(message) = world.receive(1, server) {
            let size = find(&message, libc::IPPROTO_UDP, 104);
            assert_eq!(size.is_some(), coalesced == 1 && message.length > 1400);
            lengths.push(message.length);
        }
        assert_eq!(lengths.iter().sum::<usize>(), 5000);
        if coalesced == 0 {
            assert_eq!(lengths, [1400, 1400, 1400, 800]);
        }
        assert_eq!(world.call(0, client, send(5000, 1473)), Err(Errno::EMSGSIZE));
        assert_eq!(world.call(0, client, send(60_000, 100)), Err(Errno::EINVAL));
    }
}

#[test]
fn a_corked_datagram_leaves_in_one_piece() {
    let mut world = World::alone();
    let id = world.udp(0);
    world.bind(0, id, "127.0.0.1:53").unwrap();
    let more = |flags| SocketCall::Send {
        to: Some(sockaddr("127.0.0.1:53")),
        control: vec![],
        data: b"ab".to_vec(),
        flags,
    };
    world.call(0, id, more(0x8000)).unwrap();
    assert_eq!(world.receive(0, id), Err(Errno::EAGAIN));
    world.call(0, id, more(0)).unwrap();
    assert_eq!(world.receive(0, id).unwrap().data, b"abab");
    world.set(0, id, libc::IPPROTO_UDP, 1, 1).unwrap();
    world.call(0, id, more(0)).unwrap();
    world.call(0, id, more(0)).unwrap();
    world.set(0, id, libc::IPPROTO_UDP, 1, 0).unwrap();
    assert_eq!(world.receive(0, id).unwrap().data, b"abab");
}

#[test]
fn groups_and_everybody() {
    let mut world = World::pair(1, Trouble::default());
    let listeners: Vec<_> = (0..3)
        .map(|_| {
            let id = world.udp(1);
            world.set(1, id, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).unwrap();
            world.bind(1, id, "0.0.0.0:5353").unwrap();
            world.set(1, id, libc::IPPROTO_IP, 49, 0).unwrap();
            id
        })
        .collect();
    let mreq = [&[224, 0, 0, 251][..], &[0; 4], &2i32.to_ne_bytes()].concat();
    let join = |name| SocketCall::SetOption { level: libc::IPPROTO_IP, name, value: mreq.clone() };
    world.call(1, listeners[0], join(libc::IP_ADD_MEMBERSHIP)).unwrap();
    world.call(1, listeners[1], join(libc::IP_ADD_MEMBERSHIP)).unwrap();
    assert_eq!(world.call(1, listeners[1], join(libc::IP_ADD_MEMBERSHIP)), Err(Errno::EADDRINUSE));
    assert_eq!(world.call(1, listeners[2], join(libc::IP_DROP_MEMBERSHIP)), Err(Errno::EADDRNOTAVAIL));
    let client = world.udp(0);
    let value = [10, 0, 0, 1].to_vec();
    world
        .call(
            0,
            client,
            SocketCall::SetOption { level: libc::IPPROTO_IP, name: libc::IP_MULTICAST_IF, value },
        )
        .unwrap();
    world.send_to(0, client, Some("224.0.0.251:5353"), b"who").unwrap();
    world.run(ms(50));
    let heard =
        |world: &World| listeners.iter().map(|id| world.engines[1].status(*id).readable).collect::<Vec<_>>();
    assert_eq!(heard(&world), [1, 1, 0]);
    world.set(0, client, libc::SOL_SOCKET, libc::SO_BROADCAST, 1).unwrap();
    world.send_to(0, client, Some("10.0.0.255:5353"), b"all").unwrap();
    world.run(ms(50));
    assert_eq!(heard(&world), [2, 2, 1]);
    world.call(1, listeners[0], join(libc::IP_DROP_MEMBERSHIP)).unwrap();
    world.close(1, listeners[1]);
    world.send_to(0, client, Some("224.0.0.251:5353"), b"who").unwrap();
    world.run(ms(50));
    assert_eq!(heard(&world), [2, 0, 1]);
    assert!(world.engines[1].groups.is_empty());
}

#[test]
fn sources_that_are_wanted() {
    let mut world = World::pair(1, Trouble::default());
    let id = world.udp(1);
    world.bind(1, id, "232.1.1.1:1234").unwrap();
    let source = |last: u8| [&[232, 1, 1, 1][..], &[10, 0, 0, 2], &[10, 0, 0, last]].concat();
    let set = |name, value| SocketCall::SetOption { level: libc::IPPROTO_IP, name, value };
    world.call(1, id, set(libc::IP_ADD_SOURCE_MEMBERSHIP, source(9))).unwrap();
    let client = world.udp(0);
    let mreqn = [&[0; 8][..], &2i32.to_ne_bytes()].concat();
    world.call(0, client, set(libc::IP_MULTICAST_IF, mreqn)).unwrap();
    let hears = |world: &mut World| {
        world.send_to(0, client, Some("232.1.1.1:1234"), b"x").unwrap();
        world.run(ms(50));
        world.receive(1, id).is_ok()
    };
    assert!(!hears(&mut world));
    world.call(1, id, set(libc::IP_ADD_SOURCE_MEMBERSHIP, source(1))).unwrap();
    assert!(hears(&mut world));
    assert_eq!(world.call(1, id, set(libc::IP_BLOCK_SOURCE, source(1))), Err(Errno::EINVAL));
    world.call(1, id, set(libc::IP_DROP_SOURCE_MEMBERSHIP, source(1))).unwrap();
    assert!(!hears(&mut world));
}

#[test]
fn ping_without_rights() {
    for (family, protocol, to, kind) in [
        (libc::AF_INET, libc::IPPROTO_ICMP, "10.0.0.2:0", 8u8),
        (libc::AF_INET6, libc::IPPROTO_ICMPV6, "[fd00::2]:0", 128),
        (libc::AF_INET, libc::IPPROTO_ICMP, "127.0.0.1:0", 8),
    ] {
        let mut world = World::pair(1, Trouble::default());
        let spec = SocketSpec { domain: family, kind: libc::SOCK_DGRAM, protocol };
        let id = world.engines[0].socket(world.now, spec, &GUEST).unwrap();
        let request = [kind, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4];
        assert_eq!(world.send_to(0, id, Some(to), &[13; 12]), Err(Errno::EINVAL));
        world.send_to(0, id, Some(to), &request).unwrap();
        world.run(ms(50));
        let message = world.receive(0, id).unwrap();
        let ident = world.name(0, id).port().to_be_bytes();
        assert_eq!(message.data[4..6], ident);
        assert_eq!(message.data[6..], [0, 1, 1, 2, 3, 4]);
        assert_eq!(parsed(&message.from).to_string(), to);
    }
}

#[test]
fn raw_sockets_see_everything_of_their_protocol() {
    let mut world = World::pair(1, Trouble::default());
    let spec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_RAW, protocol: libc::IPPROTO_ICMP };
    assert_eq!(world.engines[0].socket(world.now, spec, &GUEST), Err(Errno::EPERM));
    let raw = world.socket(1, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
    let ping = world.socket(0, libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP);
    let request = [8, 0, 0, 0, 0, 0, 0, 1];
    world.send_to(0, ping, Some("10.0.0.2:0"), &request).unwrap();
    world.run(ms(50));
    let message = world.receive(1, raw).unwrap();
    assert_eq!((message.data.len(), message.data[0], message.data[9], message.data[20]), (28, 0x45, 1, 8));
    // ICMP_FILTER: no echo requests.
    world.set(1, raw, libc::SOL_RAW, 1, 1 << 8).unwrap();
    world.send_to(0, ping, Some("10.0.0.2:0"), &request).unwrap();
    world.run(ms(50));
    assert_eq!(world.receive(1, raw), Err(Errno::EAGAIN));
    // A protocol of its own, and with its own header.
    let (a, b) = (
        world.socket(0, libc::AF_INET, libc::SOCK_RAW, 253),
        world.socket(1, libc::AF_INET, libc::SOCK_RAW, 253),
    );
    world.send_to(0, a, Some("10.0.0.2:0"), b"experiment").unwrap();
    world.run(ms(50));
    assert_eq!(world.receive(1, b).unwrap().data[20..], *b"experiment");
    world.set(0, a, libc::IPPROTO_IP, libc::IP_HDRINCL, 1).unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 33, 253, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
    packet.extend(b"by hand");
    world.send_to(0, a, Some("10.0.0.2:0"), &packet).unwrap();
    world.run(ms(50));
    let message = world.receive(1, b).unwrap();
    assert_eq!(
        (message.data[8], &message.data[12..16], &message.data[20..]),
        (33, &[10, 0, 0, 1][..], &b"by hand"[..])
    );
}

#[test]
fn raw_sockets_of_ipv6_sum_where_they_are_told() {
    let mut world = World::pair(1, Trouble::default());
    let (a, b) = (
        world.socket(0, libc::AF_INET6, libc::SOCK_RAW, 253),
        world.socket(1, libc::AF_INET6, libc::SOCK_RAW, 253),
    );
    world.set(0, a, libc::SOL_RAW, 7, 2).unwrap();
    assert_eq!(world.set(0, a, libc::SOL_RAW, 7, 3), Err(Errno::EINVAL));
    world.send_to(0, a, Some("[fd00::2]:0"), &[1, 2, 0, 0, 5, 6]).unwrap();
    world.run(ms(50));
    let message = world.receive(1, b).unwrap();
    assert_eq!(message.data.len(), 6, "no header");
    assert_ne!(message.data[2..4], [0, 0]);
}

#[test]
fn a_filter_on_a_socket() {
    let mut world = World::alone();
    let id = world.udp(0);
    world.bind(0, id, "127.0.0.1:53").unwrap();
    // ldb [8]; jeq 'y', 0, 1; ret -1; ret 0
    let program: [(u16, u8, u8, u32); 4] =
        [(0x30, 0, 0, 8), (0x15, 0, 1, u32::from(b'y')), (0x06, 0, 0, u32::MAX), (0x06, 0, 0, 0)];
    let value: Vec<u8> = program
        .iter()
        .flat_map(|(code, jt, jf, k)| [&code.to_ne_bytes()[..], &[*jt, *jf], &k.to_ne_bytes()].concat())
        .collect();
    let attach = SocketCall::SetOption { level: libc::SOL_SOCKET, name: libc::SO_ATTACH_FILTER, value };
    world.call(0, id, attach).unwrap();
    for word in ["yes", "no", "yet"] {
        world.send_to(0, id, Some("127.0.0.1:53"), word.as_bytes()).unwrap();
    }
    assert_eq!(world.engines[0].status(id).readable, 2);
    assert_eq!(world.engines[0].counters().filtered, 1);
    world.set(0, id, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1).unwrap();
    assert_eq!(world.set(0, id, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0), Err(Errno::EPERM));
}

#[test]
fn who_writes_to_a_program_that_has_just_gone_is_told() {
    for (family, at) in [(libc::AF_INET, "127.0.0.1:53"), (libc::AF_INET6, "[::1]:53")] {
        let mut world = World::alone();
        let server = world.socket(0, family, libc::SOCK_DGRAM, 0);
        world.bind(0, server, at).unwrap();
        let client = world.socket(0, family, libc::SOCK_DGRAM, 0);
        world.connect(0, client, at).unwrap();
        world.send_to(0, client, None, b"late").unwrap();
        assert_eq!(world.engines[0].status(client).error, None);
        world.engines[0].close_late(world.now, server);
        assert_eq!(world.error(0, client), Some(Errno::ECONNREFUSED), "{at}");
        // Read and closed in order, nobody is told anything.
        let server = world.socket(0, family, libc::SOCK_DGRAM, 0);
        world.bind(0, server, at).unwrap();
        world.send_to(0, client, None, b"x").unwrap();
        world.close(0, server);
        assert_eq!(world.error(0, client), None, "{at}");
    }
}

#[test]
fn an_error_in_the_queue_says_when_it_came() {
    let mut world = World::pair(1, Trouble::default());
    let client = world.udp(0);
    world.engines[0].set_realtime(world.now, Duration::from_secs(1_000_000));
    world.set(0, client, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1).unwrap();
    world.set(0, client, libc::IPPROTO_IP, libc::IP_RECVERR, 1).unwrap();
    world.send_to(0, client, Some("10.0.0.2:9"), b"x").unwrap();
    world.run(ms(50));
    let message = world.receive_with(0, client, libc::MSG_ERRQUEUE).unwrap();
    assert!(find(&message, libc::IPPROTO_IP, libc::IP_RECVERR).is_some());
    let stamp = find(&message, libc::SOL_SOCKET, libc::SO_TIMESTAMP).unwrap();
    assert_eq!(i64::from_ne_bytes(stamp[..8].try_into().unwrap()), 1_000_000);
}

//! bind(2): who may have which name, and which names the stack gives.

use std::collections::BTreeSet;

use super::*;

const NAMES: [&str; 7] =
    ["0.0.0.0", "127.0.0.1", "127.0.0.2", "[::]", "[::]only", "[::1]", "[::ffff:127.0.0.1]"];

/// What Linux 6.18 says: protocol and options, then for each pair of names whether the second can be bound
/// ("listen": and listen) while the first is (and listens).
const MATRIX: [(&str, &str, &str); 21] = [
    ("tcp", "none", "0000110001011001001110000000111000111100010010110"),
    ("tcp", "reuse", "1111111111111111111111111111111111111111111111111"),
    ("tcp", "port", "1111111111111111111111111111111111111111111111111"),
    ("tcp", "first", "0000110001011001001110000000111000111100010010110"),
    ("tcp", "second", "0000110001011001001110000000111000111100010010110"),
    ("tcp", "both", "1111111111111111111111111111111111111111111111111"),
    ("tcp", "mixed", "0000110001011001001110000000111000111100010010110"),
    ("listen", "none", "0000110001011001001110000000111000111100010010110"),
    ("listen", "reuse", "0000110001011001001110000000111000111100010010110"),
    ("listen", "port", "1111111111111111111111111111111111111111111111111"),
    ("listen", "first", "0000110001011001001110000000111000111100010010110"),
    ("listen", "second", "0000110001011001001110000000111000111100010010110"),
    ("listen", "both", "1111111111111111111111111111111111111111111111111"),
    ("listen", "mixed", "0000110001011001001110000000111000111100010010110"),
    ("udp", "none", "0000110001011001001110000000111000111100010010110"),
    ("udp", "reuse", "1111111111111111111111111111111111111111111111111"),
    ("udp", "port", "1111111111111111111111111111111111111111111111111"),
    ("udp", "first", "0000110001011001001110000000111000111100010010110"),
    ("udp", "second", "0000110001011001001110000000111000111100010010110"),
    ("udp", "both", "1111111111111111111111111111111111111111111111111"),
    ("udp", "mixed", "0000110001011001001110000000111000111100010010110"),
];

fn candidate(world: &mut World, kind: i32, name: &str, options: &[i32]) -> SocketId {
    let family = if name.starts_with('[') { libc::AF_INET6 } else { libc::AF_INET };
    let id = world.socket(0, family, kind, 0);
    if name.ends_with("only") {
        world.set(0, id, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).unwrap();
    }
    for option in options {
        world.set(0, id, libc::SOL_SOCKET, *option, 1).unwrap();
    }
    id
}

#[test]
fn conflicts_are_those_of_linux() {
    const ADDRESS: i32 = libc::SO_REUSEADDR;
    const PORT: i32 = libc::SO_REUSEPORT;
    let mut world = World::alone();
    for (protocol, options, expected) in MATRIX {
        let (first, second): (&[i32], &[i32]) = match options {
            "none" => (&[], &[]),
            "reuse" => (&[ADDRESS], &[ADDRESS]),
            "port" => (&[PORT], &[PORT]),
            "first" => (&[ADDRESS], &[]),
            "second" => (&[], &[ADDRESS]),
            "both" => (&[ADDRESS, PORT], &[ADDRESS, PORT]),
            _ => (&[ADDRESS], &[PORT]),
        };
        let kind = if protocol == "udp" { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
        let pairs = NAMES.iter().flat_map(|a| NAMES.iter().map(move |b| (a, b)));
        for ((a, b), expected) in pairs.zip(expected.chars()) {
            let one = candidate(&mut world, kind, a, first);
            let two = candidate(&mut world, kind, b, second);
            let name = |text: &str| format!("{}:4100", text.trim_end_matches("only"));
            world.bind(0, one, &name(a)).unwrap();
            let mut result = Ok(());
            if protocol == "listen" {
                world.listen(0, one, 1).unwrap();
            }
            result = result.and_then(|()| world.bind(0, two, &name(b)));
            if protocol == "listen" && result.is_ok() {
                result = world.listen(0, two, 1);
            }
            let expected = if expected == '1' { Ok(()) } else { Err(Errno::EADDRINUSE) };
            assert_eq!(result, expected, "{protocol} {options}: {a} then {b}");
            world.close(0, one);
            world.close(0, two);
        }
    }
}

#[test]
fn what_is_no_name() {
    let mut world = World::alone();
    let tcp = world.tcp(0);
    let bind = |world: &mut World, id, address: &[u8]| {
        world.call(0, id, SocketCall::Bind { address: address.to_vec() }).map(drop)
    };
    assert_eq!(bind(&mut world, tcp, &[2, 0]), Err(Errno::EINVAL));
    assert_eq!(bind(&mut world, tcp, &[10; 28]), Err(Errno::EAFNOSUPPORT));
    assert_eq!(bind(&mut world, tcp, &[0; 129]), Err(Errno::EINVAL));
    assert_eq!(world.bind(0, tcp, "192.0.2.1:80"), Err(Errno::EADDRNOTAVAIL));
    world.set(0, tcp, libc::IPPROTO_IP, libc::IP_FREEBIND, 1).unwrap();
    assert_eq!(world.bind(0, tcp, "192.0.2.1:80"), Ok(()));
    assert_eq!(world.bind(0, tcp, "127.0.0.1:81"), Err(Errno::EINVAL), "twice");
    let tcp = world.tcp(0);
    assert_eq!(bind(&mut world, tcp, &unspecified()), Ok(()), "an old habit");
    let v6 = world.socket(0, libc::AF_INET6, libc::SOCK_STREAM, 0);
    assert_eq!(world.bind(0, v6, "[fe80::1]:80"), Err(Errno::EINVAL));
    assert_eq!(world.bind(0, v6, "[ff02::1]:80"), Err(Errno::EINVAL));
    assert_eq!(world.bind(0, v6, "[2001:db8::1]:80"), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(bind(&mut world, v6, &sockaddr("127.0.0.1:80")), Err(Errno::EINVAL));
}

#[test]
fn low_ports_are_the_owners() {
    let mut world = World::alone();
    let id = world.tcp(0);
    let call = SocketCall::Bind { address: sockaddr("127.0.0.1:1023") };
    assert_eq!(world.engines[0].call(world.now, id, &GUEST, &call), Err(Errno::EACCES));
    let call = SocketCall::Bind { address: sockaddr("127.0.0.1:1024") };
    assert!(world.engines[0].call(world.now, id, &GUEST, &call).is_ok());
}

#[test]
fn another_user_does_not_share_a_port() {
    let mut world = World::alone();
    let mut bound = |caller: &Caller| {
        let spec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_DGRAM, protocol: 0 };
        let id = world.engines[0].socket(world.now, spec, caller).unwrap();
        world.set(0, id, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).unwrap();
        world.bind(0, id, "0.0.0.0:5000")
    };
    assert_eq!(bound(&OWNER), Ok(()));
    assert_eq!(bound(&GUEST), Err(Errno::EADDRINUSE));
    assert_eq!(bound(&OWNER), Ok(()));
}

#[test]
fn the_stack_gives_ports_nobody_has() {
    let mut world = World::alone();
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        let id = world.udp(0);
        world.bind(0, id, "127.0.0.1:0").unwrap();
        let port = world.name(0, id).port();
        assert!((32_768..=60_999).contains(&port) && seen.insert(port));
    }
    let range = i32::from_ne_bytes((40_000u32 | 40_001 << 16).to_ne_bytes());
    let mut few = || {
        let id = world.tcp(0);
        world.set(0, id, libc::IPPROTO_IP, 51, range).unwrap();
        world.bind(0, id, "127.0.0.1:0")
    };
    assert_eq!((few(), few(), few()), (Ok(()), Ok(()), Err(Errno::EADDRINUSE)));
}

#[test]
fn connections_share_ports_to_different_peers_only() {
    let mut world = World::alone();
    world.server(0, "127.0.0.1:80");
    world.server(0, "127.0.0.1:81");
    let range = i32::from_ne_bytes((40_000u32 | 40_000 << 16).to_ne_bytes());
    let mut connect = |name: &str| {
        let id = world.tcp(0);
        world.set(0, id, libc::IPPROTO_IP, 51, range).unwrap();
        world.connect(0, id, name)
    };
    assert_eq!(connect("127.0.0.1:80"), Err(Errno::EINPROGRESS));
    assert_eq!(connect("127.0.0.1:80"), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(connect("127.0.0.1:81"), Err(Errno::EINPROGRESS));
}

#[test]
fn a_port_in_time_wait_is_for_those_who_say_so() {
    let mut world = World::pair(1, Trouble::default());
    let (client, server) = world.connected(0, 1, "10.0.0.2:80");
    world.close(1, server);
    world.run(ms(50));
    world.close(0, client);
    world.run(ms(50));
    assert_eq!((world.engines[0].sockets(), world.engines[1].sockets()), (0, 1), "TIME-WAIT");
    let id = world.tcp(1);
    assert_eq!(world.bind(1, id, "0.0.0.0:80"), Err(Errno::EADDRINUSE));
    world.set(1, id, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).unwrap();
    assert_eq!(world.bind(1, id, "0.0.0.0:80"), Ok(()), "the server's connection had it too");
    world.run(Duration::from_secs(61));
    let id = world.tcp(1);
    world.close(1, id);
    assert_eq!(world.engines[1].sockets(), 1);
}

#[test]
fn a_late_port_comes_with_the_connection() {
    let mut world = World::alone();
    world.server(0, "127.0.0.1:80");
    let id = world.tcp(0);
    world.set(0, id, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1).unwrap();
    world.bind(0, id, "127.0.0.2:0").unwrap();
    assert_eq!(world.name(0, id).port(), 0);
    assert_eq!(world.connect(0, id, "127.0.0.1:80"), Err(Errno::EINPROGRESS));
    assert_eq!(world.name(0, id).ip().to_string(), "127.0.0.2");
    assert_ne!(world.name(0, id).port(), 0);
}

#[test]
fn listeners_that_share_a_port_share_the_connections() {
    let mut world = World::alone();
    let servers: Vec<_> = (0..4)
        .map(|_| {
            let id = world.tcp(0);
            world.set(0, id, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).unwrap();
            world.bind(0, id, "0.0.0.0:80").unwrap();
            world.listen(0, id, 1000).unwrap();
            id
        })
        .collect();
    for _ in 0..400 {
        let id = world.tcp(0);
        let _ = world.connect(0, id, "127.0.0.1:80");
    }
    world.run(ms(100));
    let shares: Vec<_> = servers.iter().map(|id| world.engines[0].status(*id).readable).collect();
    assert_eq!(shares.iter().sum::<usize>(), 400);
    assert!(shares.iter().all(|n| *n > 60), "{shares:?}");
}

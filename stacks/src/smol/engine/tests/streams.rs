//! TCP sockets.

use super::*;
use crate::kernel::orphans::Unfinished;

#[test]
fn a_connection_over_the_loopback() {
    let mut world = World::alone();
    let (client, server) = world.connected(0, 0, "127.0.0.1:8080");
    let status = world.engines[0].status(client);
    assert!(status.connected && !status.connecting && status.room > 0, "{status:?}");
    assert_eq!(world.connect(0, client, "127.0.0.1:8080"), Ok(()), "once");
    assert_eq!(world.connect(0, client, "127.0.0.1:8080"), Err(Errno::EISCONN));
    assert_eq!(world.peer(0, client).unwrap().to_string(), "127.0.0.1:8080");
    assert_eq!(world.peer(0, server).unwrap(), world.name(0, client));
    assert_eq!(world.write(0, client, b"hello"), 5);
    world.run(ms(10));
    assert_eq!(world.engines[0].status(server).readable, 5);
    assert_eq!(world.read(0, server), b"hello");
    world.close(0, client);
    world.run(ms(100));
    assert!(world.engines[0].status(server).receive_finished);
    world.close(0, server);
    world.run(Duration::from_secs(200));
    assert_eq!(world.engines[0].sockets(), 0, "nothing is left");
    assert_eq!(world.engines[0].poll_timeout(), None, "an idle engine has no deadline");
    assert_eq!(world.engines[0].streams.flows(), 0);
}

#[test]
fn a_connection_between_two_engines_over_both_ips() {
    for name in ["10.0.0.2:80", "[fd00::2]:80"] {
        let mut world = World::pair(1, Trouble::default());
        let (client, server) = world.connected(0, 1, name);
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        let (mut sent, mut got) = (0, Vec::new());
        for _ in 0..20_000 {
            sent += world.write(0, client, &data[sent..]);
            world.run(ms(1));
            got.extend(world.read(1, server));
            if got.len() == data.len() {
                break;
            }
        }
        assert!(got == data, "{name}: {} of {}", got.len(), data.len());
    }
}

#[test]
fn a_wire_that_loses_repeats_and_reorders() {
    for seed in 1..6 {
        let trouble = Trouble { loss: 20, duplication: 20, jitter: 3, corruption: 0 };
        let mut world = World::pair(seed, trouble);
        let server = world.server(1, "0.0.0.0:80");
        let client = world.tcp(0);
        let _ = world.connect(0, client, "10.0.0.2:80");
        world.run(Duration::from_secs(20));
        let server = world.accept(1, server).unwrap_or_else(|| panic!("seed {seed}: no connection"));
        let data: Vec<u8> = (0..300_000u32).map(|n| (n / 3) as u8).collect();
        let (mut sent, mut got) = (0, Vec::new());
        for _ in 0..40_000 {
            sent += world.write(0, client, &data[sent..]);
            world.run(ms(5));
            got.extend(world.read(1, server));
            if got.len() == data.len() {
                break;
            }
        }
        assert!(got == data, "seed {seed}: {} of {}", got.len(), data.len());
        world.close(0, client);
        world.run(Duration::from_secs(5));
        world.close(1, server);
        world.run(Duration::from_secs(400));
        assert_eq!((world.engines[0].sockets(), world.engines[1].sockets()), (0, 1), "seed {seed}");
    }
}

#[test]
fn nobody_listens() {
    let mut world = World::pair(1, Trouble::default());
    let client = world.tcp(0);
    assert_eq!(world.connect(0, client, "10.0.0.2:81"), Err(Errno::EINPROGRESS));
    assert_eq!(world.connect(0, client, "10.0.0.2:81"), Err(Errno::EALREADY));
    world.run(ms(100));
    let status = world.engines[0].status(client);
    assert_eq!((status.error, status.connecting), (Some(Errno::ECONNREFUSED), false));
    assert_eq!(world.error(0, client), Some(Errno::ECONNREFUSED));
    assert_eq!(world.error(0, client), None);
    // Linux: the error was taken, so the next connect only learns that it is over, the one after starts anew.
    assert_eq!(world.connect(0, client, "10.0.0.2:81"), Err(Errno::ECONNABORTED));
    assert_eq!(world.connect(0, client, "10.0.0.2:81"), Err(Errno::EINPROGRESS));
    world.run(ms(100));
    assert_eq!(world.connect(0, client, "10.0.0.2:81"), Err(Errno::ECONNREFUSED));
}

#[test]
fn nobody_is_there() {
    let mut world = World::pair(1, Trouble::default());
    let client = world.tcp(0);
    assert_eq!(world.connect(0, client, "10.0.0.77:81"), Err(Errno::EINPROGRESS));
    world.run(Duration::from_secs(5));
    assert_eq!(world.error(0, client), Some(Errno::EHOSTUNREACH));
    let client = world.tcp(0);
    assert_eq!(world.connect(0, client, "192.0.2.1:81"), Err(Errno::ENETUNREACH));
    assert_eq!(world.connect(0, client, "224.0.0.1:81"), Err(Errno::ENETUNREACH));
    assert_eq!(world.connect(0, client, "10.0.0.255:81"), Err(Errno::ENETUNREACH));
}

#[test]
fn the_accept_queue_takes_one_more_than_the_backlog() {
    let mut world = World::alone();
    let server = world.server(0, "127.0.0.1:80");
    world.listen(0, server, 2).unwrap();
    let clients: Vec<_> = (0..5).map(|_| world.tcp(0)).collect();
    for client in &clients {
        let _ = world.connect(0, *client, "127.0.0.1:80");
        world.run(ms(10));
    }
    assert_eq!(world.engines[0].status(server).readable, 3);
    assert!(world.engines[0].counters().listen_overflows > 0);
    let connected = |world: &World| clients.iter().filter(|c| world.engines[0].status(**c).connected).count();
    assert_eq!(connected(&world), 3);
    while world.accept(0, server).is_some() {}
    world.run(Duration::from_secs(10));
    assert_eq!(connected(&world), 5, "a SYN said again finds room");
    assert_eq!(world.engines[0].status(server).readable, 2);
}

#[test]
fn unread_data_and_linger_zero_make_a_reset() {
    for how in 0..3 {
        let mut world = World::alone();
        let (client, server) = world.connected(0, 0, "127.0.0.1:80");
        match how {
            0 => {
                world.write(0, client, b"never read");
                world.run(ms(10));
                world.close(0, server);
            }
            1 => {
                let value = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
                let set = SocketCall::SetOption { level: libc::SOL_SOCKET, name: libc::SO_LINGER, value };
                world.call(0, server, set).unwrap();
                world.close(0, server);
            }
            _ => world.engines[0].close(world.now, server, true),
        }
        world.run(ms(10));
        assert_eq!(world.error(0, client), Some(Errno::ECONNRESET), "{how}");
        assert_eq!(world.engines[0].sockets(), 1, "no TIME-WAIT after a reset");
    }
}

#[test]
fn data_for_an_orphan_reset_it() {
    let mut world = World::alone();
    let (client, server) = world.connected(0, 0, "127.0.0.1:80");
    world.close(0, server);
    world.run(ms(10));
    assert!(world.engines[0].status(client).receive_finished);
    world.write(0, client, b"nobody reads this");
    world.run(ms(10));
    assert_eq!(world.error(0, client), Some(Errno::EPIPE));
    assert_eq!(world.engines[0].sockets(), 1);
}

#[test]
fn an_orphan_does_not_wait_for_ever() {
    let mut world = World::alone();
    let (client, server) = world.connected(0, 0, "127.0.0.1:80");
    assert_eq!(world.engines[0].unfinished(), Unfinished::Nothing);
    world.close(0, server);
    assert_eq!(world.engines[0].unfinished(), Unfinished::Sending);
    world.run(Duration::from_secs(59));
    assert_eq!(world.engines[0].sockets(), 2);
    assert_eq!(world.engines[0].unfinished(), Unfinished::Waiting);
    world.run(Duration::from_secs(3));
    assert_eq!(world.engines[0].sockets(), 1, "FIN-WAIT-2 ended");
    assert!(world.engines[0].status(client).connected);
}

#[test]
fn half_close_both_ways() {
    let mut world = World::alone();
    let (client, server) = world.connected(0, 0, "127.0.0.1:80");
    world.call(0, client, SocketCall::Shutdown { how: libc::SHUT_WR }).unwrap();
    assert_eq!(world.write(0, client, b"x"), 0);
    world.run(ms(10));
    assert!(world.engines[0].status(server).receive_finished);
    assert_eq!(world.write(0, server, b"still"), 5);
    world.run(ms(10));
    assert_eq!(world.read(0, client), b"still");
    let fresh = world.tcp(0);
    assert_eq!(world.call(0, fresh, SocketCall::Shutdown { how: 1 }), Err(Errno::ENOTCONN));
    assert_eq!(world.call(0, fresh, SocketCall::Shutdown { how: 3 }), Err(Errno::EINVAL));
}

#[test]
fn closing_a_listener_resets_what_nobody_accepted() {
    let mut world = World::alone();
    let server = world.server(0, "127.0.0.1:80");
    let client = world.tcp(0);
    let _ = world.connect(0, client, "127.0.0.1:80");
    world.run(ms(10));
    world.close(0, server);
    world.run(ms(10));
    assert_eq!(world.error(0, client), Some(Errno::ECONNRESET));
    assert_eq!(world.engines[0].sockets(), 1);
}

#[test]
fn a_listener_is_asked_for_before_it_answers() {
    let mut world = World::alone();
    let server = world.server(0, "127.0.0.1:80");
    world.engines[0].ask_listeners();
    let (admitted, refused) = (world.tcp(0), world.tcp(0));
    let _ = world.connect(0, admitted, "127.0.0.1:80");
    world.run(ms(10));
    assert!(world.engines[0].status(admitted).connecting);
    let (listener, child) = world.engines[0].poll_knock().unwrap();
    assert_eq!(listener, server);
    world.engines[0].admit(child);
    world.run(ms(10));
    assert!(world.engines[0].status(admitted).connected);
    let _ = world.connect(0, refused, "127.0.0.1:80");
    world.run(ms(10));
    let (listener, child) = world.engines[0].poll_knock().unwrap();
    let now = world.now;
    world.engines[0].turn_away(now, listener, child);
    world.close(0, server);
    world.run(ms(10));
    assert_eq!(world.error(0, refused), Some(Errno::ECONNREFUSED));
    assert_eq!(world.engines[0].poll_knock(), None);
}

#[test]
fn few_bytes_are_not_shown_below_the_low_mark() {
    let mut world = World::alone();
    let (client, server) = world.connected(0, 0, "127.0.0.1:80");
    let low = SocketCall::SetOption {
        level: libc::SOL_SOCKET,
        name: libc::SO_RCVLOWAT,
        value: 5_i32.to_ne_bytes().to_vec(),
    };
    world.call(0, server, low).unwrap();
    let write = |world: &mut World, bytes: &'static [u8]| {
        let now = world.now;
        let mut rest = bytes;
        world.engines[0].send_with(now, client, &mut |room| {
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            count
        });
        world.run(ms(10));
    };
    write(&mut world, b"abc");
    assert_eq!(world.engines[0].status(server).readable, 0);
    write(&mut world, b"de");
    assert_eq!(world.engines[0].status(server).readable, 5);
}

#[test]
fn dissolving_a_connection_and_connecting_again() {
    let mut world = World::alone();
    let (client, server) = world.connected(0, 0, "127.0.0.1:80");
    let again = world.server(0, "127.0.0.1:81");
    world.call(0, client, SocketCall::Connect { address: unspecified() }).unwrap();
    world.run(ms(10));
    assert_eq!(world.error(0, server), Some(Errno::ECONNRESET));
    assert_eq!(world.connect(0, client, "127.0.0.1:81"), Err(Errno::EINPROGRESS));
    world.run(ms(10));
    assert!(world.accept(0, again).is_some());
}

#[test]
fn a_socket_of_ipv6_takes_ipv4_unless_it_does_not_want_to() {
    let mut world = World::alone();
    let server = world.server(0, "[::]:80");
    let client = world.tcp(0);
    let _ = world.connect(0, client, "127.0.0.1:80");
    world.run(ms(10));
    let accepted = world.accept(0, server).expect("of IPv4");
    assert_eq!(world.name(0, accepted).to_string(), "127.0.0.1:80");
    let Ok(Done::Address(bytes)) = world.call(0, accepted, SocketCall::PeerName) else { panic!() };
    assert_eq!(bytes.len(), 28, "in the form of IPv6");
    let only = world.socket(0, libc::AF_INET6, libc::SOCK_STREAM, 0);
    world.set(0, only, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).unwrap();
    world.bind(0, only, "[::]:81").unwrap();
    world.listen(0, only, 1).unwrap();
    let client = world.tcp(0);
    let _ = world.connect(0, client, "127.0.0.1:81");
    world.run(ms(10));
    assert_eq!(world.error(0, client), Some(Errno::ECONNREFUSED));
}

#[test]
fn deferred_connections_wait_for_data() {
    let mut world = World::alone();
    let server = world.server(0, "127.0.0.1:80");
    world.set(0, server, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5).unwrap();
    assert_eq!(world.get(0, server, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT), Ok(7));
    let client = world.tcp(0);
    let _ = world.connect(0, client, "127.0.0.1:80");
    world.run(Duration::from_secs(1));
    assert_eq!(world.engines[0].status(server).readable, 0);
    world.write(0, client, b"now");
    world.run(ms(10));
    assert_eq!(world.engines[0].status(server).readable, 1);
    let other = world.tcp(0);
    let _ = world.connect(0, other, "127.0.0.1:80");
    world.run(Duration::from_secs(8));
    assert_eq!(world.engines[0].status(server).readable, 2, "not for ever");
}

#[test]
fn busy_streams_take_turns() {
    let mut world = World::pair(1, Trouble::default());
    let server = world.server(1, "0.0.0.0:80");
    let clients: Vec<_> = (0..20).map(|_| world.tcp(0)).collect();
    for client in &clients {
        let _ = world.connect(0, *client, "10.0.0.2:80");
    }
    world.run(ms(200));
    let mut servers = Vec::new();
    while let Some(id) = world.accept(1, server) {
        servers.push(id);
    }
    assert_eq!(servers.len(), 20);
    let chunk = vec![7; 100_000];
    let mut got = [0usize; 20];
    for _ in 0..200 {
        for client in &clients {
            world.write(0, *client, &chunk);
        }
        world.run(ms(1));
        for (n, id) in servers.iter().enumerate() {
            got[n] += world.read(1, *id).len();
        }
    }
    let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(*least * 2 > *most, "{got:?}");
}

#[test]
fn ten_thousand_connections() {
    let mut world = World::alone();
    let server = world.server(0, "127.0.0.1:80");
    world.listen(0, server, 4096).unwrap();
    let mut ends = Vec::new();
    for _ in 0..20 {
        let clients: Vec<_> = (0..500).map(|_| world.tcp(0)).collect();
        for client in &clients {
            assert_eq!(world.connect(0, *client, "127.0.0.1:80"), Err(Errno::EINPROGRESS));
            while world.collect() {}
        }
        for client in clients {
            ends.push((client, world.accept(0, server).expect("each is accepted")));
        }
    }
    for (client, server) in ends.iter().step_by(97) {
        world.write(0, *client, b"ping");
        while world.collect() {}
        assert_eq!(world.read(0, *server), b"ping");
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.engines[0].poll_timeout(), None, "idle connections have no deadline");
    for (client, server) in ends {
        world.close(0, client);
        world.close(0, server);
        while world.collect() {}
    }
    world.close(0, server);
    world.run(Duration::from_secs(200));
    assert_eq!(world.engines[0].sockets(), 0);
}

/// An ICMP error from a router about a frame of the first engine.
fn icmp_error(frame: &[u8], kind: u8, code: u8, mtu: u16) -> Vec<u8> {
    use crate::smol::sockets::icmp::checksum;
    let mut icmp = vec![kind, code, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(&frame[14..14 + 28]);
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let mut header =
        vec![0x45, 0, 0, (20 + icmp.len()) as u8, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 254, 10, 0, 0, 1];
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 99, 8, 0][..], &header, &icmp].concat()
}

#[test]
fn errors_end_handshakes_and_not_connections() {
    for established in [false, true] {
        let mut world = World::pair(1, Trouble::default());
        let (first, _) = world.connected(0, 1, "10.0.0.2:80");
        let id = if established { first } else { world.tcp(0) };
        if established {
            world.write(0, id, b"x");
        } else {
            let _ = world.connect(0, id, "10.0.0.2:81");
        }
        world.collect();
        let (_, (_, _, frame)) = world.wire.pop_last().expect("a segment");
        let mut forged = frame.clone();
        forged[38] ^= 0x40;
        let forged = icmp_error(&forged, 3, 13, 0);
        world.engines[0].handle_frame(world.now, ETH0, &VnetHdr::default(), &forged);
        assert_eq!(world.engines[0].counters().forged_errors, 1);
        assert_eq!(world.engines[0].status(id).error, None);
        let error = icmp_error(&frame, 3, 13, 0);
        world.engines[0].handle_frame(world.now, ETH0, &VnetHdr::default(), &error);
        let status = world.engines[0].status(id);
        assert_eq!(status.error, (!established).then_some(Errno::EHOSTUNREACH));
        assert_eq!(status.connected, established);
        assert_eq!(world.error(0, id), Some(Errno::EHOSTUNREACH), "softly, if it goes on");
    }
}

#[test]
fn a_narrow_way_makes_segments_shorter() {
    let mut world = World::pair(1, Trouble::default());
    let (client, server) = world.connected(0, 1, "10.0.0.2:80");
    world.write(0, client, &[7; 1400]);
    world.collect();
    let (_, (_, _, frame)) = world.wire.pop_last().expect("a segment");
    let error = icmp_error(&frame, 3, 4, 600);
    world.engines[0].handle_frame(world.now, ETH0, &VnetHdr::default(), &error);
    assert_eq!(world.get(0, client, libc::IPPROTO_IP, libc::IP_MTU), Ok(600));
    world.run(Duration::from_secs(3));
    assert_eq!(world.read(1, server).len(), 1400);
    let mss = world.get(0, client, libc::IPPROTO_TCP, libc::TCP_MAXSEG).unwrap();
    assert!(mss <= 560, "{mss}");
}

#[test]
fn a_listener_that_was_shut_listens_again() {
    let mut world = World::alone();
    for (name, again) in [("127.0.0.1:0", Ok(())), ("127.0.0.1:80", Err(Errno::EADDRINUSE))] {
        let server = world.tcp(0);
        world.bind(0, server, name).unwrap();
        world.listen(0, server, 1).unwrap();
        let client = world.tcp(0);
        let name = world.name(0, server).to_string();
        let _ = world.connect(0, client, &name);
        world.run(ms(10));
        world.accept(0, server).unwrap();
        world.call(0, server, SocketCall::Shutdown { how: libc::SHUT_RD }).unwrap();
        assert!(!world.engines[0].status(server).listening);
        assert_eq!(world.listen(0, server, 1), again, "a port of its own choice is not given back");
    }
}

//! ICMP: errors told, not told, and heard.

use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use switch::offload::VnetHdr;
use switch::offload::checksum::{fold, sum};

use super::ip::{fix, ipv4};
use super::ndp::icmpv6;
use super::world::*;
use crate::smol::net::{Datagram, Packet, Rejection, Wish};

/// An ICMP message from the second stack to the first.
fn icmp(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let value = !fold(sum(&message));
    message[2..4].copy_from_slice(&value.to_be_bytes());
    ipv4(mac(1), [10, 0, 0, 2], [10, 0, 0, 1], 1, &message)
}

/// A packet of the first stack as an error would quote it.
fn quoted(v6: bool) -> Vec<u8> {
    let mut world = World::pair();
    let to = if v6 { "fd00::2" } else { "10.0.0.2" };
    assert_eq!(ping(&mut world, 0, to, 1), 1);
    world.log.clear();
    world.send(0, &datagram(to, 17), &udp(b"hello")).unwrap();
    world.drain();
    world.log[0].frame[14..].to_vec()
}

#[test]
fn a_sender_hears_that_nobody_has_the_port() {
    for (to, kind, unknown, errno) in [
        ("10.0.0.2", (3, 3), (3, 2), Errno::ENOPROTOOPT),
        ("fd00::2", (1, 4), (4, 1), Errno::EPROTO),
        ("127.0.0.1", (3, 3), (3, 2), Errno::ENOPROTOOPT),
        ("::1", (1, 4), (4, 1), Errno::EPROTO),
    ] {
        let mut world = World::pair();
        let at = usize::from(to.ends_with('2'));
        for why in [Rejection::PortUnreachable, Rejection::ProtocolUnreachable] {
            world.send(0, &Datagram { tos: 8, ..datagram(to, 17) }, &udp(b"hello")).unwrap();
            world.run(Duration::from_millis(10));
            let packet = world.take(at).pop().unwrap();
            let now = world.now;
            world.nets[at].reject(now, &packet, why);
            world.run(Duration::from_millis(10));
            let (error, rest) = world.inboxes[0].errors.pop().unwrap();
            let expected = match why {
                Rejection::PortUnreachable => (Errno::ECONNREFUSED, true, kind),
                Rejection::ProtocolUnreachable => (errno, true, unknown),
            };
            assert_eq!((error.errno, error.fatal, error.icmp), expected, "{to}");
            assert_eq!((error.destination, error.offender), (packet.destination, packet.destination));
            assert_eq!(error.protocol, 17);
            assert_eq!(error.info, if error.icmp == (4, 1) { 6 } else { 0 }, "where the protocol is named");
            assert_eq!(rest, *packet.payload);
        }
    }
}

#[test]
fn nobody_is_told_where_the_rules_forbid() {
    let mut world = World::pair();
    world.send(0, &datagram("10.0.0.2", 17), &udp(b"hello")).unwrap();
    world.send(0, &datagram("fd00::2", 17), &udp(b"hello")).unwrap();
    world.run(Duration::from_millis(10));
    let packets = world.take(1);
    world.log.clear();
    for packet in &packets {
        let v4 = packet.source.is_ipv4();
        let address =
            |v4_text: &str, v6_text: &str| -> IpAddr { if v4 { v4_text } else { v6_text }.parse().unwrap() };
        let error = if v4 { [3, 3, 0, 0, 0, 0, 0, 0] } else { [1, 4, 0, 0, 0, 0, 0, 0] };
        let mut fragment = packet.header.to_vec();
        fragment[7] = 9;
        let mut forbidden: Vec<Packet<'_>> = vec![
            Packet { group_frame: true, ..packet.clone() },
            Packet { destination: address("224.0.0.1", "ff02::1"), ..packet.clone() },
            Packet { source: address("224.0.0.1", "ff02::1"), ..packet.clone() },
            Packet { source: address("0.0.0.0", "::"), ..packet.clone() },
            Packet { protocol: if v4 { 1 } else { 58 }, payload: error.to_vec().into(), ..packet.clone() },
        ];
        if v4 {
            forbidden.push(Packet { source: address("255.255.255.255", ""), ..packet.clone() });
            forbidden.push(Packet { source: address("10.0.0.255", ""), ..packet.clone() });
            forbidden.push(Packet { destination: address("10.0.0.255", ""), ..packet.clone() });
            forbidden.push(Packet { header: fragment.into(), ..packet.clone() });
        }
        for (number, forbidden) in forbidden.iter().enumerate() {
            let now = world.now;
            world.nets[1].reject(now, forbidden, Rejection::PortUnreachable);
            world.drain();
            assert!(world.log.is_empty(), "{number}, IPv4: {v4}");
        }
        let now = world.now;
        world.nets[1].reject(now, packet, Rejection::PortUnreachable);
        world.drain();
        assert_eq!(world.log.len(), 1);
        world.log.clear();
    }
}

#[test]
fn errors_quote_as_much_as_the_rules_allow_and_are_rationed() {
    for (to, longest) in [("10.0.0.2", 576), ("fd00::2", 1280)] {
        let mut world = World::pair();
        for _ in 0..30 {
            world.send(0, &datagram(to, 17), &udp(&[1; 1400])).unwrap();
        }
        world.run(Duration::from_millis(10));
        world.log.clear();
        for packet in world.take(1) {
            let now = world.now;
            world.nets[1].reject(now, &packet, Rejection::PortUnreachable);
        }
        world.drain();
        let errors: Vec<_> = world.log.iter().filter(|sent| sent.frame.len() > 200).collect();
        assert_eq!(errors.len(), 6);
        assert!(errors.iter().all(|sent| sent.frame.len() == longest + 14), "{}", errors[0].frame.len());
    }
}

#[test]
fn every_error_means_what_it_means_to_linux() {
    let hear = |v6: bool, kind: u8, code: u8, value: u32| {
        let mut world = World::pair();
        let mut message = vec![kind, code, 0, 0];
        message.extend(value.to_be_bytes());
        message.extend(quoted(v6));
        let frame = if v6 { icmpv6(mac(2), "fd00::2", "fd00::1", 64, &message) } else { icmp(&message) };
        world.deliver(0, &VnetHdr::default(), &frame);
        world.inboxes[0].errors.pop().map(|(error, rest)| {
            assert_eq!(rest[8..], *b"hello");
            (error.errno, error.fatal, error.info)
        })
    };
    use Errno::*;
    let v4 = [
        (ENETUNREACH, false),
        (EHOSTUNREACH, false),
        (ENOPROTOOPT, true),
        (ECONNREFUSED, true),
        (EMSGSIZE, false),
        (EOPNOTSUPP, false),
        (ENETUNREACH, true),
        (EHOSTDOWN, true),
        (ENONET, true),
        (ENETUNREACH, true),
        (EHOSTUNREACH, true),
        (ENETUNREACH, false),
        (EHOSTUNREACH, false),
        (EHOSTUNREACH, true),
        (EHOSTUNREACH, true),
        (EHOSTUNREACH, true),
    ];
    for (code, (errno, fatal)) in v4.into_iter().enumerate() {
        let info = if code == 4 { 1234 } else { 0 };
        assert_eq!(hear(false, 3, code as u8, 1234), Some((errno, fatal, info)), "{code}");
    }
    assert_eq!(hear(false, 3, 16, 0), None);
    assert_eq!(hear(false, 4, 0, 0), None, "source quench");
    assert_eq!(hear(false, 11, 0, 0), Some((EHOSTUNREACH, false, 0)));
    assert_eq!(hear(false, 11, 1, 0), None);
    assert_eq!(hear(false, 12, 0, 7 << 24), Some((EPROTO, true, 7)));
    let v6 = [ENETUNREACH, EACCES, EHOSTUNREACH, EHOSTUNREACH, ECONNREFUSED, EACCES, EACCES, EPROTO];
    for (code, errno) in v6.into_iter().enumerate() {
        let fatal = !matches!(errno, ENETUNREACH | EHOSTUNREACH);
        assert_eq!(hear(true, 1, code as u8, 0), Some((errno, fatal, 0)), "{code}");
    }
    assert_eq!(hear(true, 2, 0, 1300), Some((EMSGSIZE, false, 1300)));
    assert_eq!(hear(true, 3, 0, 0), Some((EHOSTUNREACH, false, 0)));
    assert_eq!(hear(true, 4, 1, 40), Some((EPROTO, true, 40)));
}

#[test]
fn an_error_about_anothers_packet_is_none() {
    let mut world = World::pair();
    let strange = ipv4(mac(1), [10, 0, 0, 77], [10, 0, 0, 2], 17, &udp(b"hello"));
    let message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &strange[14..]].concat();
    world.deliver(0, &VnetHdr::default(), &icmp(&message));
    assert!(world.inboxes[0].errors.is_empty());
    assert_eq!(world.take(0).len(), 1, "raw sockets may look at it");
    for cut in [8, 20, 35] {
        let message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted(false)[..cut - 8]].concat();
        world.deliver(0, &VnetHdr::default(), &icmp(&message));
        assert!(world.inboxes[0].errors.is_empty(), "{cut}");
    }
}

#[test]
fn a_path_mtu_is_learned_here_only_for_echo_replies() {
    let mut world = World::pair();
    let mtu = |world: &World| world.nets[0].route("10.0.0.2".parse().unwrap(), &Wish::default()).unwrap().mtu;
    let mut message = [&[3, 4, 0, 0, 0, 0, 4, 0][..], &quoted(false)].concat();
    world.deliver(0, &VnetHdr::default(), &icmp(&message));
    assert_eq!(mtu(&world), 1500, "the socket has to say whether the packet was its own");
    message.truncate(8);
    message.extend(&ipv4(mac(1), [10, 0, 0, 1], [10, 0, 0, 2], 1, &[0; 16])[14..]);
    world.deliver(0, &VnetHdr::default(), &icmp(&message));
    assert_eq!(mtu(&world), 1024);
}

#[test]
fn everybody_is_not_answered_for() {
    let mut world = World::pair();
    let mut ask = icmp(&echo(false, 8));
    ask[..6].fill(0xFF);
    ask[30..34].copy_from_slice(&[10, 0, 0, 255]);
    fix(&mut ask);
    world.deliver(0, &VnetHdr::default(), &ask);
    assert_eq!(world.take(0).len(), 1);
    assert!(world.log.is_empty());
    // IPv6 answers to a group from an address of its own.
    let ask = icmpv6(mac(2), "fe80::2", "ff02::1", 64, &echo(true, 8));
    world.deliver(0, &VnetHdr::default(), &ask);
    world.run(Duration::from_millis(10));
    let answer = world.take(1).pop().unwrap();
    assert_eq!((answer.payload[0], answer.source), (129, "fe80::1".parse().unwrap()));
}

#[test]
fn the_time_is_not_known_but_the_question_is_answered() {
    let mut world = World::pair();
    let ask = [13, 0, 0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0];
    world.deliver(0, &VnetHdr::default(), &icmp(&ask));
    world.run(Duration::from_millis(10));
    let answer = world.take(1).pop().unwrap();
    assert_eq!(answer.payload[0], 14);
    assert_eq!(answer.payload[4..12], ask[4..12]);
}

/// An IPv6 packet with these extension headers.
fn extended(to: &str, first: u8, headers: &[u8]) -> Vec<u8> {
    let mut frame = icmpv6(mac(2), "fd00::2", to, 64, &[0; 4]);
    frame.truncate(54);
    frame.extend(headers);
    frame.extend(b"hello");
    frame[20] = first;
    let len = ((frame.len() - 54) as u16).to_be_bytes();
    frame[18..20].copy_from_slice(&len);
    frame
}

#[test]
fn extension_headers_are_judged() {
    let told = |to: &str, first: u8, headers: &[u8]| {
        let mut world = World::pair();
        assert_eq!(ping(&mut world, 0, "fd00::2", 8), 1);
        world.take(1);
        world.deliver(0, &VnetHdr::default(), &extended(to, first, headers));
        let taken = world.take(0).pop().map(|packet| packet.protocol);
        world.run(Duration::from_millis(10));
        let seen = world.take(1);
        (taken, seen.last().map(|packet| (packet.payload[0], packet.payload[1], packet.payload[7])))
    };
    let one = "fd00::1";
    let option = |kind: u8| [99, 0, kind, 4, 0, 0, 0, 0];
    assert_eq!(told(one, 99, &[]), (Some(99), None));
    assert_eq!(told(one, 0, &option(1)), (Some(99), None));
    assert_eq!(told(one, 60, &option(5)), (Some(99), None));
    assert_eq!(told(one, 60, &option(0x1E)), (Some(99), None), "may be passed over");
    assert_eq!(told(one, 60, &option(0x5E)), (None, None), "silently dropped");
    assert_eq!(told(one, 60, &option(0x9E)), (None, Some((4, 2, 42))));
    assert_eq!(told(one, 60, &option(0xDE)), (None, Some((4, 2, 42))));
    assert_eq!(told("ff02::1", 60, &option(0x9E)), (None, Some((4, 2, 42))), "even for a group");
    assert_eq!(told("ff02::1", 60, &option(0xDE)), (None, None));
    assert_eq!(told(one, 43, &[99, 0, 0, 0, 0, 0, 0, 0]), (Some(99), None), "nowhere left to go");
    assert_eq!(told(one, 43, &[99, 0, 0, 1, 0, 0, 0, 0]), (None, Some((4, 0, 42))));
    let late = [0, 0, 1, 4, 0, 0, 0, 0, 99, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(told(one, 60, &late), (None, Some((4, 1, 40))), "hop-by-hop comes first or not at all");
    assert_eq!(told(one, 59, &[]), (None, None));
    let chain: Vec<u8> = (0..12).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
    assert_eq!(told(one, 60, &chain), (None, None), "too many");
    assert_eq!(told(one, 60, &[99, 9, 1, 4, 0, 0, 0, 0]), (None, None), "cut off");
    let many = [99, 2, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0, 1, 0];
    assert_eq!(told(one, 60, &many), (None, None), "too many options");
}

#[test]
fn redirects_are_believed_from_the_router_in_use() {
    let mut world = World::pair();
    add_gateway(&mut world.nets[0], "0.0.0.0/0", "10.0.0.2");
    world.drain();
    let far: IpAddr = "8.8.8.8".parse().unwrap();
    let next = |world: &World| world.nets[0].route(far, &Wish::default()).unwrap().next_hop;
    let about = ipv4(mac(1), [10, 0, 0, 1], [8, 8, 8, 8], 17, &udp(b"hello"))[14..].to_vec();
    let redirect = |gateway: [u8; 4]| icmp(&[&[5, 1, 0, 0][..], &gateway, &about].concat());
    world.deliver(0, &VnetHdr::default(), &redirect([10, 9, 9, 9]));
    assert_eq!(next(&world), "10.0.0.2".parse::<IpAddr>().unwrap(), "that is no neighbour");
    let mut other = redirect([10, 0, 0, 3]);
    other[29] = 77;
    fix(&mut other);
    world.deliver(0, &VnetHdr::default(), &other);
    assert_eq!(next(&world), "10.0.0.2".parse::<IpAddr>().unwrap(), "not the router in use");
    world.deliver(0, &VnetHdr::default(), &redirect([10, 0, 0, 3]));
    assert_eq!(next(&world), "10.0.0.3".parse::<IpAddr>().unwrap());
    world.run(Duration::from_secs(601));
    assert_eq!(next(&world), "10.0.0.2".parse::<IpAddr>().unwrap());
}

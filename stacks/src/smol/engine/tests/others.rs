//! Packet and netlink sockets, options, ioctls, lists.

use super::*;
use crate::smol::sockets::cmsg::records;
use crate::smol::tables::NewLink;

const ETH_P_ALL: i32 = (libc::ETH_P_ALL as u16).to_be() as i32;

fn link_address(link: i32, protocol: u16) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&protocol.to_be_bytes());
    bytes[4..8].copy_from_slice(&link.to_ne_bytes());
    bytes
}

#[test]
fn packet_sockets_see_frames_both_ways() {
    let mut world = World::pair(1, Trouble::default());
    let spec = SocketSpec { domain: libc::AF_PACKET, kind: libc::SOCK_RAW, protocol: ETH_P_ALL };
    assert_eq!(world.engines[0].socket(world.now, spec, &GUEST), Err(Errno::EPERM));
    let tap = world.socket(0, libc::AF_PACKET, libc::SOCK_RAW, ETH_P_ALL);
    world.set(0, tap, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1).unwrap();
    let udp = world.udp(0);
    world.send_to(0, udp, Some("10.0.0.2:9"), b"hello").unwrap();
    world.run(ms(50));
    let mut kinds = Vec::new();
    while let Ok(message) = world.receive(0, tap) {
        assert_eq!((message.from.len(), message.from[0]), (20, 17));
        let protocol = u16::from_be_bytes([message.from[2], message.from[3]]);
        assert_eq!(protocol.to_be_bytes(), message.data[12..14]);
        kinds.push((protocol, message.from[10]));
        let record = records(&message.control).next().unwrap().unwrap();
        assert_eq!((record.level, record.kind, record.data.len()), (libc::SOL_PACKET, 8, 20));
    }
    // ARP asked and answered (outgoing 4, for us 0), the datagram, its ICMP error.
    assert_eq!(kinds, [(0x806, 4), (0x806, 0), (0x800, 4), (0x800, 0)]);
    let statistics = SocketCall::GetOption { level: libc::SOL_PACKET, name: 6, value: vec![0; 8] };
    let Ok(Done::Bytes(bytes)) = world.call(0, tap, statistics) else { panic!() };
    assert_eq!(bytes, [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(world.set(0, tap, libc::SOL_PACKET, libc::PACKET_RX_RING, 0), Err(Errno::EINVAL));
    world.close(0, tap);
    assert!(world.engines[0].taps.is_empty());
}

#[test]
fn what_enters_one_end_of_a_pair_leaves_the_other() {
    let mut world = World::pair(1, Trouble::default());
    let end = |name| NewLink { index: 0, name, mac: None };
    let tables = &mut world.engines[0].net.tables;
    let one = tables.add_veth(&end("vp0"), &end("vp1")).unwrap();
    let other = tables.link_by_name("vp1").unwrap().index;
    let dummy = tables.add_dummy(&end("dm0")).unwrap();
    for link in [one, other, dummy] {
        tables.set_up(link, true).unwrap();
    }
    let protocol = i32::from(0x88b5u16.to_be());
    let hear = world.socket(0, libc::AF_PACKET, libc::SOCK_RAW, protocol);
    let watch = world.socket(0, libc::AF_PACKET, libc::SOCK_RAW, ETH_P_ALL);
    world.call(0, hear, SocketCall::Bind { address: link_address(other.0 as i32, 0) }).unwrap();
    world.call(0, watch, SocketCall::Bind { address: link_address(dummy.0 as i32, 0) }).unwrap();
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], b"experiment"].concat();
    for link in [one, dummy] {
        let to = Some(link_address(link.0 as i32, 0));
        let send = SocketCall::Send { to, control: vec![], data: frame.clone(), flags: 0 };
        world.call(0, hear, send).unwrap();
    }
    world.run(ms(50));
    let message = world.receive(0, hear).unwrap();
    assert_eq!((&message.data, message.from[10]), (&frame, 1));
    assert!(world.receive(0, hear).is_err());
    let experiments = std::iter::from_fn(|| world.receive(0, watch).ok()).filter(|m| m.data == frame);
    assert_eq!(experiments.map(|message| message.from[10]).collect::<Vec<_>>(), [4]);
    assert!(world.engines[0].net.tables.links[&other].counters.rx_packets > 0);
}

#[test]
fn packet_sockets_send() {
    let mut world = World::pair(1, Trouble::default());
    let cooked = world.socket(1, libc::AF_PACKET, libc::SOCK_DGRAM, i32::from(0x88b5u16.to_be()));
    world.call(1, cooked, SocketCall::Bind { address: link_address(2, 0) }).unwrap();
    let raw = world.socket(0, libc::AF_PACKET, libc::SOCK_RAW, 0);
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], b"experiment"].concat();
    let send = |to: Option<Vec<u8>>, data: Vec<u8>| SocketCall::Send { to, control: vec![], data, flags: 0 };
    assert_eq!(world.call(0, raw, send(None, frame.clone())), Err(Errno::ENXIO));
    assert_eq!(world.call(0, raw, send(Some(link_address(9, 0)), frame.clone())), Err(Errno::ENXIO));
    assert_eq!(world.call(0, raw, send(Some(link_address(2, 0)), vec![0; 13])), Err(Errno::EINVAL));
    assert_eq!(world.call(0, raw, send(Some(link_address(2, 0)), vec![0; 2000])), Err(Errno::EMSGSIZE));
    assert!(world.call(0, raw, send(Some(link_address(2, 0)), frame)).is_ok());
    world.run(ms(50));
    let message = world.receive(1, cooked).unwrap();
    assert_eq!(&message.data[..10], b"experiment");
    assert_eq!((message.from[10], &message.from[12..18]), (1, &[2, 0, 0, 0, 0, 1][..]));
    let mut back = link_address(2, 0x88b5);
    back[11] = 6;
    back[12..18].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    let mut address = link_address(2, libc::ETH_P_ALL as u16);
    world.call(0, raw, SocketCall::Bind { address: address.clone() }).unwrap();
    assert!(world.call(1, cooked, send(Some(back), b"answer".to_vec())).is_ok());
    world.run(ms(50));
    assert_eq!(world.receive(0, raw).unwrap().data[14..20], *b"answer");
    address[4] = 77;
    assert_eq!(world.call(0, raw, SocketCall::Bind { address }), Err(Errno::ENODEV));
}

#[test]
fn the_loopback_can_be_watched() {
    let mut world = World::alone();
    let tap = world.socket(0, libc::AF_PACKET, libc::SOCK_RAW, ETH_P_ALL);
    let udp = world.udp(0);
    world.bind(0, udp, "127.0.0.1:9").unwrap();
    world.send_to(0, udp, Some("127.0.0.1:9"), b"x").unwrap();
    let kinds: Vec<_> =
        std::iter::from_fn(|| world.receive(0, tap).ok()).map(|m| (m.from[10], m.data.len())).collect();
    assert_eq!(kinds, [(4, 43), (0, 43)]);
}

/// A dump request of rtnetlink.
fn dump(kind: u16, family: u8) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[0] = 20;
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
    bytes[16] = family;
    bytes
}

#[test]
fn netlink_lists_and_tells() {
    let mut world = World::pair(1, Trouble::default());
    let netlink = world.socket(0, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
    let bound =
        SocketCall::Bind { address: [&16u16.to_ne_bytes()[..], &[0; 6], &1u32.to_ne_bytes()].concat() };
    world.call(0, netlink, bound).unwrap();
    let call = SocketCall::Send { to: None, control: vec![], data: dump(18, 0), flags: 0 };
    world.call(0, netlink, call).unwrap();
    assert_eq!(world.engines[0].status(netlink).readable, 1);
    let mut text = Vec::new();
    while let Ok(message) = world.receive(0, netlink) {
        text.extend(message.data);
    }
    let has = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|w| w == word);
    assert!(has(&text, b"eth0\0") && has(&text, b"lo\0"));
    world.engines[0].plug(world.now, ETH0, false);
    let message = world.receive(0, netlink).expect("a notice");
    assert!(has(&message.data, b"eth0\0"));
    assert_eq!(message.from[8], 1, "from the group");
    world.close(0, netlink);
    let again = world.socket(0, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
    let Ok(Done::Address(name)) = world.call(0, again, SocketCall::LocalName) else { panic!() };
    assert_eq!(name, [16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn sockets_are_listed() {
    let mut world = World::pair(1, Trouble::default());
    let (client, _server) = world.connected(0, 1, "10.0.0.2:80");
    let listener = world.server(0, "0.0.0.0:8080");
    let diag = world.socket(0, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG);
    let mut request = vec![0; 72];
    request[0] = 72;
    request[4..8].copy_from_slice(&[20, 0, 1, 3]);
    request[16..18].copy_from_slice(&[libc::AF_INET as u8, 6]);
    request[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    world.call(0, diag, SocketCall::Send { to: None, control: vec![], data: request, flags: 0 }).unwrap();
    let data = world.receive(0, diag).unwrap().data;
    let states: Vec<_> = messages(&data).iter().filter(|m| m[4] == 20).map(|m| m[17]).collect();
    assert_eq!(states.len(), 2);
    assert!(states.contains(&1) && states.contains(&10), "{states:?}");
    let _ = (client, listener);
}

fn messages(mut data: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    while data.len() >= 16 {
        let length = u32::from_ne_bytes(data[..4].try_into().unwrap()) as usize;
        out.push(&data[..length]);
        data = &data[length.next_multiple_of(4).min(data.len())..];
    }
    out
}

#[test]
fn interfaces_by_ioctl_and_queues() {
    let mut world = World::pair(1, Trouble::default());
    let udp = world.udp(0);
    let mut request = vec![0; 40];
    request[..4].copy_from_slice(b"eth0");
    let call = SocketCall::Ioctl { request: 0x8915, argument: request };
    let Ok(Done::Bytes(bytes)) = world.call(0, udp, call) else { panic!() };
    assert_eq!(bytes[20..24], [10, 0, 0, 1]);
    let ask = |request| SocketCall::Ioctl { request, argument: vec![0; 4] };
    assert_eq!(world.call(0, udp, ask(0x1234)), Err(Errno::ENOTTY));
    let (client, server) = world.connected(0, 1, "10.0.0.2:80");
    world.write(0, client, &[0; 1000]);
    assert_eq!(world.call(0, client, ask(0x5411)), Ok(Done::Bytes(1000i32.to_ne_bytes().to_vec())));
    world.run(ms(50));
    assert_eq!(world.call(0, client, ask(0x5411)), Ok(Done::Bytes(vec![0; 4])));
    assert_eq!(world.call(1, server, ask(0x541b)), Ok(Done::Bytes(1000i32.to_ne_bytes().to_vec())));
}

#[test]
fn sockets_that_cannot_be() {
    let mut world = World::alone();
    let mut socket = |domain, kind, protocol| {
        world.engines[0].socket(world.now, SocketSpec { domain, kind, protocol }, &GUEST).unwrap_err()
    };
    let (inet, stream, dgram, raw) = (libc::AF_INET, libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW);
    assert_eq!(socket(99, stream, 0), Errno::EAFNOSUPPORT);
    assert_eq!(socket(libc::AF_CAN, raw, 1), Errno::EAFNOSUPPORT);
    assert_eq!(socket(inet, 11, 0), Errno::EINVAL);
    assert_eq!(socket(inet, stream | 0x100, 0), Errno::EINVAL);
    assert_eq!(socket(inet, stream, 17), Errno::EPROTONOSUPPORT);
    assert_eq!(socket(inet, dgram, 6), Errno::EPROTONOSUPPORT);
    assert_eq!(socket(inet, dgram, libc::IPPROTO_ICMPV6), Errno::EPROTONOSUPPORT);
    assert_eq!(socket(inet, libc::SOCK_SEQPACKET, 0), Errno::ESOCKTNOSUPPORT);
    assert_eq!(socket(inet, stream, -1), Errno::EINVAL);
    assert_eq!(socket(inet, raw, 0), Errno::EPROTONOSUPPORT);
    assert_eq!(socket(inet, raw, 1), Errno::EPERM);
    assert_eq!(socket(libc::AF_NETLINK, stream, 0), Errno::ESOCKTNOSUPPORT);
    assert_eq!(socket(libc::AF_NETLINK, raw, 200), Errno::EPROTONOSUPPORT);
}

#[test]
fn options_that_do_something() {
    let mut world = World::pair(1, Trouble::default());
    let (client, _) = world.connected(0, 1, "10.0.0.2:80");
    assert_eq!(world.get(0, client, libc::IPPROTO_TCP, libc::TCP_MAXSEG), Ok(1448));
    assert_eq!(world.get(0, client, libc::IPPROTO_IP, libc::IP_MTU), Ok(1500));
    let info = SocketCall::GetOption { level: libc::IPPROTO_TCP, name: libc::TCP_INFO, value: vec![0; 300] };
    let Ok(Done::Bytes(bytes)) = world.call(0, client, info) else { panic!() };
    assert_eq!((bytes.len(), bytes[0]), (248, 1));
    let udp = world.udp(0);
    let device = |name: &[u8]| SocketCall::SetOption {
        level: libc::SOL_SOCKET,
        name: libc::SO_BINDTODEVICE,
        value: name.to_vec(),
    };
    assert_eq!(world.call(0, udp, device(b"eth9\0")), Err(Errno::ENODEV));
    world.call(0, udp, device(b"lo\0")).unwrap();
    let before = world.sent;
    assert!(world.send_to(0, udp, Some("10.0.0.2:9"), b"x").is_ok(), "Linux: then it is on that link");
    world.run(ms(10));
    assert_eq!(world.sent, before, "but it is not");
    let get =
        SocketCall::GetOption { level: libc::SOL_SOCKET, name: libc::SO_BINDTODEVICE, value: vec![0; 16] };
    assert_eq!(world.call(0, udp, get), Ok(Done::Bytes(b"lo\0".to_vec())));
    world.call(0, udp, device(b"")).unwrap();
    let value = [2i64.to_ne_bytes(), 500_000i64.to_ne_bytes()].concat();
    let set = SocketCall::SetOption { level: libc::SOL_SOCKET, name: libc::SO_RCVTIMEO, value };
    world.call(0, udp, set).unwrap();
    let options = world.engines[0].socket_options(udp).unwrap();
    assert_eq!(options.receive_timeout, Some(ms(2500)));
}

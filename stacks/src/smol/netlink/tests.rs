//! Requests as iproute2, ss, glibc and Go send them, recorded on Linux 6.18; answers are read by
//! netlink-packet-route, which knows nothing of what made them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo};
use netlink_packet_route::route::{RouteAttribute, RouteType};
use proptest::prelude::*;

use super::wire::{Attributes, Header, Message, u32_at};
use super::*;
use crate::config::Mac;
use crate::smol::tables::{
    Address, Change, IfIndex, LOOPBACK, LinkKind, Mode, Nud, RouteKind, SCOPE_LINK, TABLE_LOCAL,
};
use crate::smol::tcp::Info;

const MAC: Mac = Mac([0x7a, 0xdf, 0x52, 0x35, 0x39, 0x7b]);
const ETH0: IfIndex = IfIndex(2);
const PID: i32 = 4711;

/// The loopback and an Ethernet link that is up, and two sockets to be listed.
#[derive(Debug)]
pub(super) struct Host(pub(super) Tables);

impl World for Host {
    fn tables(&self) -> &Tables {
        &self.0
    }
    fn tables_mut(&mut self) -> &mut Tables {
        &mut self.0
    }
    fn route(&self, destination: IpAddr, _: &Wish) -> Result<Path, Errno> {
        let holds = |r: &&crate::smol::tables::Route| r.to.contains(&destination);
        let way = self.0.routes.iter().filter(holds).max_by_key(|r| r.to.prefix_len());
        let way = way.ok_or(Errno::ENETUNREACH)?;
        let link = way.link.ok_or(Errno::EHOSTUNREACH)?;
        let source = way.source.or_else(|| {
            let fits = |a: &&Address| a.net.addr().is_ipv4() == destination.is_ipv4();
            self.0.addresses_of(link).find(fits).map(|a| a.net.addr())
        });
        Ok(Path {
            link,
            source: source.ok_or(Errno::EADDRNOTAVAIL)?,
            next_hop: way.gateway.unwrap_or(destination),
            mtu: 1500,
            local: way.kind == RouteKind::Local,
            looped: false,
            group: way.kind == RouteKind::Broadcast,
            generation: 0,
        })
    }
    fn sockets(&self, family: u8, protocol: u8) -> Vec<DiagSocket> {
        if (i32::from(family), i32::from(protocol)) != (libc::AF_INET, libc::IPPROTO_TCP) {
            return Vec::new();
        }
        vec![diag_socket(10, "0.0.0.0:80", "0.0.0.0:0"), diag_socket(1, "10.0.0.2:80", "10.0.0.9:40000")]
    }
}

fn diag_socket(state: u8, local: &str, peer: &str) -> DiagSocket {
    let end = |text: &str| {
        let end: SocketAddr = text.parse().unwrap();
        (end.ip(), end.port())
    };
    DiagSocket {
        family: libc::AF_INET as u8,
        protocol: libc::IPPROTO_TCP as u8,
        state,
        local: end(local),
        peer: end(peer),
        link: 0,
        inode: 1234,
        cookie: 0x1_0000_0005,
        uid: 1000,
        receive_queue: 3,
        send_queue: 128,
        receive_buffer: 131_072,
        send_buffer: 87_040,
        drops: 0,
        timer: DiagTimer { kind: 2, retransmits: 0, left: Duration::from_secs(7200) },
        tos: 0,
        mark: 0,
        v6_only: false,
        shutdown: 0,
        tcp: Some((Info { cwnd: 14_600, send_mss: 1460, ..Info::default() }, "cubic")),
    }
}

#[expect(clippy::disallowed_methods, reason = "any moment will do, and there is no other way to one")]
pub(super) fn moment() -> Instant {
    Instant::now()
}

pub(super) fn host() -> Host {
    let mut tables = Tables::new();
    tables.set_up(LOOPBACK, true).unwrap();
    tables.add_link(0, "eth0", LinkKind::Ethernet, MAC).unwrap();
    tables.set_carrier(ETH0, true).unwrap();
    tables.set_up(ETH0, true).unwrap();
    for net in ["10.0.0.2/24", "fd00::2/64"] {
        let mut address = Address::new(ETH0, net.parse().unwrap());
        address.flags = crate::smol::tables::ifa_flags::NODAD;
        tables.add_address(address, Mode::ADD).unwrap();
    }
    tables.changes.clear();
    Host(tables)
}

fn socket(protocol: i32) -> Socket {
    let mut socket = Socket::new(protocol).unwrap();
    socket.bind(&mut Ports::default(), PID, false, &address(0, 0)).unwrap();
    socket.set_option(libc::NETLINK_EXT_ACK, &1i32.to_ne_bytes(), false).unwrap();
    socket
}

fn strict(protocol: i32) -> Socket {
    let mut socket = socket(protocol);
    socket.set_option(libc::NETLINK_GET_STRICT_CHK, &1i32.to_ne_bytes(), false).unwrap();
    socket
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Every datagram that the request leads to.
fn ask(socket: &mut Socket, host: &mut Host, request: &[u8]) -> Vec<Vec<u8>> {
    let now = moment();
    socket.handle(request, host, now, true).unwrap();
    let mut datagrams = Vec::new();
    while let Some(datagram) = socket.front(host, now) {
        datagrams.push(datagram.data.clone());
        socket.pop();
    }
    datagrams
}

fn parse(datagrams: &[Vec<u8>]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut found = Vec::new();
    for datagram in datagrams {
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let length = u32_at(rest, 0).unwrap() as usize;
            // RTM_NEWNETCONF, which the crate does not know.
            if rest[4] != 80 {
                found.push(NetlinkMessage::deserialize(rest).unwrap());
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
    found
}

/// The answers of a request of iproute2.
fn route(host: &mut Host, request: &str) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    parse(&ask(&mut strict(libc::NETLINK_ROUTE), host, &hex(request)))
}

/// What a request is refused with, and the words; `None` if it is not.
fn refusal(host: &mut Host, request: &str) -> Option<(Errno, String)> {
    let datagrams = ask(&mut strict(libc::NETLINK_ROUTE), host, &hex(request));
    let last = datagrams.last().expect("an answer");
    let errno = u32_at(last, 16).unwrap().cast_signed();
    let flags = i32::from(u16::from_ne_bytes([last[6], last[7]]));
    let words = if flags & 0x200 == 0 {
        String::new()
    } else {
        let original = u32_at(last, 20).unwrap() as usize;
        Attributes::behind(&last[20..], original).text(1).unwrap().unwrap().to_owned()
    };
    (errno != 0).then(|| (Errno::from_raw(-errno), words))
}

fn names(messages: &[NetlinkMessage<RouteNetlinkMessage>]) -> Vec<String> {
    let name = |message: &NetlinkMessage<RouteNetlinkMessage>| {
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = &message.payload else {
            return None;
        };
        link.attributes.iter().find_map(|a| match a {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
    };
    messages.iter().filter_map(name).collect()
}

#[test]
fn interface_lists_of_glibc_and_go() {
    let mut host = host();
    for request in ["14000000120001030300000000000000", "11000000120001030100000000000000"] {
        // glibc pads its one byte of a header, Go does not.
        let mut bytes = hex(request);
        bytes.resize(bytes[0].into(), 0);
        let datagrams = ask(&mut socket(libc::NETLINK_ROUTE), &mut host, &bytes);
        assert!(datagrams.iter().all(|d| d.len() <= CHUNK));
        let messages = parse(&datagrams);
        assert_eq!(names(&messages), ["lo", "eth0"]);
        assert!(matches!(messages.last().unwrap().payload, NetlinkPayload::Done(_)));
        assert!(messages.iter().all(|m| m.header.port_number == PID as u32));
        assert!(messages.iter().all(|m| m.header.sequence_number == u32::from(bytes[8])));
    }
    let messages = parse(&ask(
        &mut socket(libc::NETLINK_ROUTE),
        &mut host,
        &hex("1400000016000103040000000000000000000000"),
    ));
    let own = |m: &NetlinkMessage<RouteNetlinkMessage>| match &m.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(a)) => {
            a.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(ip.to_string()),
                _ => None,
            })
        }
        _ => None,
    };
    let addresses: Vec<_> = messages.iter().filter_map(own).collect();
    let expected = ["127.0.0.1", "10.0.0.2", "::1", "fd00::2", "fe80::78df:52ff:fe35:397b"];
    assert_eq!(addresses, expected);
}

/// `ip link add link eth0 name eth0.10 type vlan id 10`
const ADD_VLAN: &str = "4c0000001000050609a5016b000000000000000000000000000000000000000008000500020000000c000300657468302e3130001800120008000100766c616e0c000200060001000a000000";

#[test]
fn a_vlan_is_made_shown_and_removed() {
    let mut host = host();
    assert_eq!(refusal(&mut host, ADD_VLAN), None);
    assert_eq!(refusal(&mut host, ADD_VLAN), Some((Errno::EEXIST, String::new())));
    // `ip link show type vlan`
    let shown = route(
        &mut host,
        "340000001200010309a5016b000000001100000000000000000000000000000008001d00010000000c00120008000100766c616e",
    );
    assert_eq!(names(&shown), ["eth0.10"]);
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = &shown[0].payload else {
        panic!("{shown:?}")
    };
    let info = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(info) => Some(info),
        _ => None,
    });
    let info = info.unwrap();
    assert!(info.contains(&LinkInfo::Kind(InfoKind::Vlan)));
    let data = info.iter().find_map(|i| match i {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    });
    assert!(data.unwrap().contains(&InfoVlan::Id(10)));
    assert!(link.attributes.contains(&LinkAttribute::Link(2)));
    // `ip link add link eth0 name x type vlan id 5000`
    let words = refusal(
        &mut host,
        "480000001000050609a5016b0000000000000000000000000000000000000000080005000200000006000300780000001800120008000100766c616e0c0002000600010088130000",
    );
    assert_eq!(words, Some((Errno::ERANGE, "Invalid VLAN id".into())));
    // `ip link del`, of the VLAN and of the card
    let vlan = host.0.link_by_name("eth0.10").unwrap().index.0;
    let delete = |index| format!("20000000110005000aa5016b0000000000000000{index:02x}0000000000000000000000");
    assert_eq!(refusal(&mut host, &delete(vlan)), None);
    assert_eq!(refusal(&mut host, &delete(2)), Some((Errno::EOPNOTSUPP, String::new())));
    assert_eq!(refusal(&mut host, &delete(9)), Some((Errno::ENODEV, String::new())));
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let mut host = host();
    // IFF_UP under a parent that is down.
    host.0.set_up(ETH0, false).unwrap();
    let mut request = hex(ADD_VLAN);
    request[24] = 1;
    request[28] = 1;
    let text: String = request.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(refusal(&mut host, &text), Some((Errno::ENETDOWN, String::new())));
    assert!(host.0.link_by_name("eth0.10").is_none());
}

#[test]
fn addresses_and_routes_by_hand() {
    let mut host = host();
    // `ip addr add 10.0.0.1/24 dev …`, index 2
    let add = "280000001400050609a5016b000000000218000002000000080002000a000001080001000a000001";
    assert_eq!(refusal(&mut host, add), None);
    let again = Some((Errno::EEXIST, "ipv4: Address already assigned".into()));
    assert_eq!(refusal(&mut host, add), again);
    assert!(host.0.addresses.iter().any(|a| a.net.to_string() == "10.0.0.1/24"));
    // `ip route add 1.1.1.0/24 nexthop via … nexthop via …`
    let multipath = refusal(
        &mut host,
        "48000000180005060aa5016b0000000002180000fe030001000000000800010001010100240009001000000000000000080005000a0000011000000000000000080005000a000002",
    );
    assert_eq!(multipath.unwrap().0, Errno::EOPNOTSUPP);
    // `ip nexthop add id 1 …`, `tc qdisc add …`
    for request in [
        "30000000680005060aa5016b0000000002000000000000000800010001000000080006000a0000010800050002000000",
        "4c000000240005060ba5016b00000000000000000200000000000000ffffffff000000000a0001006e6574656d0000001c000200093d0000e803000000000000000000000000000000000000",
    ] {
        assert_eq!(refusal(&mut host, request), Some((Errno::EOPNOTSUPP, String::new())));
    }
    // `ip neigh add 10.0.0.5 lladdr …`
    let neighbour =
        "300000001c0005060ba5016b00000000020000000200000080000000080001000a0000050a0002000200000000050000";
    assert_eq!(refusal(&mut host, neighbour), None);
    let entry = &host.0.neighbours[&(ETH0, Ipv4Addr::new(10, 0, 0, 5).into())];
    assert_eq!((entry.mac, entry.state), (Some(Mac([2, 0, 0, 0, 0, 5])), Nud::Permanent));
}

/// A dump of routes with a table, or with none.
fn routes_of(table: u32) -> String {
    let mut message = Message::new(Header { kind: libc::RTM_GETROUTE, flags: 0x301, sequence: 7, port: 0 });
    message.raw(&[0; 12]);
    if table != 0 {
        message.u32(libc::RTA_TABLE, table);
    }
    message.finish().iter().map(|b| format!("{b:02x}")).collect()
}

fn kinds(messages: &[NetlinkMessage<RouteNetlinkMessage>]) -> Vec<RouteType> {
    let kind = |message: &NetlinkMessage<RouteNetlinkMessage>| match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => Some(route.header.kind),
        _ => None,
    };
    messages.iter().filter_map(kind).collect()
}

#[test]
fn dumps_of_routes_are_filtered_if_the_socket_is_strict() {
    let mut host = host();
    let all = kinds(&route(&mut host, &routes_of(0)));
    assert_eq!(all.len(), host.0.routes.len());
    let local = kinds(&route(&mut host, &routes_of(TABLE_LOCAL)));
    assert_eq!(local.len(), host.0.routes.iter().filter(|r| r.table == TABLE_LOCAL).count());
    assert!(local.contains(&RouteType::Local) && !local.contains(&RouteType::Unicast));
    let lax = ask(&mut socket(libc::NETLINK_ROUTE), &mut host, &hex(&routes_of(TABLE_LOCAL)));
    assert_eq!(kinds(&parse(&lax)).len(), all.len());
}

#[test]
fn a_dump_that_cannot_be_made_ends_with_its_reason() {
    let mut host = host();
    let mut request = hex(&routes_of(77));
    request[16] = libc::AF_INET as u8;
    let datagrams = ask(&mut strict(libc::NETLINK_ROUTE), &mut host, &request);
    assert_eq!(datagrams.len(), 1);
    let done = &datagrams[0];
    assert_eq!(u16::from_ne_bytes([done[4], done[5]]), libc::NLMSG_DONE as u16);
    assert_eq!(u32_at(done, 16).unwrap().cast_signed(), -libc::ENOENT);
    let words = Attributes::behind(&done[20..], 0).text(1).unwrap();
    assert_eq!(words, Some("ipv4: FIB table does not exist"));
}

#[test]
fn long_dumps_come_in_pieces_as_they_are_read() {
    let mut host = host();
    for n in 0..2000u32 {
        let mut route = host.0.routes[0].clone();
        route.to = IpNet::new(Ipv4Addr::from(0x1400_0000 + (n << 8)).into(), 24).unwrap();
        route.link = Some(ETH0);
        route.scope = SCOPE_LINK;
        route.source = None;
        route.kind = RouteKind::Unicast;
        host.0.add_route(route, Mode::ADD).unwrap();
    }
    let now = moment();
    let mut socket = strict(libc::NETLINK_ROUTE);
    let request = hex(&routes_of(0));
    socket.handle(&request, &mut host, now, false).unwrap();
    assert!(socket.queued <= CHUNK, "one piece at a time");
    // A second dump has to wait for the first.
    socket.handle(&request, &mut host, now, false).unwrap();
    let mut datagrams = Vec::new();
    while let Some(datagram) = socket.front(&host, now) {
        datagrams.push(datagram.data.clone());
        socket.pop();
    }
    assert!(!socket.is_readable());
    assert!(datagrams.iter().all(|d| d.len() <= CHUNK));
    let messages = parse(&datagrams);
    assert_eq!(kinds(&messages).len(), host.0.routes.len());
    let busy = |m: &&NetlinkMessage<RouteNetlinkMessage>| matches!(&m.payload, NetlinkPayload::Error(e) if e.raw_code() == -libc::EBUSY);
    assert_eq!(messages.iter().filter(busy).count(), 1);
}

#[test]
fn lookups_say_which_way() {
    let mut host = host();
    let get = |ip: [u8; 4]| {
        let mut message = Message::new(Header { kind: libc::RTM_GETROUTE, flags: 1, sequence: 1, port: 0 });
        message.raw(&[libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0]);
        message.attribute(libc::RTA_DST, &ip);
        message.finish().iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let found = route(&mut host, &get([10, 0, 0, 9]));
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(found)) = &found[0].payload else {
        panic!("{found:?}")
    };
    assert_eq!(found.header.kind, RouteType::Unicast);
    assert!(found.attributes.contains(&RouteAttribute::Oif(2)));
    let source = RouteAttribute::PrefSource(Ipv4Addr::new(10, 0, 0, 2).into());
    assert!(found.attributes.contains(&source));
    assert_eq!(refusal(&mut host, &get([8, 8, 8, 8])), Some((Errno::ENETUNREACH, String::new())));
}

#[test]
fn without_rights_nothing_changes() {
    let mut host = host();
    let before = host.0.clone();
    for request in [
        ADD_VLAN,
        "280000001400050609a5016b000000000218000002000000080002000a000001080001000a000001",
        "20000000110005000aa5016b0000000000000000020000000000000000000000",
    ] {
        let mut socket = socket(libc::NETLINK_ROUTE);
        socket.handle(&hex(request), &mut host, moment(), false).unwrap();
        let answer = socket.front(&host, moment()).unwrap();
        assert_eq!(u32_at(&answer.data, 16).unwrap().cast_signed(), -libc::EPERM);
    }
    assert_eq!(host.0, before);
}

#[test]
fn acknowledgements_are_cut_if_wanted() {
    let mut host = host();
    let request = hex("20000000110005000aa5016b0000000000000000090000000000000000000000");
    let whole = ask(&mut socket(libc::NETLINK_ROUTE), &mut host, &request);
    assert_eq!(whole[0].len(), 16 + 4 + request.len());
    let mut socket = socket(libc::NETLINK_ROUTE);
    socket.set_option(libc::NETLINK_CAP_ACK, &1i32.to_ne_bytes(), false).unwrap();
    let cut = ask(&mut socket, &mut host, &request);
    assert_eq!(cut[0].len(), 16 + 4 + 16);
    // A type that nobody knows, and a message that asks for nothing.
    let unknown = ask(&mut socket, &mut host, &hex("14000000f30001000100000000000000000000000000"));
    assert_eq!(u32_at(&unknown[0], 16).unwrap().cast_signed(), -libc::EOPNOTSUPP);
    assert!(ask(&mut socket, &mut host, &hex("10000000120000000100000000000000")).is_empty());
}

#[test]
fn listeners_hear_of_changes_of_their_groups() {
    let mut host = host();
    let now = moment();
    let mut listener = socket(libc::NETLINK_ROUTE);
    listener.set_option(libc::NETLINK_ADD_MEMBERSHIP, &5i32.to_ne_bytes(), false).unwrap();
    assert!(listener.listens() && listener.listens_to(5) && !listener.listens_to(7));
    let add = "280000001400050609a5016b000000000218000002000000080002000a000001080001000a000001";
    assert_eq!(refusal(&mut host, add), None);
    let changes: Vec<Change> = host.0.changes.drain(..).collect();
    for change in &changes {
        listener.offer(&notice(change, &host.0, now).unwrap());
    }
    let heard = listener.front(&host, now).unwrap().clone();
    assert_eq!(heard.group, 5);
    let messages = parse(&[heard.data]);
    assert!(matches!(messages[0].payload, NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(_))));
    listener.pop();
    assert!(!listener.is_readable(), "routes go to another group");

    listener.set_receive_buffer(10);
    listener.offer(&notice(&changes[0], &host.0, now).unwrap());
    assert_eq!(listener.take_error(), Some(Errno::ENOBUFS));
    assert_eq!(listener.take_error(), None);
}

#[test]
fn ports_are_unique_and_the_first_is_the_process_number() {
    let mut ports = Ports::default();
    let mut first = Socket::new(libc::NETLINK_ROUTE).unwrap();
    let mut second = Socket::new(libc::NETLINK_ROUTE).unwrap();
    let mut third = Socket::new(libc::NETLINK_ROUTE).unwrap();
    first.bind(&mut ports, PID, false, &address(0, 3)).unwrap();
    second.bind_any(&mut ports, PID).unwrap();
    assert_eq!(first.local_name(), address(PID as u32, 3));
    assert!(second.port().cast_signed() < -4096);
    assert_eq!(third.bind(&mut ports, PID, false, &address(PID as u32, 0)), Err(Errno::EADDRINUSE));
    assert_eq!(first.bind(&mut ports, PID, false, &address(99, 0)), Err(Errno::EINVAL));
    assert_eq!(third.bind(&mut ports, PID, false, &[0; 12]), Err(Errno::EINVAL));
    ports.release(&first);
    third.bind(&mut ports, PID, false, &address(PID as u32, 0)).unwrap();
    assert_eq!(first.check_destination(&address(0, 0)), Ok(()));
    assert_eq!(first.check_destination(&address(5, 0)), Err(Errno::ECONNREFUSED));
    assert_eq!(first.check_destination(&address(0, 1)), Err(Errno::EPERM));
    assert_eq!(Socket::new(3).map(drop), Err(Errno::EPROTONOSUPPORT));
}

#[test]
fn options_are_those_of_linux() {
    let mut socket = Socket::new(libc::NETLINK_ROUTE).unwrap();
    let one = 1i32.to_ne_bytes();
    assert_eq!(socket.set_option(libc::NETLINK_PKTINFO, &one, false), Ok(()));
    assert!(socket.wants_packet_info());
    assert_eq!(socket.option(libc::NETLINK_PKTINFO), Ok(one.to_vec()));
    assert_eq!(socket.set_option(999, &one, true), Err(Errno::ENOPROTOOPT));
    assert_eq!(socket.set_option(libc::NETLINK_ADD_MEMBERSHIP, &[0; 4], true), Err(Errno::EINVAL));
    assert_eq!(socket.set_option(libc::NETLINK_LISTEN_ALL_NSID, &one, true), Err(Errno::EPERM));
    let mut netfilter = Socket::new(libc::NETLINK_NETFILTER).unwrap();
    assert_eq!(netfilter.set_option(libc::NETLINK_ADD_MEMBERSHIP, &one, false), Err(Errno::EPERM));
}

#[test]
fn sockets_are_listed_for_ss() {
    let mut host = host();
    // `ss -tinmeoa`: IPv4, TCP, all states, MEMINFO, INFO, VEGASINFO, CONG, SKMEMINFO
    let request = format!("480000001400010340e201000000000002064f00ff0f0000{}", "0".repeat(96));
    let datagrams = ask(&mut socket(libc::NETLINK_SOCK_DIAG), &mut host, &hex(&request));
    let all = &datagrams[0];
    assert_eq!(u16::from_ne_bytes([all[4], all[5]]), 20);
    assert_eq!(&all[16..20], &[2, 10, 2, 0]);
    let attributes = Attributes::behind(&all[16..u32_at(all, 0).unwrap() as usize], 72);
    assert_eq!(attributes.get(2).unwrap().len(), 248);
    assert_eq!(attributes.text(4), Ok(Some("cubic")));
    assert_eq!(attributes.get(7).unwrap().len(), 36);
    // The backlog of a listener, in its tcp_info.
    assert_eq!(u32_at(attributes.get(2).unwrap(), 24), Some(3));
    // `ss -t state established`: one of the two
    let established = request.replace("ff0f0000", "02000000");
    let datagrams = ask(&mut socket(libc::NETLINK_SOCK_DIAG), &mut host, &hex(&established));
    assert_eq!(datagrams[0][17], 1);
    let second = u32_at(&datagrams[0], 0).unwrap() as usize;
    assert_eq!(u16::from_ne_bytes([datagrams[0][second + 4], datagrams[0][second + 5]]), 3);
    // SCTP, and a family without handler
    for (from, to) in [("02064f00", "02844f00"), ("02064f00", "07064f00")] {
        let request = request.replace(from, to);
        let datagrams = ask(&mut socket(libc::NETLINK_SOCK_DIAG), &mut host, &hex(&request));
        assert_eq!(u32_at(&datagrams[0], 16).unwrap().cast_signed(), -libc::ENOENT);
    }
}

#[test]
fn protocols_without_anything_behind_them_say_so() {
    let mut host = host();
    let errno = |socket: &mut Socket, host: &mut Host, request: &str| {
        let datagrams = ask(socket, host, &hex(request));
        Errno::from_raw(-u32_at(&datagrams[0], 16).unwrap().cast_signed())
    };
    // `ip tcp_metrics`: a family by name
    let family = "24000000100001000aa5016b0000000003000000100002007463705f6d65747269637300";
    assert_eq!(errno(&mut socket(libc::NETLINK_GENERIC), &mut host, family), Errno::ENOENT);
    // `ip xfrm state`
    let states = "38000000120001030aa5016b00000000".to_owned() + &"0".repeat(80);
    assert_eq!(errno(&mut socket(libc::NETLINK_XFRM), &mut host, &states), Errno::EOPNOTSUPP);
    assert_eq!(errno(&mut socket(libc::NETLINK_NETFILTER), &mut host, &states), Errno::EINVAL);
}

/// A message with an honest header and any payload, so that more than the framing is tried.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![16u16..115, Just(20u16)];
    let payload = proptest::collection::vec(prop_oneof![Just(0u8), Just(2), Just(8), any::<u8>()], 0..120);
    (kinds, any::<u16>(), payload).prop_map(|(kind, flags, payload)| {
        let mut message = Message::new(Header { kind, flags: flags | 1, sequence: 3, port: 0 });
        message.raw(&payload);
        message.finish()
    })
}

proptest! {
    #[test]
    fn whatever_is_asked_the_answer_can_be_read(
        requests in proptest::collection::vec(
            prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), framed()], 1..8),
        protocol in prop_oneof![Just(libc::NETLINK_ROUTE), Just(libc::NETLINK_SOCK_DIAG), Just(libc::NETLINK_GENERIC), Just(libc::NETLINK_NETFILTER)],
        rights: bool,
    ) {
        let now = moment();
        let mut host = host();
        let mut socket = socket(protocol);
        for request in requests {
            socket.handle(&request, &mut host, now, rights).unwrap();
            while let Some(datagram) = socket.front(&host, now) {
                let data = datagram.data.clone();
                prop_assert!(!data.is_empty());
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let length = u32_at(rest, 0).unwrap() as usize;
                    prop_assert!((16..=rest.len()).contains(&length), "{length} of {}", rest.len());
                    rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                }
                if protocol == libc::NETLINK_ROUTE {
                    parse(&[data]);
                }
                socket.pop();
            }
            prop_assert!(!socket.is_readable() && socket.queued == 0);
            for change in std::mem::take(&mut host.0.changes) {
                if let Some(notice) = notice(&change, &host.0, now) {
                    parse(&[notice.message]);
                }
            }
        }
    }
}

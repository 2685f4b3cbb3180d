//! Leases: who gets which address, and when again.

use super::*;
use proptest::prelude::*;

/// How long a lease is, if nobody says otherwise.
const HALF_DAY: Duration = Duration::from_secs(LEASE as u64);

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn leases(net: &str) -> Leases {
    Leases::new(net.parse().unwrap(), Said::default())
}

fn ask(leases: &mut Leases, now: Instant, repr: &DhcpRepr<'_>) -> Option<(DhcpMessageType, Ipv4Addr)> {
    let answer = leases.handle(now, &bytes(repr))?;
    let packet = DhcpPacket::new_checked(&answer.bytes[..]).unwrap();
    let repr = DhcpRepr::parse(&packet).unwrap();
    assert_eq!(repr.server_identifier, Some(leases.own.addr()));
    if repr.message_type != DhcpMessageType::Nak {
        assert_eq!((repr.router, repr.subnet_mask), (Some(leases.own.addr()), Some(leases.own.netmask())));
        assert_eq!(repr.dns_servers.unwrap().first(), Some(&leases.own.addr()));
    }
    Some((repr.message_type, repr.your_ip))
}

fn get(leases: &mut Leases, now: Instant, mac: Mac) -> Option<Ipv4Addr> {
    let (kind, address) = ask(leases, now, &message(DhcpMessageType::Discover, 1, mac))?;
    assert_eq!(kind, DhcpMessageType::Offer);
    let request = DhcpRepr {
        requested_ip: Some(address),
        server_identifier: Some(leases.own.addr()),
        ..message(DhcpMessageType::Request, 2, mac)
    };
    assert_eq!(ask(leases, now, &request), Some((DhcpMessageType::Ack, address)));
    Some(address)
}

#[test]
fn everybody_gets_an_address_and_keeps_it() {
    let (t0, mut leases) = (start(), leases("10.0.2.1/24"));
    let first = get(&mut leases, t0, [2, 0, 0, 0, 0, 1]).unwrap();
    let second = get(&mut leases, t0, [2, 0, 0, 0, 0, 2]).unwrap();
    assert!(first != second && first.octets()[3] >= 128 && second.octets()[3] >= 128);
    assert_eq!(get(&mut leases, t0 + 3 * HALF_DAY, [2, 0, 0, 0, 0, 1]), Some(first));
    let theft =
        DhcpRepr { requested_ip: Some(first), ..message(DhcpMessageType::Request, 3, [2, 0, 0, 0, 0, 3]) };
    assert_eq!(ask(&mut leases, t0 + 3 * HALF_DAY, &theft).unwrap().0, DhcpMessageType::Nak);
    let outside = DhcpRepr { requested_ip: Some([10, 0, 2, 5].into()), ..theft };
    assert_eq!(ask(&mut leases, t0, &outside).unwrap().0, DhcpMessageType::Nak);
}

#[test]
fn an_address_that_was_let_go_or_ran_out_is_given_again() {
    let (t0, mut leases) = (start(), leases("10.0.2.1/29"));
    let mac = |n: u8| [2, 0, 0, 0, 0, n];
    let given: Vec<_> = (0..3).map(|n| get(&mut leases, t0, mac(n)).unwrap()).collect();
    assert_eq!(get(&mut leases, t0, mac(9)), None);
    assert_eq!(ask(&mut leases, t0, &message(DhcpMessageType::Release, 1, mac(1))), None);
    assert_eq!(get(&mut leases, t0, mac(9)), Some(given[1]));
    assert!(get(&mut leases, t0 + HALF_DAY, mac(10)).is_some());
}

#[test]
fn a_declined_address_is_left_alone() {
    let (t0, mut leases) = (start(), leases("10.0.2.1/24"));
    let mac = [2, 0, 0, 0, 0, 1];
    let first = get(&mut leases, t0, mac).unwrap();
    let decline = DhcpRepr { requested_ip: Some(first), ..message(DhcpMessageType::Decline, 1, mac) };
    assert_eq!(ask(&mut leases, t0, &decline), None);
    assert_ne!(get(&mut leases, t0, mac), Some(first));
}

proptest! {
    #[test]
    fn no_two_have_one_address(acts in prop::collection::vec((0..12u8, 0..4u8, 0..20u64), 1..100)) {
        let (mut now, mut leases) = (start(), leases("10.0.2.1/28"));
        for (client, act, hours) in acts {
            now += Duration::from_secs(hours * 3600);
            let mac = [2, 0, 0, 0, 0, client];
            match act {
                0 => drop(ask(&mut leases, now, &message(DhcpMessageType::Release, 1, mac))),
                _ => drop(get(&mut leases, now, mac)),
            }
            let mut seen = std::collections::BTreeSet::new();
            prop_assert!(leases.clients.values().all(|(address, _)| seen.insert(*address)));
            prop_assert!(leases.clients.iter().all(|(mac, (address, _))| leases.addresses[address] == Some(*mac)));
            prop_assert!(leases.addresses.len() <= 8);
        }
    }

    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(leases("10.0.2.1/24").handle(start(), &bytes));
    }
}

#[test]
fn static_entries_and_options() {
    let fixed = ["02:00:00:00:00:07=10.0.2.7", "web=10.0.2.140"].map(|text| text.parse().unwrap());
    let said = Said {
        fixed: fixed.to_vec(),
        lease_s: 100,
        domain: Some("lan.example".into()),
        mtu: Some(1400),
        ntp: vec!["fd00::1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
        v6: Dhcp6::Off,
    };
    let mut leases = Leases::new("10.0.2.1/24".parse().unwrap(), said);
    let now = start();
    assert_eq!(get(&mut leases, now, [2, 0, 0, 0, 0, 7]), Some(Ipv4Addr::new(10, 0, 2, 7)));
    // By name, also when somebody asks for that address, whose it is not.
    let name = [DhcpOption { kind: HOST_NAME, data: b"WEB" }];
    let wanted = Some(Ipv4Addr::new(10, 0, 2, 140));
    let discover = |mac| DhcpRepr { requested_ip: wanted, ..message(DhcpMessageType::Discover, 1, mac) };
    let (_, other) = ask(&mut leases, now, &discover([2, 0, 0, 0, 0, 8])).unwrap();
    assert_ne!(Some(other), wanted);
    let named = DhcpRepr { additional_options: &name, ..discover([2, 0, 0, 0, 0, 9]) };
    let answer = leases.handle(now, &bytes(&named)).unwrap();
    let packet = DhcpPacket::new_checked(&answer.bytes[..]).unwrap();
    let option =
        |kind| packet.options().find(|option| option.kind == kind).map(|option| option.data.to_vec());
    assert_eq!(Some(packet.your_ip()), wanted);
    assert_eq!(option(DOMAIN_NAME).unwrap(), b"lan.example");
    assert_eq!((option(MTU), option(NTP)), (Some(vec![5, 120]), Some(vec![192, 0, 2, 1])));
    assert_eq!(option(51), Some(100u32.to_be_bytes().to_vec()));
    let request =
        DhcpRepr { requested_ip: Some(other), ..message(DhcpMessageType::Request, 2, [2, 0, 0, 0, 0, 7]) };
    assert_eq!(ask(&mut leases, now, &request).unwrap().0, DhcpMessageType::Nak);
    for wrong in [
        "web",
        "=10.0.2.1",
        "a b=10.0.2.1",
        "web=10.0.2",
        "00:03:00:01:02:00:00:00:00:07=10.0.2.7",
        "00:03:xx=fd00::1",
    ] {
        assert!(wrong.parse::<Fixed>().is_err(), "{wrong}");
    }
}

//! Leases: who gets which address, and when again; and what is answered to whom.

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn server(net: &str, said: Said) -> Server {
    Server::new(net.parse().unwrap(), [2, 0, 0, 0, 0, 1], true, said)
}

fn message(server: &Server, kind: Kind, client: u8, address: Option<Ipv6Addr>) -> Message {
    let mut message = Message::new(kind, 7);
    message.client = Some(Duid::of_mac([2, 0, 0, 0, 1, client]));
    if matches!(kind, Kind::Request | Kind::Renew | Kind::Release | Kind::Decline) {
        message.server = Some(server.duid.clone());
    }
    let addresses =
        address.map(|address| IaAddress { address, preferred_s: 0, valid_s: 0 }).into_iter().collect();
    message.ias = vec![Ia { id: 1, addresses, ..Ia::default() }];
    message
}

fn ask(server: &mut Server, now: Instant, message: &Message) -> Option<Message> {
    let answer = Message::parse(&server.handle(now, &message.bytes())?).unwrap();
    assert_eq!((answer.id, &answer.client), (message.id, &message.client));
    assert_eq!(answer.server.as_ref(), Some(&server.duid));
    Some(answer)
}

fn get(server: &mut Server, now: Instant, client: u8) -> Option<Ipv6Addr> {
    let asked = message(server, Kind::Solicit, client, None);
    let offer = ask(server, now, &asked)?;
    assert_eq!((offer.kind, offer.preference), (Kind::Advertise, Some(255)));
    let Some(offered) = offer.ias[0].addresses.first() else {
        assert_eq!(offer.ias[0].status, Status::NO_ADDRESSES);
        return None;
    };
    let asked = message(server, Kind::Request, client, Some(offered.address));
    let reply = ask(server, now, &asked)?;
    assert_eq!((reply.kind, &reply.ias[0].addresses[0]), (Kind::Reply, offered));
    Some(offered.address)
}

#[test]
fn everybody_gets_an_address_and_keeps_it() {
    let (t0, mut server) = (start(), server("fd00::1/64", Said::default()));
    let (first, second) = (get(&mut server, t0, 1).unwrap(), get(&mut server, t0, 2).unwrap());
    assert!(first != second && (0x1000..0x2000).contains(&first.segments()[7]) && first.segments()[6] == 0);
    assert_eq!(get(&mut server, t0 + Duration::from_secs(90_000), 1), Some(first));
    // What is another's nobody gets, not even by asking for it.
    let theft = message(&server, Kind::Request, 3, Some(first));
    let reply = ask(&mut server, t0 + Duration::from_secs(90_000), &theft).unwrap();
    assert_ne!(reply.ias[0].addresses[0].address, first);
    let outside = message(&server, Kind::Request, 4, Some("fd01::1".parse().unwrap()));
    assert_eq!(ask(&mut server, t0, &outside).unwrap().ias[0].status, Status::NOT_ON_LINK);
}

#[test]
fn renewed_rebound_released_declined() {
    let (t0, mut server) = (start(), server("fd00::1/64", Said { lease_s: 100, ..Said::default() }));
    let address = get(&mut server, t0, 1).unwrap();
    for kind in [Kind::Renew, Kind::Rebind] {
        let asked = message(&server, kind, 1, Some(address));
        let reply = ask(&mut server, t0, &asked).unwrap();
        assert_eq!(reply.ias[0].addresses, [IaAddress { address, preferred_s: 100, valid_s: 100 }]);
        assert_eq!((reply.ias[0].renew_s, reply.ias[0].rebind_s), (50, 80));
    }
    // Another's, and one of another network, are over; one that was never given is not known.
    let asked = message(&server, Kind::Renew, 2, Some("fd01::1".parse().unwrap()));
    assert_eq!(ask(&mut server, t0, &asked).unwrap().ias[0].addresses[0].valid_s, 0);
    let asked = message(&server, Kind::Renew, 2, Some(address));
    assert_eq!(ask(&mut server, t0, &asked).unwrap().ias[0].status, Status::NO_BINDING);
    for (address, status) in [(address, Status::SUCCESS), ("fd01::1".parse().unwrap(), Status::NOT_ON_LINK)] {
        let asked = message(&server, Kind::Confirm, 1, Some(address));
        assert_eq!(ask(&mut server, t0, &asked).unwrap().status, status);
    }
    let asked = message(&server, Kind::Release, 1, Some(address));
    assert!(ask(&mut server, t0, &asked).unwrap().ias.is_empty());
    assert_eq!(ask(&mut server, t0, &asked).unwrap().ias[0].status, Status::NO_BINDING);
    assert_eq!(get(&mut server, t0, 1), Some(address));
    let asked = message(&server, Kind::Decline, 1, Some(address));
    ask(&mut server, t0, &asked).unwrap();
    assert_ne!(get(&mut server, t0, 1), Some(address));
}

#[test]
fn an_address_that_ran_out_is_given_again() {
    let (t0, mut server) = (start(), server("fd00::1/126", Said { lease_s: 100, ..Said::default() }));
    let given: Vec<_> = (0..2).map(|n| get(&mut server, t0, n).unwrap()).collect();
    assert_eq!(get(&mut server, t0, 9), None);
    assert_eq!(get(&mut server, t0 + Duration::from_secs(100), 9).map(|it| given.contains(&it)), Some(true));
}

#[test]
fn two_messages_are_enough() {
    let (t0, mut server) = (start(), server("fd00::1/64", Said::default()));
    let mut asked = message(&server, Kind::Solicit, 1, None);
    asked.rapid_commit = true;
    let reply = ask(&mut server, t0, &asked).unwrap();
    assert_eq!((reply.kind, reply.rapid_commit, server.len()), (Kind::Reply, true, 1));
}

#[test]
fn who_is_not_meant_says_nothing() {
    let (t0, mut server) = (start(), server("fd00::1/64", Said::default()));
    let mut other = message(&server, Kind::Request, 1, None);
    other.server = Some(Duid::of_mac([9; 6]));
    assert_eq!(ask(&mut server, t0, &other), None);
    let mut nobody = message(&server, Kind::Solicit, 1, None);
    nobody.client = None;
    assert_eq!(ask(&mut server, t0, &nobody), None);
    server.stateful = false;
    let asked = message(&server, Kind::Solicit, 1, None);
    assert_eq!(ask(&mut server, t0, &asked), None);
    let with_ia = message(&server, Kind::InformationRequest, 1, None);
    assert_eq!(ask(&mut server, t0, &with_ia), None);
}

#[test]
fn what_is_asked_for_is_told() {
    let said = Said {
        domain: Some("lan.example".into()),
        ntp: vec!["192.0.2.1".parse().unwrap(), "fd00::123".parse().unwrap()],
        ..Said::default()
    };
    let (t0, mut server) = (start(), server("fd00::1/64", said));
    server.stateful = false;
    let mut asked = Message::new(Kind::InformationRequest, 3);
    let reply = ask(&mut server, t0, &asked).unwrap();
    assert!(reply.nameservers.is_empty() && reply.domains.is_empty());
    asked.asked = vec![NAMESERVERS, DOMAINS, SNTP, NTP, REFRESH];
    let reply = ask(&mut server, t0, &asked).unwrap();
    let clock: Ipv6Addr = "fd00::123".parse().unwrap();
    assert_eq!(reply.nameservers, ["fd00::1".parse::<Ipv6Addr>().unwrap()]);
    assert_eq!(reply.domains, ["lan.example"]);
    assert_eq!((reply.sntp, reply.ntp, reply.refresh_s), (vec![clock], vec![clock], Some(43_200)));
}

#[test]
fn static_entries() {
    let fixed =
        ["02:00:00:00:01:01=fd00::7", "00:02:00:00:ab:11:08=fd00::8", "web=fd00::1010", "web=10.0.2.9"];
    let fixed = fixed.map(|text| text.parse().unwrap()).to_vec();
    let (t0, mut server) = (start(), server("fd00::1/64", Said { fixed, ..Said::default() }));
    assert_eq!(get(&mut server, t0, 1), Some("fd00::7".parse().unwrap()));
    let mut asked = message(&server, Kind::Solicit, 2, Some("fd00::7".parse().unwrap()));
    let given = |reply: Message| reply.ias[0].addresses[0].address.to_string();
    assert_ne!(given(ask(&mut server, t0, &asked).unwrap()), "fd00::7");
    asked.client = Some("00:02:00:00:ab:11:08".parse().unwrap());
    assert_eq!(given(ask(&mut server, t0, &asked).unwrap()), "fd00::8");
    asked.client = Some(Duid::of_mac([8; 6]));
    asked.name = Some("WEB".into());
    assert_eq!(given(ask(&mut server, t0, &asked).unwrap()), "fd00::1010");
    // Its second association cannot have the same.
    asked.rapid_commit = true;
    asked.ias.push(Ia { id: 2, ..Ia::default() });
    let reply = ask(&mut server, t0, &asked).unwrap();
    assert_ne!(reply.ias[0].addresses[0].address, reply.ias[1].addresses[0].address);
}

proptest! {
    #[test]
    fn no_two_have_one_address(acts in prop::collection::vec((0..12u8, 0..8u8, any::<bool>(), 0..20u64), 1..100)) {
        let (mut now, mut server) = (start(), server("fd00::1/124", Said::default()));
        for (client, act, rapid, hours) in acts {
            now += Duration::from_secs(hours * 3600);
            let own = server.bindings.iter().find(|((duid, _), _)| duid.as_bytes().ends_with(&[client]));
            let own = own.map(|(_, (address, _))| *address);
            let kind = [Kind::Solicit, Kind::Request, Kind::Renew, Kind::Rebind, Kind::Release, Kind::Decline];
            match kind.get(usize::from(act)) {
                Some(kind) => {
                    let mut asked = message(&server, *kind, client, own);
                    asked.rapid_commit = rapid;
                    let _ = ask(&mut server, now, &asked);
                }
                None => drop(get(&mut server, now, client)),
            }
            let mut seen = std::collections::BTreeSet::new();
            prop_assert!(server.bindings.values().all(|(address, _)| seen.insert(*address)));
            prop_assert!(server.bindings.iter().all(|(key, (address, _))| server.addresses[address].as_ref() == Some(key)));
            prop_assert!(server.addresses.len() <= 8);
        }
    }

    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(server("fd00::1/64", Said::default()).handle(start(), &bytes));
    }
}

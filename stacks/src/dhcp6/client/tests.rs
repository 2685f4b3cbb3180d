//! A client with a server of ours, whose messages are lost now and then; and one that hears anything.

use proptest::prelude::*;

use super::*;
use crate::dhcp6::server::Server;
use crate::gateway::dhcp::Said;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn server(stateful: bool, lease_s: u32) -> Server {
    let said = Said { lease_s, ..Said::default() };
    Server::new("fd00::1/64".parse().unwrap(), [2, 0, 0, 0, 0, 1], stateful, said)
}

/// Lets them talk until the client has nothing to say, or `until`; the changes, and when they came.
fn talk(
    client: &mut Client,
    server: &mut Server,
    mut now: Instant,
    until: Instant,
) -> Vec<(Instant, Change)> {
    let mut changes = Vec::new();
    while let Some(at) = client.poll_timeout().filter(|at| *at <= until) {
        now = now.max(at);
        let (change, mut message) = client.handle_timeout(now);
        changes.extend(change.map(|it| (now, it)));
        while let Some(asked) = message.take() {
            let Some(answer) = server.handle(now, &asked) else { break };
            let (change, next) = client.handle_message(now, &answer);
            changes.extend(change.map(|it| (now, it)));
            message = next;
        }
    }
    changes
}

#[test]
fn an_address_is_had_and_kept() {
    let (t0, mut server) = (start(), server(true, 100));
    let mut client = Client::new(t0, MAC, 1, Wish::Address, Some("web"));
    let changes = talk(&mut client, &mut server, t0, t0);
    let [(_, Change::Got(None, lease))] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((lease.valid_s, lease.renew_s, lease.rebind_s, server.len()), (100, 50, 80, 1));
    assert_eq!(client.nameservers(), ["fd00::1".parse::<Ipv6Addr>().unwrap()]);
    assert!(!client.asks());
    let later = t0 + Duration::from_secs(1000);
    let changes = talk(&mut client, &mut server, t0, later);
    let same = |it: &Change| matches!(it, Change::Got(Some(old), new) if old.address == new.address);
    assert!(changes.len() >= 19 && changes.iter().all(|(_, it)| same(it)), "{changes:?}");
    assert!(client.left(later).unwrap() >= Duration::from_secs(50));
    let release = client.release(later).unwrap();
    assert!(server.handle(later, &release).is_some());
    assert_eq!((server.len(), client.poll_timeout()), (0, None));
}

#[test]
fn a_lease_that_nobody_renews_ends() {
    let (t0, mut there) = (start(), server(true, 100));
    let mut client = Client::new(t0, MAC, 1, Wish::Address, None);
    talk(&mut client, &mut there, t0, t0);
    let mut away = server(false, 100);
    let changes = talk(&mut client, &mut away, t0, t0 + Duration::from_secs(200));
    let [(at, Change::Lost(lease))] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((*at, lease.valid_s), (t0 + Duration::from_secs(100), 100));
    assert!(client.asks() && client.lease().is_none());
    // A server that comes back has another one, or the same.
    let changes = talk(&mut client, &mut there, *at, t0 + Duration::from_secs(400));
    assert!(matches!(changes[0].1, Change::Got(None, _)), "{changes:?}");
}

#[test]
fn a_server_that_forgot_gives_it_again() {
    let (t0, mut first) = (start(), server(true, 100));
    let mut client = Client::new(t0, MAC, 1, Wish::Address, None);
    talk(&mut client, &mut first, t0, t0);
    let address = client.lease().unwrap().address;
    let mut second = server(true, 100);
    let changes = talk(&mut client, &mut second, t0, t0 + Duration::from_secs(60));
    assert!(
        matches!(&changes[..], [(_, Change::Got(Some(_), new))] if new.address == address),
        "{changes:?}"
    );
}

#[test]
fn names_alone() {
    let (t0, mut server) = (start(), server(false, 100));
    let mut client = Client::new(t0, MAC, 1, Wish::Names, None);
    assert!(talk(&mut client, &mut server, t0, t0).is_empty());
    assert_eq!(client.nameservers(), ["fd00::1".parse::<Ipv6Addr>().unwrap()]);
    // It asks again, but not too soon.
    assert_eq!(client.poll_timeout(), Some(t0 + Duration::from_secs(600)));
}

#[test]
fn questions_become_rarer() {
    let t0 = start();
    let mut client = Client::new(t0, MAC, 1, Wish::Address, None);
    let (mut now, mut waits) = (t0, Vec::new());
    for _ in 0..15 {
        assert!(client.handle_timeout(now).1.is_some());
        let next = client.poll_timeout().unwrap();
        waits.push(next - now);
        now = next;
    }
    assert!(waits[0] < Duration::from_millis(1101) && waits[14] > Duration::from_secs(3200), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(3960)));
}

proptest! {
    #[test]
    fn loss_does_no_harm(lost in prop::collection::vec(any::<bool>(), 1..200), lease_s in 8..300u32) {
        let (t0, mut server) = (start(), server(true, lease_s));
        let mut client = Client::new(t0, MAC, 1, Wish::Address, None);
        let mut now = t0;
        for lost in lost {
            let Some(at) = client.poll_timeout() else { break };
            prop_assert!(at >= now);
            now = at;
            let mut message = client.handle_timeout(now).1;
            while let Some(answer) = message.take().filter(|_| !lost).and_then(|it| server.handle(now, &it)) {
                message = client.handle_message(now, &answer).1;
            }
            prop_assert!(client.lease().is_none() || client.left(now) > Some(Duration::ZERO));
            prop_assert!(client.poll_timeout().is_some_and(|next| next > now));
        }
        talk(&mut client, &mut server, now, now + Duration::from_secs(4000));
        prop_assert!(client.lease().is_some() && server.len() == 1);
    }

    #[test]
    fn anything_may_come(
        messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80), any::<[u32; 5]>(), 0..7u8), 0..20)
    ) {
        let mut now = start();
        let mut client = Client::new(now, MAC, 1, Wish::Address, None);
        for (junk, [renew_s, rebind_s, valid_s, preferred_s, later], status) in messages {
            now += Duration::from_secs((later % 1000).into());
            client.handle_timeout(now);
            client.handle_message(now, &junk);
            let mut said = Message::new(if later % 2 == 0 { Kind::Reply } else { Kind::Advertise }, client.id);
            said.client = Some(client.duid.clone());
            said.server = Some(Duid::of_mac([9; 6]));
            said.rapid_commit = later % 3 == 0;
            let address = "fd00::7".parse().unwrap();
            let addresses = vec![IaAddress { address, preferred_s: preferred_s.min(valid_s), valid_s }];
            said.ias = vec![Ia { id: client.ia, renew_s, rebind_s, addresses, status: Status((status / 2).into()) }];
            client.handle_message(now, &said.bytes());
            prop_assert!(client.poll_timeout().is_none_or(|at| at >= now));
        }
    }
}

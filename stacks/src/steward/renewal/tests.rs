//! A client that renews, and the server of the gateway.

use proptest::prelude::*;

use super::*;
use crate::gateway::dhcp::{Leases, Said};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

#[expect(clippy::disallowed_methods, reason = "any moment will do")]
fn now() -> Instant {
    Instant::now()
}

fn server(text: &str) -> Leases {
    Leases::new(text.parse().unwrap(), Said::default())
}

fn lease(ip: &str, server: &str) -> Lease {
    let ip = ip.parse().unwrap();
    let server: Ipv4Addr = server.parse().unwrap();
    Lease { ip, router: Some(server), server, seconds: 12 * 3600, host: None }
}

/// Lets the client and a server talk until `until`; the server's own word goes to the client. What changed.
fn run(client: &mut Renewal, server: Option<&mut Leases>, until: Instant) -> Vec<Change> {
    let (mut changes, mut server) = (Vec::new(), server);
    while client.poll_timeout() <= until {
        let now = client.poll_timeout();
        let (change, mut message) = client.handle_timeout(now);
        changes.extend(change);
        while let Some(asked) = message.take() {
            let Some(answer) = server.as_mut().and_then(|server| server.handle(now, &asked.bytes)) else {
                break;
            };
            let (change, next) = client.handle_message(now, &answer.bytes);
            changes.extend(change);
            message = next;
        }
    }
    changes
}

#[test]
fn a_lease_is_renewed_for_ever() {
    let began = now();
    let mut gateway = server("10.0.2.1/24");
    let mut client = Renewal::new(began, MAC, 1, lease("10.0.2.140/24", "10.0.2.1"));
    let until = began + Duration::from_secs(40 * 24 * 3600);
    assert_eq!(run(&mut client, Some(&mut gateway), until), []);
    assert!(client.left(until).unwrap() >= Duration::from_secs(6 * 3600) && !client.asks());
    assert_eq!(gateway.len(), 1);
}

#[test]
fn the_server_is_asked_first_then_everybody_then_the_lease_is_over() {
    let began = now();
    let mut client = Renewal::new(began, MAC, 1, lease("10.0.2.140/24", "10.0.2.1"));
    let (mut asked, mut lost) = (Vec::new(), None);
    while lost.is_none() {
        let at = client.poll_timeout();
        let (change, message) = client.handle_timeout(at);
        asked.push((at - began, message.unwrap().to.ip().to_string()));
        lost = change.map(|change| (at - began, change));
    }
    let hours = |hours: f64| Duration::from_secs_f64(hours * 3600.0);
    assert_eq!(asked[0], (hours(6.0), "10.0.2.1".into()));
    assert_eq!(lost, Some((hours(12.0), Change::Lost(lease("10.0.2.140/24", "10.0.2.1")))));
    let first = asked.iter().position(|(_, to)| to == "255.255.255.255").unwrap();
    assert!(asked[first].0 >= hours(10.5) && first > 1 && asked.len() - first > 2, "{asked:?}");
    assert!(asked.windows(2).all(|two| two[1].0 - two[0].0 >= Duration::from_secs(1)), "{asked:?}");
    assert!(client.left(began).is_none());
    // Nobody is there for a day: it asks about once a minute.
    let until = client.poll_timeout() + hours(1.0);
    assert_eq!(run(&mut client, None, until), []);
    let found = run(&mut client, Some(&mut server("10.0.2.1/24")), until + LAST);
    assert_eq!(found, [Change::Got(None, lease("10.0.2.140/24", "10.0.2.1"))]);
}

#[test]
fn another_network_gives_another_address() {
    let began = now();
    let mut client = Renewal::new(began, MAC, 1, lease("10.0.2.140/24", "10.0.2.1"));
    let mut other = server("10.9.0.1/24");
    let changes = run(&mut client, Some(&mut other), began + Duration::from_secs(6 * 3600 + 1));
    let [Change::Lost(old), Change::Got(None, new)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(*old, lease("10.0.2.140/24", "10.0.2.1"));
    assert_eq!((new.server, new.router), (Ipv4Addr::new(10, 9, 0, 1), Some(Ipv4Addr::new(10, 9, 0, 1))));
}

proptest! {
    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..400), seconds: u32, waits in 0u64..100_000) {
        let began = now();
        let mut client = Renewal::new(began, MAC, 1, Lease { seconds, ..lease("10.0.2.140/24", "10.0.2.1") });
        let later = began + Duration::from_secs(waits);
        for _ in 0..10 {
            let _ = client.handle_timeout(later);
            let _ = client.handle_message(later, &bytes);
        }
        prop_assert!(client.poll_timeout() > later || client.since.is_none() && client.asks());
    }
}

//! What comes to a gateway, and to stacks, from their network and from files: DHCP, DHCPv6, DNS, router advertisements, rules, published ports, resolv.conf,
//! proc_net(5), what a proxy says.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use stacks::autoconf::Asker;
use stacks::config::{Auto, Mac};
use stacks::dhcp6::client::{Client, Wish};
use stacks::dhcp6::server::Server;
use stacks::dhcp6::{Duid, Message};
use stacks::gateway::advertise::Advertisement;
use stacks::gateway::dhcp::{Fixed, Leases, Said};
use stacks::gateway::policy::Destinations;
use stacks::gateway::proxy::{self, Credentials, Handshake, Head, Host, MAX_HEAD, Protocol, Via};
use stacks::gateway::publish::{self, Publish};
use stacks::gateway::standins::StandIns;
use stacks::gateway::{names, nat64};
use stacks::steward::renewal::{Lease, Renewal};

fuzz_target!(|messages: Vec<Vec<u8>>| {
    let mut now = Instant::now();
    let mut leases = Leases::new("10.0.2.1/26".parse().expect("constant"), Said::default());
    let mut asker = Asker::new(now, [2, 0, 0, 0, 0, 1], 0, Auto::All, "web");
    let lease = Lease {
        ip: "10.0.2.40/26".parse().expect("constant"),
        router: None,
        server: "10.0.2.1".parse().expect("constant"),
        seconds: 60,
        host: None,
    };
    let mut renewal = Renewal::new(now, Mac([2, 0, 0, 0, 0, 1]), 0, lease);
    let network = "fd00::1/124".parse().expect("constant");
    let mut server = Server::new(network, [2, 0, 0, 0, 0, 2], true, Said::default());
    let mut clients = [Wish::Address, Wish::Names]
        .map(|wish| Client::new(now, Mac([2, 0, 0, 0, 0, 1]), 0, wish, Some("web")));
    let mut stand_ins = StandIns::new(4);
    let credentials: Credentials = "user:password".parse().expect("constant");
    let asked =
        |protocol| Handshake::new(protocol, Some(&credentials), proxy::Wish::Connect(Host::Name("a.example"), 80));
    let mut handshakes = [asked(Protocol::Socks5), asked(Protocol::Http)];
    for message in &messages {
        for handshake in &mut handshakes {
            handshake.sent(usize::MAX);
            assert!(handshake.handle(message) <= message.len());
        }
        if let Some((head, at)) = Head::read(message) {
            let mut again = [0; MAX_HEAD];
            assert_eq!((head.write(&mut again), &again[..at]), (at, &message[..at]));
        }
        if let Some((name, _)) = names::host(message)
            && let Some((v4, v6)) = stand_ins.give(&name)
        {
            assert_eq!(stand_ins.name(v4.into()), Some(&*name));
            assert_eq!(stand_ins.name(v6.into()), Some(&*name));
        }
        now += Duration::from_secs(message.len() as u64);
        if let Some(answer) = leases.handle(now, message) {
            // A server's answer is no question.
            assert!(leases.handle(now, &answer.bytes).is_none());
        }
        assert!(leases.len() <= 32);
        if let Some(question) = names::question(message) {
            let answer = names::answer(message, &names::Answer::Name("web".into()));
            assert!(answer.is_some(), "{question:?} has no answer");
        }
        let _ = Advertisement::parse(message).map(|said| (said.address([2, 0, 0, 0, 0, 1]), said.nameserver()));
        dhcp6(now, message, &mut server, &mut clients);
        if let Some(asked) = nat64::as_v4(message) {
            assert_eq!(asked.len(), message.len());
        }
        if let Some(told) = nat64::as_v6(message, 512) {
            // Nothing in it is a question for IPv4 any more.
            assert!(nat64::as_v6(&told, 512).is_none());
        }
        let _ = renewal.handle_timeout(now);
        let _ = renewal.handle_message(now, message);
        asker.handle_timeout(now);
        while asker.poll_transmit().is_some() {}
        asker.handle_frame(now, message);
        if let Ok(text) = std::str::from_utf8(message) {
            let _ = names::nameservers(text);
            let _ = publish::listening(text, &[]);
            if let Ok(ports) = text.parse::<Publish>() {
                assert_eq!(ports.to_string().parse(), Ok(ports));
            }
            if let Ok(via) = text.parse::<Via>() {
                assert_eq!(via.to_string().parse(), Ok(via));
            }
            let _ = text.parse::<Credentials>();
            if let Ok(fixed) = text.parse::<Fixed>() {
                assert_eq!(fixed.to_string().parse(), Ok(fixed));
            }
            if let Ok(destinations) = text.parse::<Destinations>() {
                assert_eq!(destinations.to_string().parse(), Ok(destinations));
            }
        }
    }
});

/// A message as it came, and as one that the clients have asked for.
fn dhcp6(now: Instant, message: &[u8], server: &mut Server, clients: &mut [Client; 2]) {
    if let Some(read) = Message::parse(message) {
        assert_eq!(Message::parse(&read.bytes()), Some(read));
    }
    if let Some(answer) = server.handle(now, message) {
        // A server's answer is no question.
        assert!(server.handle(now, &answer).is_none());
    }
    for client in &mut *clients {
        let (_, asked) = client.handle_timeout(now);
        if let (Some(asked), Some(mut said)) = (asked.and_then(|it| Message::parse(&it)), Message::parse(message)) {
            (said.id, said.client) = (asked.id, asked.client);
            said.server.get_or_insert(Duid::of_mac([2, 0, 0, 0, 0, 2]));
            for (ia, own) in said.ias.iter_mut().zip(&asked.ias) {
                ia.id = own.id;
            }
            if let (_, Some(next)) = client.handle_message(now, &said.bytes()) {
                let _ = server.handle(now, &next);
            }
        }
        assert!(client.poll_timeout().is_none_or(|at| at >= now));
    }
    assert!(server.len() <= 8);
}

//! What comes to a gateway from its network and from files: DHCP, DNS, router advertisements, rules, published ports, resolv.conf,
//! proc_net(5), what a proxy says.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use stacks::autoconf::Asker;
use stacks::config::{Auto, Mac};
use stacks::gateway::dhcp::{Fixed, Leases, Said};
use stacks::gateway::policy::Destinations;
use stacks::gateway::proxy::{Credentials, Handshake, Head, Host, MAX_HEAD, Protocol, Via, Wish};
use stacks::gateway::publish::{self, Publish};
use stacks::gateway::standins::StandIns;
use stacks::gateway::{advertise, names, nat64};
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
    let mut stand_ins = StandIns::new(4);
    let credentials: Credentials = "user:password".parse().expect("constant");
    let asked =
        |protocol| Handshake::new(protocol, Some(&credentials), Wish::Connect(Host::Name("a.example"), 80));
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
        let _ = (advertise::network(message), advertise::nameserver(message));
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
        asker.handle_frame(message);
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

//! What comes to a gateway from its network and from files: DHCP, DNS, router advertisements, rules, published ports, resolv.conf,
//! proc_net(5), what a proxy says.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use stacks::autoconf::Asker;
use stacks::config::Auto;
use stacks::gateway::dhcp::Leases;
use stacks::gateway::policy::Destinations;
use stacks::gateway::proxy::{Credentials, Handshake, Head, Host, MAX_HEAD, Protocol, Via, Wish};
use stacks::gateway::publish::{self, Publish};
use stacks::gateway::standins::StandIns;
use stacks::gateway::{advertise, names};

fuzz_target!(|messages: Vec<Vec<u8>>| {
    let mut now = Instant::now();
    let mut leases = Leases::new("10.0.2.1/26".parse().expect("constant"));
    let mut asker = Asker::new(now, [2, 0, 0, 0, 0, 1], 0, Auto::All);
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
        let _ = advertise::network(message);
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
            if let Ok(destinations) = text.parse::<Destinations>() {
                assert_eq!(destinations.to_string().parse(), Ok(destinations));
            }
        }
    }
});

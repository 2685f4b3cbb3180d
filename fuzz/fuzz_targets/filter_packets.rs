//! Packets before a packet filter: any bytes behind a plausible header, any rules of some, any order of hooks.
//! Addresses that are replaced are so in the packet, and only what a packet has is written.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stacks::filter::{Ends, Filter, Hook, Ruleset, Verdict, View};

const RULES: [&str; 6] = [
    "default input drop\ninput: state established,related accept\ninput: proto icmpv6 accept",
    "postrouting: snat to 10.0.0.1\npostrouting: snat to fd00::1",
    "prerouting: dnat to 10.0.0.9\nprerouting: proto tcp dport 0-40000 dnat to [fd00::9]:7-9\noutput: dnat to 10.0.0.8",
    "postrouting: proto udp snat to 10.0.0.1:5-6\npostrouting: proto tcp snat to [fd00::1]:5-6",
    "input: state invalid reject\nforward: state new limit 2/s reject\nforward: log",
    "output: proto icmp type 3 drop\noutput: proto sctp dport 5 log \"x\" count",
];

#[derive(Debug, Arbitrary)]
struct Input {
    rules: u8,
    packets: Vec<Packet>,
}

#[derive(Debug, Arbitrary)]
struct Packet {
    v4: bool,
    /// Few addresses, so that packets meet.
    ends: (u8, u8),
    protocol: u8,
    way: u8,
    partial: bool,
    split: bool,
    passed: u16,
    upper: Vec<u8>,
}

impl Packet {
    fn head(&self) -> Vec<u8> {
        let protocol = [1, 6, 17, 58, 132, 0, 43, 44][usize::from(self.protocol % 8)];
        let (from, to) = (self.ends.0 % 4, self.ends.1 % 4);
        if self.v4 {
            let mut head = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, from, 10, 0, 0, to];
            if self.protocol > 200 {
                head[7] = self.protocol;
            }
            return head;
        }
        let mut head = vec![0; 40];
        (head[0], head[6], head[7]) = (0x60, protocol, 64);
        (head[8], head[23], head[24], head[39]) = (0xfd, from, 0xfd, to);
        head
    }
}

fuzz_target!(|input: Input| {
    let texts = RULES.iter().enumerate().filter(|(at, _)| input.rules >> at & 1 == 1);
    let text = texts.map(|(_, text)| *text).collect::<Vec<_>>().join("\n");
    let rules = Ruleset::parse(&text).expect("constant");
    let mut filter = Filter::new(&rules, [1, 2, 3, 4]);
    let mut now = Instant::now();
    for packet in &input.packets {
        now += Duration::from_secs(packet.passed.into());
        let mut head = packet.head();
        let mut upper = packet.upper.clone();
        if !packet.split {
            head.append(&mut upper);
        }
        let hooks: &[Hook] = match packet.way % 3 {
            0 => &[Hook::Prerouting, Hook::Input],
            1 => &[Hook::Output, Hook::Postrouting],
            _ => &[Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        };
        let mut tracked = None;
        let len = head.len() + upper.len();
        for hook in hooks {
            let Some(view) = View::new([&head, &upper]) else { break };
            let at = view.head;
            match filter.judge(now, *hook, &view, Ends { arrives: "eth0", leaves: "eth1" }, &mut tracked) {
                Verdict::Accept => {}
                Verdict::Translate(rewrite) => {
                    let mut whole = [head.as_slice(), &upper].concat();
                    let (front, back) = whole.split_at_mut(at);
                    rewrite.apply(front, back, packet.partial);
                    let after = View::new([&whole, &[]]).expect("still a packet");
                    if let Some((address, _)) = rewrite.source {
                        assert_eq!(after.source, address);
                    }
                    if let Some((address, _)) = rewrite.destination {
                        assert_eq!(after.destination, address);
                    }
                    (head, upper) = (whole, Vec::new());
                }
                Verdict::Drop => break,
                Verdict::Reject => {
                    if let Some(tracked) = &tracked {
                        filter.forget(tracked);
                    }
                    break;
                }
            }
        }
        assert_eq!(head.len() + upper.len(), len);
    }
    assert!(filter.listing().flows <= input.packets.len());
});

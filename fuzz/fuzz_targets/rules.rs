//! Rules of a view: any text, and any destination. None may panic; what is accepted is the same after it was
//! printed and read again, and only stacks that it names are chosen.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use rules::{Destination, Rules, Target, Transport};

#[allow(dead_code, reason = "a part of the command, which is no library")]
#[path = "../../viewnet/src/rules.rs"]
mod rules;

fuzz_target!(|input: (Vec<String>, IpAddr, Option<u16>, Option<bool>)| {
    let (texts, address, port, tcp) = input;
    let Ok(rules) = Rules::try_from(texts) else { return };
    let again = Rules::try_from(Vec::from(rules.clone())).expect("what was printed is read");
    assert_eq!(rules, again);
    let transport = tcp.map(|tcp| if tcp { Transport::Tcp } else { Transport::Udp });
    let destination = Destination { address, port, transport };
    for target in [Some(rules.decide(&destination)), rules.decide_bind(&destination)] {
        if let Some(Target::Stack(place)) = target {
            assert!(place < rules.stacks().len());
        }
    }
});

//! The management console: any bytes in any pieces, from a peer who may change everything. No panic, no unbounded
//! memory, every command answered, and the switch's tables stay whole.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use switch::console::{After, Context, Identity, MAX_INPUT, Ports, Reserved, Session, run};
use switch::port::{MAX_PORTS, Offloads, PortId};
use switch::switch::Switch;
use switch::vlan::PortVlans;

struct Bare;

impl Ports for Bare {
    fn kind(&self, _: PortId) -> &'static str {
        "tap"
    }

    fn remove(&mut self, switch: &mut Switch, port: PortId) {
        switch.remove_port(port);
    }
}

fuzz_target!(|pieces: Vec<&[u8]>| {
    let now = Instant::now();
    let mut switch = Switch::new(Duration::from_secs(300));
    for name in ["a", "b", "c"] {
        switch.add_port(name, PortVlans::default(), Offloads::NONE).expect("a new switch has room");
    }
    let identity = Identity {
        version: "0",
        pid: 1,
        started: now,
        socket: "/s".into(),
        mode: 0o600,
        mgmt: "/m".into(),
        mgmt_mode: 0o600,
    };
    let mut reserved = Reserved::new();
    let mut greeting = String::new();
    let mut session = Session::begin(&identity, &mut greeting);
    for piece in pieces {
        session.handle_input(&piece[..piece.len().min(session.room())]);
        assert!(session.room() <= MAX_INPUT);
        while let Some(line) = session.next() {
            let mut out = String::new();
            let mut context =
                Context { now, switch: &mut switch, ports: &mut Bare, reserved: &mut reserved, identity: &identity };
            let after = run(&mut context, &line, &mut out);
            let last = out.lines().last();
            assert!(last.is_none_or(|last| last.starts_with('1')), "{line:?}: {out}");
            assert!(after == After::Prompt || out.is_empty());
        }
    }
    assert!(reserved.len() <= MAX_PORTS);
    for (_, port) in switch.ports() {
        assert!(port.vlans.pvid().is_some(), "the console makes no port without a VLAN");
    }
});

//! The management console: any bytes in any pieces, from a peer who may change everything. No panic, no unbounded
//! memory, every command answered, and the switch's tables stay whole.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use switch::console::{
    After, Categories, Context, Debugger, Endpoint, Identity, MAX_INPUT, Memory, Ports, Session, Who, run,
};
use switch::port::{MAX_PORTS, Offloads, PortId};
use switch::switch::Switch;
use switch::vlan::PortVlans;

struct Bare;

impl Ports for Bare {
    fn endpoints(&self, _: PortId) -> Vec<Endpoint> {
        vec![Endpoint { number: 1, module: "tuntap", description: "here".into() }]
    }

    fn user(&self, port: PortId) -> Option<u32> {
        (port.index() == 0).then_some(7)
    }

    fn close(&mut self, switch: &mut Switch, port: PortId, endpoint: u32) -> bool {
        endpoint == 1 && switch.remove_port(port).is_some()
    }

    fn tree_changed(&mut self, _: Instant, _: &mut Switch) {}

    fn find(&self, who: Who<&str>) -> Option<u32> {
        (who == Who::User("me")).then_some(7)
    }

    fn name(&self, _: Who<u32>) -> Option<String> {
        None
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
        vde: None,
        mgmt: "/m".into(),
        mgmt_mode: 0o600,
    };
    let (mut memory, mut categories) = (Memory::default(), Categories::default());
    let mut debugger = Debugger::new(&switch);
    switch.events_mut().listen(true);
    let mut greeting = String::new();
    let mut session = Session::begin(&identity, &mut greeting);
    for piece in pieces {
        session.handle_input(&piece[..piece.len().min(session.room())]);
        assert!(session.room() <= MAX_INPUT);
        while let Some(line) = session.next() {
            let mut out = String::new();
            let mut context = Context {
                now,
                switch: &mut switch,
                ports: &mut Bare,
                memory: &mut memory,
                categories: &mut categories,
                identity: &identity,
            };
            let after = run(&mut context, &line, &mut out);
            let last = out.lines().last();
            assert!(last.is_none_or(|last| last.starts_with('1')), "{line:?}: {out}");
            assert!(after == After::Prompt || out.is_empty());
            for event in switch.events_mut().take() {
                debugger.tell(&event, &switch).into_iter().flatten().for_each(|told| assert!(told.text.ends_with('\n')));
            }
        }
    }
    assert!(switch.places().count() <= MAX_PORTS);
});

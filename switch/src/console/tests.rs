//! The console without a socket.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::port::Offloads;
use crate::vlan::{PortVlans, Vid};
use std::time::Duration;

/// Ports without descriptors.
struct Bare;

impl Ports for Bare {
    fn endpoints(&self, port: PortId) -> Vec<Endpoint> {
        let description = format!("end of {}", port.index() + 1);
        vec![Endpoint { number: 1, module: "tuntap", description }]
    }

    fn user(&self, port: PortId) -> Option<u32> {
        (port.index() == 0).then_some(7)
    }

    fn close(&mut self, switch: &mut Switch, port: PortId, endpoint: u32) -> bool {
        endpoint == 1 && switch.remove_port(port).is_some()
    }

    fn tree_changed(&mut self, _: Instant, _: &mut Switch) {}

    fn find(&self, who: Who<&str>) -> Option<u32> {
        [Who::User("me"), Who::Group("us")].contains(&who).then_some(7)
    }

    fn name(&self, who: Who<u32>) -> Option<String> {
        match who {
            Who::User(7) => Some("me".to_owned()),
            Who::Group(7) => Some("us".to_owned()),
            _ => None,
        }
    }
}

struct Desk {
    now: Instant,
    switch: Switch,
    memory: Memory,
    categories: Categories,
    identity: Identity,
}

impl Desk {
    #[expect(clippy::disallowed_methods, reason = "a test's start of time")]
    fn new() -> Self {
        let now = Instant::now();
        let mut switch = Switch::new(Duration::from_secs(300));
        for name in ["a", "b"] {
            switch.add_port(name, PortVlans::default(), Offloads::NONE).unwrap();
        }
        let identity = Identity {
            version: "0",
            pid: 7,
            started: now,
            socket: "/s".into(),
            mode: 0o600,
            vde: None,
            mgmt: "/m".into(),
            mgmt_mode: 0o600,
        };
        Self { now, switch, memory: Memory::default(), categories: Categories::default(), identity }
    }

    fn run(&mut self, line: &str) -> (After, String) {
        let Self { now, switch, memory, categories, identity } = self;
        let mut out = String::new();
        let mut context = Context { now: *now, switch, ports: &mut Bare, memory, categories, identity };
        (run(&mut context, line, &mut out), out)
    }

    /// The last line of the answer.
    fn code(&mut self, line: &str) -> String {
        let (after, out) = self.run(line);
        assert_eq!(after, After::Prompt);
        out.lines().last().unwrap_or_default().to_owned()
    }

    fn rules(&self, port: u32) -> String {
        self.switch.port(PortId::new(port - 1)).unwrap().vlans.to_string()
    }
}

#[test]
fn answers_have_vdes_form() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.run("port/showinfo").1,
        "0000 DATA END WITH '.'\nNumports=8192\nHUB=false\ncounters=true\n.\n1000 Success\n"
    );
    assert_eq!(desk.run("bogus").1, "1038 Function not implemented\n");
    assert_eq!(desk.run("port").1, "1038 Function not implemented\n");
    assert_eq!(desk.run("  # remark"), (After::Prompt, String::new()));
    assert_eq!(desk.run("logout"), (After::Logout, String::new()));
    assert_eq!(desk.run("\tshutdown "), (After::Shutdown, String::new()));
    assert_eq!(desk.run("load /etc/x "), (After::Load("/etc/x".into()), String::new()));
    let text = desk.run("port/print 2").1;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "Port 0002 untagged_vlan=0000 ACTIVE - Unnamed Allocatable");
    assert_eq!(lines[3], " IN:  pkts          0          bytes                    0");
    assert_eq!(lines[5], "  -- endpoint ID 0001 module tuntap      : end of 2");
}

#[test]
fn vlans_follow_the_commands() {
    let mut desk = Desk::new();
    let table = [
        ("port/setvlan 1 10", "1006 No such device or address"),
        ("vlan/create 10", "1000 Success"),
        ("vlan/create 10", "1017 File exists"),
        ("vlan/create 1", "1022 Invalid argument"),
        ("vlan/create 4095", "1022 Invalid argument"),
        ("vlan/create 0x14", "1022 Invalid argument"),
        ("vlan/create 20", "1000 Success"),
        ("port/setvlan 1 10", "1000 Success"),
        ("vlan/addport 20 1", "1000 Success"),
        ("vlan/addport 0x14 02", "1000 Success"),
        ("vlan/delport 10 1", "1098 Address already in use"),
        ("vlan/remove 20", "1098 Address already in use"),
        ("vlan/remove 0", "1098 Address already in use"),
        ("port/setvlan 9999 10", "1022 Invalid argument"),
        ("port/setvlan 3 10", "1006 No such device or address"),
        ("port/setvlan 1", "1022 Invalid argument"),
    ];
    for (line, expected) in table {
        assert_eq!(desk.code(line), expected, "{line}");
    }
    assert_eq!(
        (desk.rules(1), desk.rules(2)),
        ("trunk 10,20 native 10".into(), "trunk 1,20 native 1".into())
    );
    let text = desk.run("vlan/print").1;
    let expected = "0000 DATA END WITH '.'\nVLAN 0000\n -- Port 0002 tagged=0 active=1 status=Forwarding\nVLAN 0010\n \
                    -- Port 0001 tagged=0 active=1 status=Forwarding\nVLAN 0020\n -- Port 0001 tagged=1 active=1 \
                    status=Forwarding\n -- Port 0002 tagged=1 active=1 status=Forwarding\n.\n1000 Success\n";
    assert_eq!(text, expected);
    assert_eq!(desk.code("vlan/delport 20 1"), "1000 Success");
    assert_eq!(desk.code("vlan/delport 20 2"), "1000 Success");
    assert_eq!((desk.rules(1), desk.rules(2)), ("access 10".into(), "access 1".into()));
    assert_eq!(desk.code("vlan/remove 20"), "1000 Success");
    assert_eq!(desk.switch.vlan_name(Vid::new(20).unwrap()), None);
}

#[test]
fn ports_are_created_closed_and_counted() {
    let mut desk = Desk::new();
    let table = [
        ("port/create 1", "1017 File exists"),
        ("port/create 7", "1000 Success"),
        ("port/create 7", "1017 File exists"),
        ("port/create 0", "1022 Invalid argument"),
        ("vlan/create 5", "1000 Success"),
        ("port/setvlan 7 5", "1000 Success"),
        ("vlan/addport 0 7", "1000 Success"),
        ("port/print 7", "1006 No such device or address"),
        ("port/allprint 7", "1000 Success"),
        ("vlan/remove 5", "1098 Address already in use"),
        ("port/setnumports 3", "1098 Address already in use"),
        ("port/setnumports 32", "1000 Success"),
        ("port/remove 1", "1098 Address already in use"),
        ("port/epclose 1 4", "1006 No such device or address"),
        ("port/epclose 1 1", "1000 Success"),
        ("port/resetcounter", "1000 Success"),
        ("hash/setexpire 60", "1000 Success"),
        ("hash/setexpire 0", "1022 Invalid argument"),
        ("hash/find 02:00:00:00:00:01", "1019 No such device"),
        ("hash/find 02:00", "1022 Invalid argument"),
    ];
    for (line, expected) in table {
        assert_eq!(desk.code(line), expected, "{line}");
    }
    assert!(desk.run("vlan/allprint 5").1.contains(" -- Port 0007 tagged=0 active=0 status=Learning\n"));
    assert!(
        desk.run("port/allprint")
            .1
            .contains("Port 0007 untagged_vlan=0005 INACTIVE - NOT Unnamed Allocatable\n")
    );
    assert!(desk.run("port/createauto").1.contains("\nPort 0001\n"));
    assert_eq!(desk.code("port/remove 7"), "1000 Success");
    assert_eq!(desk.switch.port_count(), 1);
    assert_eq!(desk.switch.fdb().age(), Duration::from_secs(60));
}

#[test]
fn ports_are_for_some() {
    let mut desk = Desk::new();
    let table = [
        ("port/create 3", "1000 Success"),
        ("port/setuser 3 me", "1000 Success"),
        ("port/setgroup 3  us", "1000 Success"),
        ("port/setuser 3 nobody", "1022 Invalid argument"),
        ("port/setuser 3", "1022 Invalid argument"),
        ("port/setuser 9 me", "1006 No such device or address"),
        ("port/setuser 9000 me", "1022 Invalid argument"),
        ("port/allocatable 3 1", "1000 Success"),
        ("port/allocatable 4 1", "1006 No such device or address"),
        ("port/allocatable 3", "1022 Invalid argument"),
        ("port/setvlan 3 4095", "1000 Success"),
    ];
    for (line, expected) in table {
        assert_eq!(desk.code(line), expected, "{line}");
    }
    let text = desk.run("port/allprint 3").1;
    assert!(text.contains("Port 0003 untagged_vlan=4095 INACTIVE - Unnamed Allocatable\n"), "{text}");
    assert!(text.contains("Current User: NONE Access Control: (User: me - Group: us)\n"), "{text}");
    let place = desk.switch.place(PortId::new(2)).unwrap();
    assert!(
        place.admits(7, &[]) && place.admits(9, &[1, 7]) && place.admits(0, &[]) && !place.admits(9, &[1])
    );
    assert_eq!(desk.code("port/setuser 3 NONE"), "1000 Success");
    assert_eq!(desk.code("port/setgroup 3 99"), "1000 Success");
    assert!(desk.run("port/allprint 3").1.contains("(User: NONE - Group: 99)\n"));
    // Whoever plugs in there finds the rules, and leaves what it counted.
    desk.switch.add_port_at(PortId::new(2), "vde3", Offloads::NONE).unwrap();
    let vlans = &desk.switch.port(PortId::new(2)).unwrap().vlans;
    assert_eq!(*vlans, PortVlans::Trunk { native: None, allowed: crate::vlan::VidSet::none() });
    assert_eq!(desk.code("port/setvlan 3 0"), "1000 Success");
    desk.switch.remove_port(PortId::new(2));
    assert!(desk.run("port/allprint 3").1.contains("Port 0003 untagged_vlan=0000 INACTIVE"));
    // What is said of a port that was not created keeps its number.
    assert_eq!(desk.code("port/setuser 1 me"), "1000 Success");
    assert!(desk.run("port/print 1").1.contains("Current User: me Access Control: (User: me - Group: NONE)"));
    assert_eq!(desk.code("port/epclose 1 1"), "1000 Success");
    assert_eq!(desk.switch.add_port("c", PortVlans::default(), Offloads::NONE), Ok(PortId::new(3)));
    assert_eq!(desk.code("port/remove 1"), "1000 Success");
}

#[test]
fn the_tree_is_turned_on_and_off() {
    let mut desk = Desk::new();
    desk.switch.set_address("02:00:00:00:00:aa".parse().unwrap());
    let data = |text: &str| format!("0000 DATA END WITH '.'\n{text}.\n1000 Success\n");
    assert_eq!(desk.run("fstp/setfstp 1").1, data(""));
    assert_eq!(
        desk.run("fstp/showinfo").1,
        data("MAC 02:00:00:00:00:aa Priority 32768 (0x8000)\nFSTP=true\n")
    );
    assert_eq!(desk.code("fstp/setedge 0 1 1"), "1000 Success");
    assert_eq!(desk.code("fstp/bonus 0 2 500"), "1000 Success");
    let printed = "FST DATA VLAN 0000 ROOTSWITCH \n ++ root 80:00:02:00:00:00:00:aa\n \
                   ++ designated ff:ff:ff:ff:ff:ff:ff:ff\n ++ rootport 0000 cost 0 age 0 bonusport 0002 bonuscost 500\n \
                   -- Port 0001 tagged=0 portcost=2000 role=Edge\n -- Port 0002 tagged=0 portcost=1500 role=Designated\n";
    assert_eq!(desk.run("fstp/print").1, data(printed));
    assert_eq!(desk.code("fstp/bonus 0 1 5"), "1000 Success");
    let text = desk.run("fstp/print 0").1;
    assert!(
        text.contains("0001 tagged=0 portcost=1995") && text.contains("0002 tagged=0 portcost=2000"),
        "{text}"
    );
    for (line, expected) in [
        ("fstp/setedge 0 99 1", "1006 No such device or address"),
        ("fstp/setedge 0 9999 1", "1022 Invalid argument"),
        ("fstp/setedge 5 1 1", "1006 No such device or address"),
        ("fstp/setedge 0 1", "1022 Invalid argument"),
        ("fstp/bonus x 1 1", "1022 Invalid argument"),
    ] {
        assert_eq!(desk.code(line), expected, "{line}");
    }
    // A hub has none.
    assert_eq!(desk.code("port/sethub 1"), "1000 Success");
    assert!(desk.switch.is_hub() && desk.switch.stp().is_none());
    assert_eq!(desk.run("port/showinfo").1, data("Numports=8192\nHUB=true\ncounters=true\n"));
    assert_eq!(desk.run("fstp/setfstp 1").1, data("Can't use fstp in hub mode\n"));
    assert_eq!(desk.code("port/sethub 0"), "1000 Success");
    assert!(desk.run("fstp/print").1.contains("FST DATA VLAN 0000 ROOTSWITCH FSTP IS DISABLED\n"));
}

#[test]
fn categories_are_told() {
    let mut desk = Desk::new();
    for (line, expected) in [
        ("debug/add port", "1000 Success"),
        ("debug/add port", "1017 File exists"),
        ("debug/add nothing", "1022 Invalid argument"),
        ("debug/del hash", "1002 No such file or directory"),
        ("debug/del port/ep", "1000 Success"),
        ("debug/list nothing", "1002 No such file or directory"),
    ] {
        assert_eq!(desk.code(line), expected, "{line}");
    }
    let text = desk.run("debug/list port").1;
    let expected = "port/+                 021 ON     new port\nport/-                 022 ON     closed port\n\
                    port/descr             023 ON     set port description\n\
                    port/ep/+              031 OFF    new endpoint\nport/ep/-              032 OFF    closed endpoint\n";
    assert!(text.contains(expected), "{text}");
    let mut debugger = Debugger::new(&desk.switch);
    desk.switch.events_mut().listen(true);
    let c = desk.switch.add_port("c", PortVlans::default(), Offloads::NONE).unwrap();
    let frame = [&[0xFF; 6][..], &[2, 0, 0, 0, 0, 7], &[0x88, 0xB5], &[0; 46]].concat();
    let mut out = crate::switch::Egress::new();
    desk.switch.handle_frame(desk.now, c, &crate::offload::VnetHdr::default(), &frame, &mut out);
    desk.switch.remove_port(c);
    let events = desk.switch.events_mut().take();
    let told: Vec<Told> =
        events.iter().flat_map(|event| debugger.tell(event, &desk.switch)).flatten().collect();
    let lines: Vec<&str> = told.iter().map(|told| told.text.as_str()).collect();
    // The port is gone when its coming is told: its number is not known any more.
    assert_eq!(
        lines,
        ["3021 port/+ 00\n", "3011 hash/+ 02:00:00:00:00:07 VLAN 00:00 Port 0\n", "3022 port/- 00\n"]
    );
    let heard: Vec<bool> = told.iter().map(|told| desk.categories.contain(told)).collect();
    assert_eq!(heard, [true, false, true]);
}

#[test]
fn lines_are_bounded() {
    let mut session = Session::default();
    session.handle_input(b"one\r\ntwo\nthr");
    assert_eq!(
        [session.next(), session.next(), session.next()],
        [Some("one".into()), Some("two".into()), None]
    );
    session.handle_input(&[b'x'; 5000]);
    assert_eq!(session.next(), None);
    assert_eq!(session.room(), MAX_INPUT);
    session.handle_input(b"\nfour\n");
    assert_eq!([session.next(), session.next()], [Some("\u{fffd}".into()), Some("four".into())]);
    let lines: Vec<_> = script(Path::new("/rc"), "a\nb").collect();
    assert_eq!(lines, [("vde[/rc]: a\n".to_owned(), "a"), ("vde[/rc]: b\n".to_owned(), "b")]);
}

proptest! {
    #[test]
    fn any_bytes_are_answered(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let (mut desk, mut session) = (Desk::new(), Session::default());
        for piece in pieces {
            session.handle_input(&piece);
            while let Some(line) = session.next() {
                let (_, out) = desk.run(&line);
                prop_assert!(out.is_empty() || out.lines().last().unwrap().starts_with('1'));
            }
        }
    }

    #[test]
    fn any_numbers_keep_the_switch_whole(lines in prop::collection::vec((0usize..9, -1i64..9, -1i64..9), 0..60)) {
        let mut desk = Desk::new();
        let commands = ["vlan/create", "vlan/remove", "vlan/addport", "vlan/delport", "port/setvlan", "port/create",
            "port/remove", "port/epclose", "port/resetcounter"];
        for (command, a, b) in lines {
            let code = desk.code(&format!("{} {a} {b}", commands[command]));
            prop_assert!(code.starts_with('1'));
        }
        let (_, all) = desk.run("vlan/allprint");
        for (id, port) in desk.switch.ports() {
            let vlan = port.vlans.pvid().map_or(0, Vid::number);
            let line = format!("VLAN {:04}\n", if vlan == 1 { 0 } else { vlan });
            prop_assert!(all.contains(&line), "port {} is in no VLAN of {all}", id.index() + 1);
        }
    }
}

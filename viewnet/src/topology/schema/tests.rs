//! The words of a topology, and what is said about wrong ones.

use super::*;

const LAB: &str = r#"
name = "lab"

[switch.lan]
age = 60
mode = "0660"
vlan.10 = "office"
port.up0 = { nic = "veth1", trunk = "10,20-29", native = 1 }
port.vm = { tap = "tap0", access = 10 }

[switch.core]
external = true

[stack.web]
kind = "smol"
restart = "on-failure"

[[stack.web.interface]]
name = "eth0"
link = "switch:lan[vlan 10]"
ip = ["10.0.0.1/24"]

[program.httpd]
stack = "web"
command = ["python3", "-m", "http.server", "80"]
restart = "on-failure"

[program.check]
stack = "web"
command = "curl http://10.0.0.1/"
after = ["httpd"]
environment = { A = "b" }
"#;

#[test]
fn everything_is_read_and_survives_being_written() {
    let (name, lab) = Topology::parse(LAB, "file").unwrap();
    assert_eq!(name, "lab");
    assert_eq!(lab.switches["lan"].port["up0"].vlans().to_string(), "trunk 10,20-29 native 1");
    assert_eq!(lab.programs["check"].command.words(), ["sh", "-c", "curl http://10.0.0.1/"]);
    assert_eq!(lab.order().unwrap(), ["httpd", "check"]);
    let json = serde_json::to_string(&lab).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&json).unwrap(), lab);
    assert_eq!(Topology::parse("", "file").unwrap().0, "file");
}

proptest::proptest! {
    #[test]
    fn a_slip_anywhere_is_an_error_or_nothing(at in 0..LAB.len(), cut in 0usize..9, new in "[\\[\\]a-z=.'\"{}0-9\n]{0,3}") {
        let end = (at + cut).min(LAB.len());
        let text = format!("{}{new}{}", &LAB[..at], &LAB[end..]);
        if let Err(problem) = Topology::parse(&text, "file") {
            assert!(problem.line <= text.lines().count() + 1 && !problem.hint.is_empty(), "{problem}");
        }
    }
}

#[test]
fn mistakes_are_found_where_they_are() {
    let table = [
        (
            "[swich.lan]",
            "line 1, column 2: unknown field `swich`, expected one of `name`, `switch`, `gateway`, `stack`, `program`; did you mean `switch`?",
        ),
        (
            "[switch.lan]\nagee = 3",
            "line 2, column 1: unknown field `agee`, expected one of `external`, `age`, `mode`, `group`, `mgmt`, `vde`, `metrics`, `hub`, `stp`, `vlan`, `port`; did you mean `age`?",
        ),
        (
            "[switch.lan]\nage = 0",
            "line 2, column 7: `0` is no age; 1 to 1,000,000 seconds; `viewnet up --help` shows how a topology is written",
        ),
        (
            "[switch.\"a b\"]",
            "line 1, column 9: `a b` is no name for a switch: it is no name; use 1 to 32 letters, digits and `._-`",
        ),
        (
            "[switch.lan.port.up]\naccess = 3",
            "line 1, column 18: what is it?; give one of `tap`, `nic` and `link`, or name it as a stack's interface, STACK.INTERFACE",
        ),
        (
            "[switch.lan.vlan]\n0 = 'x'",
            "line 2, column 1: `0` is no VLAN; use 1 to 4094; `viewnet up --help` shows how a topology is written",
        ),
        (
            "[switch.lan]\n[stack.a]\ninterface = [{ name = 'eth0', link = 'switch:lam' }]",
            "line 3, column 38: there is no switch `lam` in this file; did you mean `lan`?",
        ),
        (
            "[stack.a]\n[[stack.a.interface]]\nname='eth0'\nip=['10.0.0.1/33']",
            "line 4, column 5: invalid IP address syntax; `viewnet up --help` shows how a topology is written",
        ),
        (
            "[stack.web]\n[program.p]\nstack = 'wed'\ncommand = 'x'",
            "line 3, column 9: there is no stack `wed` in this file; did you mean `web`?",
        ),
        ("[program.p]\nstack = 'host'", "line 1, column 1: missing field `command`; add `command`"),
        (
            "[program.p]\nstack = 'host'\ncommand = []",
            "line 3, column 11: the command is empty; `viewnet up --help` shows how a topology is written",
        ),
        (
            "[program.p]\nstack = 'host'\ncommand = 'x'\nafter = ['p']",
            "line 4, column 1: it waits for itself, by way of others; take one of them out of the circle",
        ),
        (
            "[program.p]\nstack = 'host'\ncommand = 'x'\nrestart = 'allways'",
            "line 4, column 11: unknown variant `allways`, expected one of `never`, `on-failure`, `always`; did you mean `always`?",
        ),
        (
            "name = 'a/b'",
            "line 1, column 8: `a/b` is no name for a topology; use 1 to 32 letters, digits and `._-`",
        ),
    ];
    are_found(&table);
}

/// Each text has that problem.
fn are_found(table: &[(&str, &str)]) {
    for (text, expected) in table {
        let problem = Topology::parse(text, "file").unwrap_err();
        assert_eq!(problem.to_string(), *expected, "{text}");
    }
}

#[test]
fn mistakes_about_ways_out_and_in_are_found_where_they_are() {
    are_found(&[
        (
            "[switch.lan]\nhub = true\nstp = true",
            "line 2, column 7: a hub has no spanning tree; leave out one of them",
        ),
        (
            "[switch.lan]\n[gateway.lan]\ndns64 = 'allways'",
            "line 3, column 9: unknown variant `allways`, expected one of `auto`, `always`, `never`; did you mean `always`?",
        ),
        (
            "[switch.lan]\n[gateway.lan]\ndhcp = { static = ['web=10.9.0.7'] }",
            "line 3, column 1: web=10.9.0.7 is no address that a client could have here; give one of the gateway's IPv4 network, and not the gateway's own",
        ),
        (
            "[switch.lan]\n[gateway.lan]\ndhcp.lease = 3",
            "line 3, column 1: a lease is 8 seconds at least, an MTU 68 bytes; take more",
        ),
        (
            "[switch.lan]\n[gateway.lan]\nfilter = ['input: proto tpc drop']",
            "line 3, column 10: line 1, column 14: `tpc` is no protocol; did you mean `tcp`?; `viewnet up --help` shows how a topology is written",
        ),
        (
            "[switch.lan]\n[stack.web]\npublish = ['8080:80']\ninterface = [{ name = 'eth0', link = 'switch:lan' }]",
            "line 3, column 1: the switch `lan` has no gateway; add [gateway.lan]",
        ),
        (
            "[stack.web]\npublish = ['80:']",
            "line 2, column 11: `80:` names no ports; write 8080:80, 127.0.0.1:8080:80, [::1]:53/udp or 8000-8010:9000-9010; `viewnet up --help` shows how a topology is written",
        ),
        (
            "[stack.web]\npublish = ['80']",
            "line 2, column 1: it is plugged into no switch; plug it into one that has a gateway",
        ),
        (
            "[program.p]\nstack = 'host'\ncommand = 'x'\npublish = ['80']",
            "line 4, column 1: `host` is no stack that ports could lead to; leave it out",
        ),
        ("[program.p]\ncommand = 'x'", "line 1, column 10: where does it run?; add `stack`, or `vpn`"),
        (
            "[program.p]\nstack = 'host'\nvpn = 'a.conf'\ncommand = 'x'",
            "line 3, column 7: it has a stack already; leave out one of them; `vpn` may stand in a stack, too",
        ),
        (
            "[stack.office]\nvpn = 'a.conf'\n[program.p]\nvpn = 'a.conf'\ncommand = 'x'",
            "line 4, column 7: `a.conf` is another's tunnel already; make one stack of it, and say `stack = …` of all who use it",
        ),
    ]);
}

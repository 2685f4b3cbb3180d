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
            "line 2, column 1: unknown field `agee`, expected one of `external`, `age`, `mode`, `group`, `mgmt`, `vde`, `metrics`, `stp`, `vlan`, `port`; did you mean `age`?",
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
    for (text, expected) in table {
        let problem = Topology::parse(text, "file").unwrap_err();
        assert_eq!(problem.to_string(), expected, "{text}");
    }
}

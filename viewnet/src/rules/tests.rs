//! Rules, against a matcher that is as simple as can be.

use super::*;
use proptest::prelude::*;

fn rules(texts: &[&str]) -> Rules {
    Rules::try_from(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn fails(texts: &[&str]) -> String {
    Rules::try_from(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap_err().to_string()
}

fn tcp(to: &str, port: u16) -> Destination {
    Destination { address: to.parse().unwrap(), port: Some(port), transport: Some(Transport::Tcp) }
}

#[test]
fn the_first_that_matches_decides() {
    let rules = rules(&[
        "to 10.8.0.0/16 via office",
        "to 10.8.1.0/24 via lab",
        "port 25 deny",
        "to [2001:db8::]/32 udp via office",
        "to 192.0.2.1,192.0.2.7 port 80,8000-8999 unreachable",
        "default via lan",
        "default inet6 via own",
    ]);
    assert_eq!(rules.stacks(), ["office", "lab", "lan"]);
    assert_eq!(rules.decide(&tcp("10.8.1.1", 25)), Target::Stack(0));
    assert_eq!(rules.decide(&tcp("10.9.1.1", 25)), Target::Fail(Errno::EACCES));
    assert_eq!(rules.decide(&tcp("10.9.1.1", 26)), Target::Stack(2));
    assert_eq!(rules.decide(&tcp("192.0.2.7", 8080)), Target::Fail(Errno::ENETUNREACH));
    assert_eq!(rules.decide(&tcp("192.0.2.2", 8080)), Target::Stack(2));
    assert_eq!(rules.decide(&tcp("2001:db8::1", 80)), Target::Own);
    let udp = Destination { transport: Some(Transport::Udp), ..tcp("2001:db8::1", 80) };
    assert_eq!(rules.decide(&udp), Target::Stack(0));
    assert_eq!(rules.default_of(libc::AF_PACKET), Target::Stack(2));
    // What has no ports has none that match.
    assert_eq!(rules.decide(&Destination { port: None, ..tcp("10.9.1.1", 25) }), Target::Stack(2));
}

#[test]
fn without_destinations_there_is_nothing_to_steer() {
    assert!(!rules(&["default inet via lan", "default netlink deny"]).steer());
    assert!(rules(&["default inet deny"]).steer());
    assert!(rules(&["udp via lan"]).steer());
}

#[test]
fn a_rule_about_binding_is_about_no_destination() {
    let rules = rules(&["bind tcp port 80 via host", "to 10.0.0.1 bind deny", "port 80 via lan"]);
    assert_eq!(rules.decide_bind(&tcp("0.0.0.0", 80)), Some(Target::Stack(0)));
    assert_eq!(rules.decide_bind(&tcp("10.0.0.1", 80)), Some(Target::Stack(0)));
    assert_eq!(rules.decide_bind(&tcp("10.0.0.1", 81)), Some(Target::Fail(Errno::EACCES)));
    assert_eq!(rules.decide_bind(&tcp("10.0.0.2", 81)), None);
    assert_eq!(rules.decide(&tcp("10.0.0.1", 80)), Target::Stack(1));
    assert_eq!(rules.decide(&tcp("10.0.0.1", 81)), Target::Own);
    assert!(rules.steer());
}

#[test]
fn errors_name_the_word_and_the_fix() {
    for (texts, why, hint) in [
        (
            &["to 10.8.0.1/16 via x"][..],
            "`10.8.0.1/16` has bits behind its prefix",
            "write 10.8.0.0/16 or 10.8.0.1",
        ),
        (&["too 10.8.0.0/16 via x"], "`too` is no word of a rule", "conditions are `to`"),
        (&["to"], "nothing stands behind `to`", "a prefix such as"),
        (&["to 10.0.0.0/8"], "not what to do", "`via STACK`"),
        (&["to 10.0.0.0/8 via"], "nothing stands behind `via`", "name or path"),
        (&["to 10.0.0.0/8 via a b"], "`b` stands behind its end", "leave it out"),
        (&["via lan"], "no condition", "write `default via lan`"),
        (&["port 70000 deny"], "`70000` is no port", "0 to 65535"),
        (&["port 9-8 deny"], "`9-8` is no port", "range"),
        (&["tcp udp deny"], "twice", "two rules"),
        (&["bind port 80 unreachable"], "unreachable to bind", "`deny`"),
        (&["default via a", "default via b"], "a default already", "one default per family"),
        (&["default inet via a", "default inet deny"], "`inet` has a default already", "one default"),
        (&["default irda via a"], "`irda` is no address family", "inet6"),
        (&["default 1 via a"], "`1` is no network", "the machine's"),
        (&[""], "not what to do", "`deny`"),
    ] {
        let text = fails(texts);
        assert!(text.contains(why) && text.contains(hint), "{text}");
    }
    assert!(fails(&vec!["port 1 deny"; MAX_RULES + 1]).contains("number 257"));
    let many: Vec<String> = (0..=MAX_STACKS).map(|n| format!("port 1 via s{n}")).collect();
    assert!(Rules::try_from(many).unwrap_err().why.contains("number 65"));
}

/// A rule as a test makes it: addresses have four bits that differ, so that they meet.
#[derive(Debug, Clone)]
struct Simple {
    to: Option<(u8, u8)>,
    ports: Option<(u16, u16)>,
    transport: Option<Transport>,
    stack: u8,
}

impl Simple {
    fn text(&self) -> String {
        let mut words = Vec::new();
        if let Some((bits, length)) = self.to {
            let kept = if length == 0 { 0 } else { bits & (0xff << (8 - length)) };
            words.push(format!("to 10.0.0.{kept}/{}", 24 + length));
        }
        if let Some((first, last)) = self.ports {
            words.push(format!("port {first}-{last}"));
        }
        match self.transport {
            Some(Transport::Tcp) => words.push("tcp".into()),
            Some(Transport::Udp) => words.push("udp".into()),
            None => {}
        }
        if words.is_empty() {
            words.push("to 0.0.0.0/0".into());
        }
        format!("{} via s{}", words.join(" "), self.stack)
    }

    fn matches(&self, bits: u8, port: u16, transport: Transport) -> bool {
        let to = self.to.is_none_or(|(net, length)| (0..length).all(|bit| (net ^ bits) & (0x80 >> bit) == 0));
        let ports = self.ports.is_none_or(|(first, last)| first <= port && port <= last);
        to && ports && self.transport.is_none_or(|wanted| wanted == transport)
    }
}

fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)]
}

prop_compose! {
    fn simple()(
        to in proptest::option::of((any::<u8>(), 0u8..=8)),
        ports in proptest::option::of((0u16..8, 0u16..8)),
        transport in proptest::option::of(transports()),
        stack in 0u8..6,
    ) -> Simple {
        Simple { to, ports: ports.map(|(a, b)| (a.min(b), a.max(b))), transport, stack }
    }
}

proptest! {
    #[test]
    fn as_a_naive_matcher(list in proptest::collection::vec(simple(), 0..12), bits: u8, port in 0u16..8, transport in transports()) {
        let texts: Vec<String> = list.iter().map(Simple::text).collect();
        let rules = Rules::try_from(texts).unwrap();
        let address = IpAddr::from([10, 0, 0, bits]);
        let wanted = list.iter().find(|rule| rule.matches(bits, port, transport)).map(|rule| format!("s{}", rule.stack));
        let decided = rules.decide(&Destination { address, port: Some(port), transport: Some(transport) });
        match (wanted, decided) {
            (None, Target::Own) => {}
            (Some(name), Target::Stack(place)) => prop_assert_eq!(&rules.stacks()[place], &name),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_text_is_a_rule_or_an_error_and_reads_back(text in "[ a-z0-9.:/,\\[\\]-]{0,40}|(to|port|via|deny|default|udp|bind|inet6|[0-9.:/,-]{1,9}| ){0,9}") {
        if let Ok(rules) = Rules::try_from(vec![text]) {
            let texts: Vec<String> = rules.clone().into();
            prop_assert_eq!(Rules::try_from(texts).unwrap(), rules);
        }
    }
}

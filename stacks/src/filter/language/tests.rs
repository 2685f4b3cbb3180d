//! Rules that read as they print, and mistakes that are named.

use proptest::prelude::*;

use super::*;

fn fails(text: &str) -> FilterError {
    match Ruleset::parse(text) {
        Ok(rules) => panic!("{text} was accepted: {rules}"),
        Err(error) => error,
    }
}

#[test]
fn rules_print_in_one_form() {
    for (written, printed) in [
        ("input: accept", "input: accept"),
        (
            "input:tcp dport 22 from 10.1.2.3/8 accept # ssh",
            "input: proto tcp from 10.0.0.0/8 dport 22 accept",
        ),
        (
            "output: to 10.1.0.0/16 state new limit 10/s accept",
            "output: to 10.1.0.0/16 state new limit 10/s accept",
        ),
        ("forward: in eth0 out not eth1,eth2 drop", "forward: in eth0 out not eth1,eth2 drop"),
        ("postrouting: out eth0 snat to 10.0.0.1", "postrouting: out eth0 snat to 10.0.0.1"),
        (
            "prerouting: in eth0 udp dport 53,100-200 dnat to [fd00::1]:53",
            "prerouting: in eth0 proto udp dport 53,100-200 dnat to [fd00::1]:53",
        ),
        (
            "input: icmp type echo-request limit 1/m burst 9 drop",
            "input: proto icmp type 8 limit 1/m burst 9 drop",
        ),
        (
            "input: proto icmpv6 type echo-request log \"a b\" reject",
            "input: proto icmpv6 type 128 log \"a b\" reject",
        ),
        ("input: ipv6 log", "input: ipv6 log count"),
        ("input: from fd00::1 proto 47 count", "input: proto 47 from fd00::1 count"),
    ] {
        let rules = Ruleset::parse(written).unwrap_or_else(|e| panic!("{written}: {e}"));
        assert_eq!(rules.rules[0].to_string(), printed);
    }
}

#[test]
fn defaults_and_comments() {
    let text =
        "# a host\ndefault input drop\n\ninput: state established,related accept\ndefault output accept\n";
    let rules = Ruleset::parse(text).unwrap();
    assert_eq!(rules.otherwise(Hook::Input), Otherwise::Drop);
    assert_eq!(rules.to_string(), "default input drop\ninput: state established,related accept\n");
    assert!(Ruleset::parse("# nothing").unwrap().is_empty());
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, line, column, part) in [
        ("input: prto tcp drop", 1, 8, "did you mean `proto`"),
        ("\ninputs: drop", 2, 1, "did you mean `input`"),
        ("input drop", 1, 1, "no colon"),
        ("input:", 1, 1, "does nothing"),
        ("input: tcp dport 80,x drop", 1, 21, "no port"),
        ("input: tcp dport 80, 81 drop", 1, 21, "without blanks"),
        ("input: dport 80 drop", 1, 17, "put `proto tcp`"),
        ("input: from 10.0.0.0/33 drop", 1, 13, "no address or prefix"),
        ("input: from 10.0.0.0/8 to fd00::1 drop", 1, 35, "both families"),
        ("input: from 10.0.0.0/8 from 10.0.0.1 drop", 1, 29, "again"),
        ("input: out eth0 drop", 1, 17, "use `out` with"),
        ("output: in eth0 drop", 1, 17, "use `in` with"),
        ("input: snat to 10.0.0.1", 1, 16, "with postrouting"),
        ("postrouting: reject", 1, 14, "that late"),
        ("prerouting: dnat 10.0.0.1", 1, 13, "`to` is missing"),
        ("prerouting: dnat to 10.0.0.1:80", 1, 21, "put `proto tcp`"),
        ("input: drop accept", 1, 13, "behind the end"),
        ("input: limit 0/s drop", 1, 14, "no rate"),
        ("input: limit 5/s burst x drop", 1, 24, "no number"),
        ("input: log \"x drop", 1, 12, "does not end"),
        ("input: type 8 drop", 1, 15, "only ICMP"),
        ("input: state nwe drop", 1, 14, "did you mean `new`"),
        ("input: in a/b drop", 1, 11, "no name"),
        ("default input reject", 1, 15, "known are"),
        ("input: not tcp drop", 1, 8, "put it behind"),
    ] {
        let error = fails(text);
        assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
}

#[test]
fn there_is_a_most_of_everything() {
    let many = "input: drop\n".repeat(MAX_RULES);
    assert!(Ruleset::parse(&many).is_ok());
    assert!(fails(&(many + "input: drop")).why.contains("too many rules"));
    let ports = vec!["1"; MAX_VALUES + 1].join(",");
    assert!(fails(&format!("input: tcp dport {ports} drop")).why.contains("too many values"));
    assert!(fails(&"#".repeat(MAX_TEXT + 1)).why.contains("too much"));
    let long = "x".repeat(MAX_PREFIX + 1);
    assert!(fails(&format!("input: log \"{long}\" drop")).why.contains("cannot begin"));
}

#[test]
fn what_does_not_read_changes_nothing() {
    let mut rules = Ruleset::parse("input: drop").unwrap();
    let before = rules.clone();
    rules.extend("output: drop\noutput: nonsense").unwrap_err();
    assert_eq!(rules, before);
}

/// Words that rules are made of, in any order.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("input:".to_owned()),
        Just("output:".to_owned()),
        Just("postrouting:".to_owned()),
        Just("default".to_owned()),
        Just("not".to_owned()),
        Just("\n".to_owned()),
        prop::sample::select(&WORDS[..]).prop_map(str::to_owned),
        prop::sample::select(vec![
            "22",
            "80-90,8",
            "10.0.0.0/8",
            "fd00::1",
            "10/s",
            "burst",
            "new",
            "eth0",
            "\"a\""
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    prop::collection::vec(word, 0..14).prop_map(|words| words.join(" "))
}

/// Rules that are right.
fn rule() -> impl Strategy<Value = String> {
    let not = prop::sample::select(vec!["", "not "]);
    let from = (not.clone(), any::<u32>(), 0..=32u8)
        .prop_map(|(not, address, len)| format!(" from {not}{}/{len}", std::net::Ipv4Addr::from(address)));
    let dport = (not, any::<u16>(), any::<u16>())
        .prop_map(|(not, a, b)| format!(" proto tcp,udp dport {not}{}-{}", a.min(b), a.max(b)));
    let limit = (1..2000u32, 1..9u32).prop_map(|(n, burst)| format!(" limit {n}/m burst {burst}"));
    let maybe = |it: BoxedStrategy<String>| prop::option::of(it).prop_map(Option::unwrap_or_default);
    let action = prop::sample::select(vec!["accept", "drop", "reject", "count", "log"]);
    (maybe(from.boxed()), maybe(dport.boxed()), maybe(limit.boxed()), action)
        .prop_map(|(from, dport, limit, action)| format!("forward:{dport}{limit}{from} {action}"))
}

proptest! {
    #[test]
    fn any_text_is_rules_or_refused(text in text()) {
        if let Ok(rules) = Ruleset::parse(&text) {
            prop_assert_eq!(Ruleset::parse(&rules.to_string()), Ok(rules));
        }
    }

    #[test]
    fn rules_read_as_they_print(text in rule()) {
        let rules = Ruleset::parse(&text).unwrap();
        let printed = rules.to_string();
        let again = Ruleset::parse(&printed).unwrap();
        prop_assert_eq!(&again, &rules);
        prop_assert_eq!(again.to_string(), printed);
    }
}

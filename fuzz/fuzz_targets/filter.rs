//! Rules of a packet filter: any text. What is accepted is the same after it was printed and read again, and fits
//! behind itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacks::filter::Ruleset;

fuzz_target!(|text: &str| {
    let rules = match Ruleset::parse(text) {
        Ok(rules) => rules,
        Err(error) => {
            assert!(error.line <= text.lines().count().max(1), "{error}");
            let len = text.lines().nth(error.line - 1).map_or(0, |line| line.chars().count());
            assert!(error.column >= 1 && error.column <= len + 1, "{error}");
            return;
        }
    };
    let printed = rules.to_string();
    assert_eq!(Ruleset::parse(&printed).expect("what was printed is read"), rules);
    let mut twice = rules.clone();
    if twice.extend(&printed).is_ok() {
        assert_eq!(twice.rules.len(), 2 * rules.rules.len());
        assert_eq!(twice.otherwise, rules.otherwise);
    }
});

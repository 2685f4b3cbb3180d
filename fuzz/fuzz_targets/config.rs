//! Configuration texts: the one-line form, TOML, routes. None may panic; what is accepted is the same after
//! it was printed and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacks::config::StackConfig;

fuzz_target!(|text: &str| {
    let mut config = StackConfig::default();
    if config.add_line(text).is_ok() {
        let json = serde_json::to_string(&config).expect("a configuration prints");
        let again: StackConfig = serde_json::from_str(&json).expect("what was printed is read");
        assert_eq!(config, again);
    }
    let _ = StackConfig::from_toml(text);
    let _ = config.add_route(text);
    let _ = config.add_ip(text);
    let _ = config.add_gw(text);
});

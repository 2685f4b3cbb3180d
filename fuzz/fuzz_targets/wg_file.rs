//! Files of wg-quick(8) as anybody writes them: each is taken whole or refused, and what is taken says the same to the
//! tunnel's process, to which it goes as a line of JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacks::wg::quick::{Config, MAX_FILE};
use stacks::wg::tunnel::Tunnel;

fuzz_target!(|text: &str| {
    let Ok(config) = Config::parse(text) else { return };
    assert!(text.len() <= MAX_FILE);
    let line = serde_json::to_string(&config).expect("a configuration can be said");
    assert!(!line.contains('\n'), "a line");
    let told: Config = serde_json::from_str(&line).expect("what was said is understood");
    assert_eq!(config, told);
    let machine = ["127.0.0.53".parse().expect("constant"), "::1".parse().expect("constant")];
    for net in config.destinations() {
        assert!(config.peers.iter().any(|peer| peer.allowed_ips.iter().any(|allowed| allowed.contains(&net))));
    }
    let tunnel = Tunnel::new(&config, 7, &machine);
    assert_eq!(tunnel.peers(std::time::Instant::now()).len(), config.peers.len());
});

//! Configurations that are right, and what is said about those that are not.

use super::*;

fn line(text: &str) -> Result<StackConfig, ConfigError> {
    let mut config = StackConfig::default();
    config.add_line(text)?;
    config.checked()
}

#[test]
fn one_line_and_toml_mean_the_same() {
    let from_line = line(
        "eth0=switch:lan[vlan 10],ip=10.0.0.2/24,ip=fd00::2/64,gw=10.0.0.1,mtu=1500,mac=02:00:00:00:00:01,\
         route=10.8.0.0/16 via 10.0.0.254",
    )
    .unwrap();
    let from_toml = StackConfig::from_toml(
        r#"
        [[interface]]
        name = "eth0"
        link = "switch:lan[vlan 10]"
        ip = ["10.0.0.2/24", "fd00::2/64"]
        gw = ["10.0.0.1"]
        mtu = 1500
        mac = "02:00:00:00:00:01"
        [[route]]
        to = "10.8.0.0/16"
        via = "10.0.0.254"
        dev = "eth0"
        "#,
    )
    .unwrap();
    assert_eq!(from_line, from_toml);
}

#[test]
fn trunk_with_commas_stays_one_link() {
    let config = line("switch:lan[trunk 10,20-29 native 1],ip=10.0.0.2/24").unwrap();
    let vlan = PortVlan::Trunk { allowed: vec![(10, 10), (20, 29)], native: Some(1) };
    assert_eq!(config.interfaces[0].link, Link::Switch { name: "lan".into(), vlan });
    assert_eq!(config.interfaces[0].link.to_string(), "switch:lan[trunk 10,20-29 native 1]");
}

#[test]
fn an_address_alone_means_the_default_switch() {
    let mut config = StackConfig::default();
    config.add_ip("10.0.0.2/24").unwrap();
    config.add_gw("10.0.0.1").unwrap();
    assert_eq!(config.interfaces[0].link.to_string(), "switch:default");
    assert_eq!(config.interfaces[0].name, "eth0");
}

#[test]
fn options_may_name_their_interface() {
    let mut config = StackConfig::default();
    config.add_line("switch:a").unwrap();
    config.add_line("switch:b").unwrap();
    config.add_ip("eth0=10.0.0.2/24").unwrap();
    config.add_ip("10.1.0.2/24").unwrap();
    assert_eq!(config.interfaces[0].ip[0].to_string(), "10.0.0.2/24");
    assert_eq!(config.interfaces[1].ip[0].to_string(), "10.1.0.2/24");
    assert!(config.add_ip("eth7=10.1.0.2/24").unwrap_err().why.contains("--link eth7"));
}

#[test]
fn mistakes_are_named() {
    for (text, part) in [
        ("eth0=svitch:lan", "unknown link"),
        ("eth0=switch:lan[vlan 5000]", "1 to 4094"),
        ("eth0=switch:lan[vlan 5", "without"),
        ("eth0=switch:lan,ip=10.0.0.300/24", "no address"),
        ("eth0=switch:lan,mtu=12", "no MTU"),
        ("eth0=switch:lan,mac=03:00:00:00:00:01", "group address"),
        ("eth0=switch:lan,speed=1", "unknown setting"),
        ("a-name-far-too-long=switch:lan", "no name"),
        ("lo=none", "no name"),
        ("eth0=switch,gw=10.0.0.1,gw=10.0.0.2", "two gateways"),
        ("eth0=switch,route=10.0.0.0/8", "needs"),
    ] {
        match line(text) {
            // A route on an interface's own line has its device.
            Ok(config) if part == "needs" => assert_eq!(config.routes[0].dev.as_deref(), Some("eth0")),
            Ok(config) => panic!("{text} was accepted: {config:?}"),
            Err(error) => assert!(error.to_string().contains(part), "{text}: {error}"),
        }
    }
}

#[test]
fn toml_is_checked_like_a_line() {
    for (text, part) in [
        ("[[interface]]\nname = \"eth0\"\nmtu = 0", "no MTU"),
        ("[[route]]\nto = \"10.0.0.0/8\"", "needs"),
        ("[[route]]\nto = \"10.0.0.0/8\"\nvia = \"fd00::1\"", "different families"),
        ("[[interface]]\nname = \"lo\"", "no name"),
    ] {
        let error = StackConfig::from_toml(text).unwrap_err();
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
}

#[test]
fn a_wrong_line_of_toml_is_named_by_number() {
    let error = StackConfig::from_toml("[[interface]]\nname = \"eth0\"\nlink = \"switch:lan[vlan x]\"\n")
        .unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_text_panics_the_parser(text in "\\PC*") {
        let _ = line(&text);
        let _ = StackConfig::from_toml(&text);
        let mut config = StackConfig::default();
        let _ = config.add_route(&text);
    }
}

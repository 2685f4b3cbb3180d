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
    let plug = config.interfaces[0].link.plug().unwrap();
    assert_eq!((plug.switch, plug.vlans().to_string().as_str()), ("lan", "trunk 10,20-29 native 1"));
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
        ("eth0=svitch:lan", "of stacks also none, fd:N and pair:NAME"),
        ("eth0=switch:lan[vlan 5000]", "1 to 4094"),
        ("eth0=switch:lan[vlan 5", "no brackets"),
        ("eth0=switch:lan[vlan 5 trunk 7]", "expected `vlan 10`"),
        ("eth0=switch:lan,ip=10.0.0.300/24", "no address"),
        ("eth0=switch:lan,mtu=12", "no MTU"),
        ("eth0=switch:lan,mac=03:00:00:00:00:01", "group address"),
        ("eth0=switch:lan,speed=1", "unknown setting"),
        ("eth0=vde:", "nothing after the colon"),
        ("eth0=tap:lo", "no name"),
        ("eth0=fd:-1", "no number"),
        ("eth0=pair:", "nothing after the colon"),
        ("eth0=none,pcap=", "no file"),
        ("eth0=none,pcap=a[snap 3]", "no snap length"),
        ("eth0=none,pcap=a[cute]", "expected `FILE[cut]`"),
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

#[test]
fn links_and_recordings_print_as_they_read() {
    for text in [
        "vde:/run/vde.ctl",
        "vde:/a folder[port 7]",
        "switch:lan[hybrid 10,20 untagged 20 pvid 20]",
        "switch:lan[tunnel 7]",
        "switch:lan[service 10,20 native 30]",
        "udp:[fd00::1]:5000",
        "impair:{switch:lan[vlan 10]}[in delay 20ms, loss 1% | out rate 10000000 | seed 7]",
        "tap:tap0",
        "fd:3",
        "pair:blue",
        "none",
        "switch:lan[trunk 10,20-29 native 1]",
    ] {
        let link: Link = text.parse().unwrap();
        assert_eq!(link.to_string(), text);
        // Commas in it do not end it.
        assert_eq!(line(&format!("{text},ip=10.0.0.1/24")).unwrap().interfaces[0].link, link);
        assert_eq!(text.parse::<Link>().unwrap(), link);
    }
    for (text, cut, snap) in [
        ("a.pcapng[]", false, None),
        ("/tmp/a b[cut]", true, None),
        ("a[1][snap 128]", false, Some(128)),
        ("a[cut snap 64]", true, Some(64)),
    ] {
        let pcap: Pcap = text.parse().unwrap();
        assert_eq!((pcap.cut, pcap.snap, pcap.to_string().as_str()), (cut, snap, text));
    }
    let config = line("eth0=vde:/run/vde.ctl,ip=10.0.0.2/24,pcap=a.pcapng").unwrap();
    let text = "[[interface]]\nname = \"eth0\"\nlink = \"vde:/run/vde.ctl\"\nip = [\"10.0.0.2/24\"]\n\
                pcap = \"a.pcapng\"";
    assert_eq!(config, StackConfig::from_toml(text).unwrap());
}

proptest::proptest! {
    #[test]
    fn what_is_accepted_reads_as_it_was_printed(text in "(impair:\\{)?(vde|tap|fd|pair|switch|none)?:?\\PC{0,20}") {
        if let Ok(link) = text.parse::<Link>() {
            proptest::prop_assert_eq!(link.to_string().parse::<Link>().unwrap(), link);
        }
        if let Ok(pcap) = text.parse::<Pcap>() {
            proptest::prop_assert_eq!(pcap.to_string().parse::<Pcap>().unwrap(), pcap);
        }
    }

    #[test]
    fn no_text_panics_the_parser(text in "\\PC*") {
        let _ = line(&text);
        let _ = StackConfig::from_toml(&text);
        let mut config = StackConfig::default();
        let _ = config.add_route(&text);
    }
}

#[test]
fn limits_are_options_and_toml() {
    let mut config = StackConfig::default();
    for text in ["memory=64M", "cpu=50%", "packets=100000/s"] {
        config.add_limit(text).unwrap();
    }
    let text = "[limits]\nmemory = \"64M\"\ncpu = \"50%\"\npackets = \"100000/s\"";
    assert_eq!(StackConfig::from_toml(text).unwrap(), config);
    let again: StackConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    for wrong in [
        "memory=1K",
        "memory=x",
        "memory=99999999999G",
        "memory=9\u{3c0}",
        "cpu=50",
        "cpu=0%",
        "cpu=101%",
        "packets=0/s",
        "packets=5",
        "speed=1",
    ] {
        assert!(config.add_limit(wrong).is_err(), "{wrong}");
    }
    assert!(StackConfig::default().limits.is_default());
}

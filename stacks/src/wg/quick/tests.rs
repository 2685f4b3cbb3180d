//! Files as people have them, and what is wrong with others.

use proptest::prelude::*;

use super::*;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const OTHER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const THIRD: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

/// The example of wg-quick(8), with all that is known.
fn example() -> String {
    format!(
        "# office\n[Interface]\nPrivateKey = {KEY}\nAddress = 10.192.122.1/24, fd00::1/64\naddress=10.10.0.1\n\
         DNS = 10.0.0.53, fd00::53, corp.example\nMTU = 1380\nListenPort=51820\nFwMark = 0x1234\nTable = auto\n\
         SaveConfig = true\n\n[Peer]  # one\npublickey = {OTHER}\nPresharedKey = {THIRD}\nAllowedIPs = 10.0.0.7/8 , ::/0\n\
         AllowedIPs = 192.168.0.0/24\nEndpoint = vpn.example.org:51820\nPersistentKeepalive = 25\n\
         [Peer]\nPublicKey = {THIRD}\nAllowedIPs =\nEndpoint = [2001:db8::1]:1\nPersistentKeepalive = off\n"
    )
}

#[test]
fn what_wg_quick_knows_is_read() {
    let config = Config::parse(&example()).unwrap();
    assert_eq!(config.private_key.to_text(), KEY);
    let addresses: Vec<String> = config.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.192.122.1/24", "fd00::1/64", "10.10.0.1/32"]);
    assert_eq!((config.dns.len(), &config.search[..]), (2, &["corp.example".to_owned()][..]));
    assert_eq!(
        (config.mtu, config.listen_port, config.fwmark, config.routes),
        (Some(1380), Some(51820), 0x1234, true)
    );
    let [one, two] = &config.peers[..] else { panic!("two peers") };
    assert_eq!(one.endpoint.as_ref().unwrap().to_string(), "vpn.example.org:51820");
    assert_eq!((one.keepalive, one.endpoint.as_ref().unwrap().address()), (Some(25), None));
    let allowed: Vec<String> = one.allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "::/0", "192.168.0.0/24"]);
    assert_eq!(one.preshared_key.unwrap().to_text(), THIRD);
    assert_eq!((two.keepalive, two.allowed_ips.len()), (None, 0));
    assert_eq!(two.endpoint.as_ref().unwrap().address(), "[2001:db8::1]:1".parse().ok());
    // The longest prefixes first, each once.
    let to: Vec<String> = config.destinations().iter().map(ToString::to_string).collect();
    assert_eq!(to, ["192.168.0.0/24", "10.0.0.0/8", "::/0"]);
    // It goes to the tunnel's process as JSON.
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_without_keys() {
    let broken = |line: &str, with: &str| example().replace(line, with);
    for (text, line, says) in [
        (broken("MTU = 1380", "PostUp = iptables -A FORWARD"), 7, "commands are not run"),
        (broken("MTU = 1380", "MTU = 100"), 7, "an MTU is"),
        (broken("Table = auto", "Table = 1234"), 10, "auto or off"),
        (broken("Table = auto", "Speed = high"), 10, "nothing of this name"),
        (broken(KEY, "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fB"), 3, "it is no key"),
        (broken("Endpoint = vpn.example.org:51820", "Endpoint = 2001:db8::1:51820"), 18, "HOST:PORT"),
        (broken("AllowedIPs = 192.168.0.0/24", "AllowedIPs = 192.168.0.0/33"), 17, "no address"),
        (broken(&format!("PublicKey = {THIRD}"), &format!("PublicKey = {OTHER}")), 20, "there already"),
        (broken(&format!("PublicKey = {THIRD}\n"), ""), 20, "no PublicKey"),
        (broken("[Peer]  # one", "[Friend]"), 13, "not known"),
        ("Address = 10.0.0.1\n".into(), 1, "before any section"),
        ("[Interface]\nAddress = 10.0.0.1\n".into(), 2, "no PrivateKey"),
        ("[Interface]\nhello\n".into(), 2, "Name = value"),
    ] {
        let error = Config::parse(&text).unwrap_err();
        assert!(error.line == line && error.why.contains(says), "{error} for\n{text}");
        assert!(!error.to_string().contains("yAnz5TF") && !error.hint.contains("yAnz5TF"));
    }
    let config = Config::parse(&example()).unwrap();
    let shown = format!("{config:?}");
    assert!(![KEY, OTHER, THIRD].iter().any(|key| shown.contains(key)), "{shown}");
}

#[test]
fn everything_has_a_limit() {
    let peer = |n: usize| {
        let mut key = [1; 32];
        key[..8].copy_from_slice(&(n as u64).to_le_bytes());
        format!("[Peer]\nPublicKey = {}\n", Key(key).to_text())
    };
    let head = format!("[Interface]\nPrivateKey = {KEY}\n");
    let many: String = (0..=MAX_PEERS).map(peer).collect();
    assert!(Config::parse(&(head.clone() + &many)).unwrap_err().why.contains("more than"));
    let addresses = "Address = 10.0.0.1\n".repeat(MAX_OWN + 1);
    assert!(Config::parse(&(head.clone() + &addresses)).unwrap_err().why.contains("more than"));
    let allowed = "AllowedIPs = 10.0.0.1\n".repeat(MAX_ALLOWED + 1);
    assert!(Config::parse(&(head.clone() + &peer(0) + &allowed)).unwrap_err().why.contains("more than"));
    assert!(Config::parse(&(head + &"#".repeat(MAX_FILE))).unwrap_err().why.contains("longer"));
}

#[test]
fn nameservers_stand_for_those_of_their_family() {
    let mut config = Config::parse(&example()).unwrap();
    let machine: Vec<IpAddr> = ["127.0.0.53", "::1", "2001:db8::53"].map(|ip| ip.parse().unwrap()).to_vec();
    assert_eq!(config.stands_for(&machine), [machine[0], machine[2]]);
    config.dns.truncate(1);
    assert_eq!(config.stands_for(&machine), [machine[0]]);
    config.dns.clear();
    assert!(config.stands_for(&machine).is_empty());
}

/// Files as people may write them: an interface and peers, each with what it may have.
fn files() -> impl Strategy<Value = String> {
    let own = prop_oneof![
        "Address ?= ?10\\.0\\.0\\.[1-9](/[0-9])?(, ?fd00::[1-9a-f](/6[0-4])?)?",
        "dns = (10\\.0\\.0\\.[1-9]|fd00::[1-9])(,[a-z]{1,9}\\.example)?",
        "MTU=1[0-9]{3}( # bytes)?",
        "ListenPort = [1-9][0-9]{3}",
        "FwMark = 0x[0-9a-f]{1,8}",
        "table = (auto|off)",
    ];
    let peer = prop_oneof![
        "AllowedIPs = (10\\.[0-9]\\.0\\.0/[0-9]|::/[0-9])(, 192\\.0\\.2\\.[0-9])?",
        "Endpoint = (vpn\\.example|192\\.0\\.2\\.1|\\[2001:db8::[1-9]\\]):[1-9][0-9]{0,3}",
        "PersistentKeepalive = ([1-9][0-9]{0,3}|off)",
        Just(format!("PresharedKey = {THIRD}")),
    ];
    let peers = prop::collection::vec(prop::collection::vec(peer, 0..4), 0..4);
    (prop::collection::vec(own, 0..6), peers).prop_map(|(own, peers)| {
        let peers = peers.iter().zip(1..).map(|(lines, number)| {
            format!("[Peer]\nPublicKey = {}\n{}\n", Key([number; 32]).to_text(), lines.join("\n"))
        });
        format!("[Interface]\nPrivateKey = {KEY}\n{}\n{}", own.join("\n"), peers.collect::<String>())
    })
}

proptest! {
    #[test]
    fn no_file_makes_it_stumble(lines in prop::collection::vec("\\PC{0,40}", 0..20), key in any::<[u8; 32]>()) {
        let _ = Config::parse(&lines.join("\n"));
        let text = format!("[Interface]\nPrivateKey={}\n[Peer]\nPublicKey={OTHER}\n{}", Key(key).to_text(), lines.join("\n"));
        let _ = Config::parse(&text);
    }

    #[test]
    fn endpoints_are_written_as_they_are_read(text in "(\\[[0-9a-f:]{2,12}(%[a-z0-9]{1,4})?\\]|[a-z0-9.-]{1,20}):[0-9]{1,5}") {
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
        }
    }

    #[test]
    fn what_is_taken_says_the_same_to_the_process_of_the_tunnel(text in files()) {
        let config = Config::parse(&text).unwrap();
        let line = serde_json::to_string(&config).unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<Config>(&line).unwrap(), config);
    }

    #[test]
    fn what_is_refused_is_refused_by_a_line_of_the_file(text in "\\[Interface\\](\n[A-Z]?\\PC{0,9}=?\\PC{0,20}){0,8}") {
        if let Err(why) = Config::parse(&text) {
            prop_assert!((1..=text.lines().count().max(1)).contains(&why.line), "line {}", why.line);
        }
    }
}

#[test]
fn an_endpoint_may_be_in_a_zone() {
    let endpoint: Endpoint = "[fe80::1%eth0]:7".parse().unwrap();
    assert_eq!((endpoint.host.as_str(), endpoint.address()), ("fe80::1%eth0", None));
    assert_eq!(endpoint.to_string(), "[fe80::1%eth0]:7");
    for wrong in
        ["fe80::1%eth0:7", "[fe80::1%]:7", "[fe80::1%a%b]:7", "[%eth0]:7", "name%eth0:7", "[fe80::1%a b]:7"]
    {
        assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
    }
}

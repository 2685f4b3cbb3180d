//! `viewnet up`: ways out and in. Gateways with all that they can be told, published ports, tunnels, rules, hubs.

#[expect(dead_code, reason = "the tests of tunnels use more of it")]
#[path = "vpn/peer.rs"]
mod peer;

use peer::Peer;
use serde_json::Value;
use tests::{SOON, User, World, each_kind, each_user, wait_until};

fn json(world: &World, words: &[&str]) -> Value {
    let outcome = world.viewnet(words.iter().copied().chain(["--json"])).run().ok();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e} in:\n{}", outcome.stdout))
}

/// What `up` says; the second time it has nothing to do.
fn up(world: &World) -> String {
    let said = world.viewnet(["up", "lab.toml"]).run().ok().stdout;
    assert_eq!(world.viewnet(["up", "lab.toml"]).run().ok().stdout, "lab: nothing to do\n", "after {said}");
    said
}

/// Writes the file anew and does that.
fn edit(world: &World, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(world.home().join("lab.toml")).unwrap();
    assert!(text.contains(from), "no {from}");
    world.write("lab.toml", &text.replace(from, to));
    up(world)
}

/// The first line that a web server at this port of the host gives for /lab.toml.
fn fetch(world: &World, port: &str) -> String {
    let url = format!("http://127.0.0.1:{port}/lab.toml");
    let retry =
        ["-sS", "--retry", "40", "--retry-delay", "1", "--retry-all-errors", "--retry-max-time", "20"];
    world
        .cmd("curl")
        .args(retry)
        .args(["-m", "5", &url])
        .run()
        .stdout
        .lines()
        .next()
        .unwrap_or_default()
        .into()
}

fn published(world: &World) -> Vec<(u64, String)> {
    let listed = json(world, &["publish", "ls"]);
    let row = |it: &Value| {
        let host = it["listen"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
        (host, it["stack"].as_str().unwrap().to_owned())
    };
    let mut rows: Vec<(u64, String)> = listed.as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows.dedup();
    rows
}

const LAB: &str = r#"# the lab
[switch.lan]
hub = true

[gateway.lan]
ip = ["10.9.0.1/24"]
dns64 = "never"
dhcp = { static = ["web=10.9.0.7"], lease = 600, domain = "lab.test", mtu = 1400, ntp = ["10.9.0.1"] }
filter = ["input: proto udp dport 9 drop"]
deny = [":25"]

[stack.web]
kind = "smol"
interface = [{ name = "eth0", link = "switch:lan", auto = "dhcp" }]
publish = ["127.0.0.1:8080:80"]
filter = ["input: proto tcp dport 81 drop"]

[program.httpd]
stack = "web"
command = ["python3", "-u", "-m", "http.server", "80"]

[program.other]
stack = "web"
command = ["python3", "-u", "-m", "http.server", "90"]
publish = ["127.0.0.1:9090:90"]
rules = ["to 192.0.2.77 unreachable", "to 192.0.2.78 via none"]
"#;

#[test]
fn a_gateway_is_told_all_that_it_can_be_told() {
    each_kind(|world, kind| {
        world.write("lab.toml", &LAB.replace("\"smol\"", &format!("\"{kind}\"")));
        let said = up(&world);
        for line in [
            "+ switch lan: hub on\n",
            "+ gateway lan: deny :25, dhcp.domain lab.test, dhcp.lease 600, dhcp.mtu 1400, dhcp.ntp 10.9.0.1, \
             dhcp.static web=10.9.0.7, dns64 never, filter input: proto udp dport 9 drop, ip 10.9.0.1/24\n",
            "eth0 switch:lan, publish 127.0.0.1:8080:80\n",
        ] {
            assert!(said.contains(line), "no {line} in {said}");
        }
        let shown = json(&world, &["gateway", "show", "--switch", "lan"]);
        assert_eq!((&shown["dns64"], &shown["dhcp"]["lease_s"]), (&"never".into(), &600.into()), "{shown}");
        assert_eq!(shown["dhcp"]["fixed"][0], "web=10.9.0.7", "{shown}");
        assert_eq!(json(&world, &["switch", "show", "lan"])["hub"], true);
        // The stack has what DHCP says, and is reached from the host.
        assert!(json(&world, &["stack", "show", "web"]).to_string().contains("10.9.0.7/24"));
        assert_eq!(fetch(&world, "8080"), "# the lab");
        assert_eq!(fetch(&world, "9090"), "# the lab");

        world.write("secret", "user:password\n");
        world.cmd("chmod").args(["600", "secret"]).run().ok();
        let changes = [
            ("hub = true\n", "", "~ switch lan: no hub\n"),
            ("deny = [\":25\"]", "isolate = true", "~ gateway lan: isolate on, no deny\n"),
            (
                "dport 9 drop",
                "dport 10 drop",
                "~ gateway lan: filter input: proto udp dport 9 drop → input: proto udp dport 10 drop\n",
            ),
            (
                "dport 81 drop",
                "dport 82 drop",
                "~ stack web: filter input: proto tcp dport 81 drop → input: proto tcp dport 82 drop\n",
            ),
            (
                "8080:80\"]",
                "8081:80\", \"127.0.0.1:auto\"]",
                "~ stack web: no publish 127.0.0.1:8080:80, publish 127.0.0.1:8081:80, publish 127.0.0.1:auto\n",
            ),
            (
                ", \"127.0.0.1:auto\"",
                "",
                "~ stack web: no publish 127.0.0.1:8081:80, no publish 127.0.0.1:auto, publish 127.0.0.1:8081:80\n",
            ),
            (
                "lease = 600",
                "lease = 700",
                "~ gateway lan: made anew: dhcp.lease 600 → 700\n~ stack web: publish 127.0.0.1:8081:80\n~ program other: started again: the gateway lan is new\n",
            ),
        ];
        for (from, to, expected) in changes {
            assert_eq!(edit(&world, from, to), expected, "{from} → {to}");
        }
        let said =
            edit(&world, "isolate = true", "isolate = true\nvia = \"socks5:127.0.0.1:1080[auth secret]\"");
        assert!(said.starts_with("~ gateway lan: made anew: via socks5:127.0.0.1:1080[auth /"), "{said}");
        // What is published is so past the proxy.
        assert_eq!(fetch(&world, "8081"), "# the lab");
        assert_eq!(fetch(&world, "9090"), "# the lab");
        assert_eq!(published(&world), [(8081, "web".to_owned()), (9090, "web".to_owned())]);
        check_put_right(&world);
        check_picture(&world);
        world.viewnet(["down"]).run().ok();
        assert_eq!(json(&world, &["gateway", "ls"]), serde_json::json!([]));
    });
}

/// All of it is drawn.
fn check_picture(world: &World) {
    let dot = world.viewnet(["graph", "lab.toml"]).run().ok().stdout;
    for line in [
        "stack\\nfilter\\npublished 127.0.0.1:8081:80\"",
        "label=\"lan/gateway\\n10.9.0.1/24\\nby socks5:127.0.0.1:1080",
        "\\nrules\\nfilter\"",
        "\"program other\" -> \"stack none\" [label=\"to 192.0.2.78 via none\"",
    ] {
        assert!(dot.contains(line), "no {line} in\n{dot}");
    }
}

/// What was changed by hand, or lost, is made as the file says.
fn check_put_right(world: &World) {
    world.viewnet(["publish", "rm", "web", "8081"]).run().ok();
    assert_eq!(up(world), "~ stack web: publish 127.0.0.1:8081:80\n");
    // What the file does not name stays.
    world.viewnet(["publish", "add", "web", "127.0.0.1:8089:80"]).run().ok();
    assert_eq!(up(world), "lab: nothing to do\n");
    world.viewnet(["publish", "rm", "web", "8089"]).run().ok();
    world.viewnet(["filter", "flush", "web"]).run().ok();
    assert_eq!(up(world), "~ stack web: filter input: proto tcp dport 82 drop\n");
    world.viewnet(["filter", "set", "gateway:lan", "input: proto udp dport 11 drop"]).run().ok();
    let line = "~ gateway lan: filter input: proto udp dport 11 drop → input: proto udp dport 10 drop\n";
    assert_eq!(up(world), line);
    world.viewnet(["switch", "set", "lan", "--hub", "on"]).run().ok();
    assert_eq!(up(world), "~ switch lan: no hub\n");
    world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
    let said = up(world);
    assert!(
        said.starts_with("+ gateway lan: dhcp.domain") && said.contains("\n~ stack web: publish 127"),
        "{said}"
    );
    assert_eq!(fetch(world, "8081"), "# the lab");
}

#[test]
fn what_cannot_be_published_is_undone() {
    let world = World::new(User::Ordinary);
    let text = LAB.replace("8080:80", "9090:80");
    // The program asks for the same port, later: it alone fails.
    world.write("lab.toml", &text);
    world.viewnet(["up", "lab.toml", "--wait=other"]).run().code(1);
    world.viewnet(["logs", "other"]).run().ok().says("it is published for web");
    world.viewnet(["down"]).run().ok();
    let text = LAB.replace("\n[program.httpd]", "\n[stack.two]\nkind = \"smol\"\ninterface = [{ name = \"eth0\", link = \"switch:lan\", ip = [\"10.9.0.2/24\"] }]\npublish = [\"127.0.0.1:8080:80\"]\n\n[program.httpd]");
    world.write("lab.toml", &text);
    let refused = world.viewnet(["up", "lab.toml"]).run().code(1).stderr;
    assert!(refused.contains("it is published for") && refused.contains("undone"), "{refused}");
    assert_eq!(json(&world, &["stack", "ls"]), serde_json::json!([]));
    assert_eq!(json(&world, &["gateway", "ls"]), serde_json::json!([]));
}

#[test]
fn programs_share_a_tunnel_or_have_one_of_their_own() {
    each_user(|world| {
        let Some(peer) = Peer::new(&world) else { return };
        peer.begin();
        let _servers = peer.servers();
        let ask = "import socket; s = socket.create_connection(('10.9.0.1', 7007), 20); s.sendall(b'x'); print(s.recv(9))";
        let text = format!(
            "[stack.work]\nkind = 'smol'\nvpn = 'office.conf'\n\
             [program.one]\nstack = 'work'\ncommand = ['python3', '-c', \"{ask}\"]\n\
             [program.two]\nstack = 'host'\nrules = ['to 10.9.0.1 via work']\ncommand = ['python3', '-c', \"{ask}\"]\n"
        );
        world.write("lab.toml", &text);
        let said = world.viewnet(["up", "lab.toml", "--wait"]).run().ok().stdout;
        assert!(said.contains("+ stack work: smol, vpn /"), "{said}");
        for program in ["one", "two"] {
            world.viewnet(["logs", program]).run().ok().says("b'x'");
        }
        assert!(json(&world, &["vpn", "show", "work"]).to_string().contains("192.0.2.2"));
        assert_eq!(up(&world), "lab: nothing to do\n");
        let dot = world.viewnet(["graph", "lab.toml"]).run().ok().stdout;
        assert!(dot.contains("\"program two\" -> \"stack work\" [label=\"to 10.9.0.1 via work\""), "{dot}");
        assert!(dot.contains("\"stack work\" -> \"switch wg:"), "{dot}");
        world.viewnet(["down"]).run().ok();
        let none = || json(&world, &["vpn", "ls"]) == serde_json::json!([]);
        assert!(wait_until(SOON, none), "the tunnel stays");
        world.write(
            "lab.toml",
            &format!("[program.own]\nvpn = 'office.conf'\ncommand = ['python3', '-c', \"{ask}\"]\n"),
        );
        world
            .viewnet(["up", "lab.toml", "--wait"])
            .run()
            .ok()
            .says("+ program own: in a stack of its own by /");
        world.viewnet(["logs", "own"]).run().ok().says("b'x'");
        world.viewnet(["down"]).run().ok();
    });
}

//! `viewnet up`: all that switches and ports can be told, links to elsewhere, and gateways, in one file.

use serde_json::Value;
use tests::{Outcome, User, World};

fn json(outcome: Outcome) -> Value {
    let outcome = outcome.ok();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e} in:\n{}", outcome.stdout))
}

const LAB: &str = r#"
[switch.left]
vde = "left.vde"
metrics = "unix:left.metrics"
stp = { priority = 4096, hello = 1 }
vlan.10 = { name = "office", rate = "50M" }

[switch.left.port.up]
link = "switch:right"
qos = { rate = "100M", classes = [1, 2, "strict"], default-pcp = 3 }
reserve.10 = { rate = "60M", max = "80M" }
stp = { cost = 20000 }
impair = { out = "delay 1ms", seed = 7 }

[switch.left.port."web.eth0"]
guard = { broadcast = 100, macs = 2, violation = "shutdown" }
pin = ["02:00:00:00:00:07 vlan 10"]

[switch.left.port."probe.eth0"]
mirror = { from = ["web.eth0", "up"], direction = "in" }

[switch.right]
stp = true
port.far = { link = "udp:127.0.0.1:45071[local 127.0.0.1:45070]", access = 20, shut = true }
port.over = { link = "impair:{vxlan:42[peer 127.0.0.1 local 127.0.0.1 port 45072]}[loss 1%]", trunk = "10,20" }

[gateway.right]
ip = ["10.9.0.1/24"]
isolate = true
allow = ["10.9.0.0/24:53"]

[stack.web]
kind = "smol"
interface = [{ name = "eth0", link = "switch:left[vlan 10]", ip = ["10.1.0.1/24"] }]

[stack.probe]
kind = "smol"
interface = [{ name = "eth0", link = "switch:left" }]

[stack.two]
kind = "smol"
interface = [{ name = "eth0", link = "impair:{switch:right[vlan 10]}[delay 2ms | seed 3]", ip = ["10.1.0.2/24"] }]

[program.httpd]
stack = "web"
command = ["python3", "-u", "-m", "http.server", "80"]

[program.get]
stack = "two"
command = "curl -sS --retry 9 --retry-connrefused --retry-all-errors -m 9 http://10.1.0.1/lab.toml | head -2 | tail -1"
after = ["httpd"]
"#;

#[test]
fn all_that_can_be_told_stands_in_the_file() {
    for &user in User::all() {
        eprintln!("as {user:?}");
        let world = World::new(user);
        world.write("lab.toml", LAB);
        let up = world.viewnet(["up", "lab.toml", "--wait=get"]).run().ok().stdout;
        for line in [
            "+ switch left: VLAN 10 office, VLAN 10 rate 50M, metrics unix:",
            "stp.enabled off → on, stp.hello 1, stp.priority 4096",
            "+ port left/up: switch:right, trunk all native 1, impair.out delay 1ms, impair.seed 7, qos.classes 1,2,strict, \
             qos.default-pcp 3, qos.rate 100M, reserve.10.max 80M, reserve.10.rate 60M, stp.cost 20000",
            "+ port right/far: udp:127.0.0.1:45071[local 127.0.0.1:45070], access 20, shut on",
            "+ gateway right: allow 10.9.0.0/24:53, ip 10.9.0.1/24, isolate on",
            "~ port left/web.eth0: guard.broadcast 100, guard.macs 2, guard.violation shutdown, pin 02:00:00:00:00:07 vlan 10",
            "~ port left/probe.eth0: mirror.direction in, mirror.from up,web.eth0",
        ] {
            assert!(up.contains(line), "no {line:?} in\n{up}");
        }
        world.viewnet(["logs", "get", "-n", "1"]).run().ok().says("[switch.left]");
        assert_eq!(world.viewnet(["up", "lab.toml"]).run().ok().stdout, "lab: nothing to do\n");
        check_told(&world);
        check_edits(&world);
        let dot = world.viewnet(["graph", "lab.toml"]).run().ok().stdout;
        for line in [
            "\"switch left\" -> \"switch right\" [label=\"up, trunk all native 1, qos, reserved, stp, impaired\"",
            "label=\"left\\nswitch\\nVLAN 10 office\\nspanning tree\"",
            "\"switch right\" -> \"port right/gateway\"",
            "\"stack two\" -> \"switch right\" [label=\"eth0 10.1.0.2/24 [vlan 10] impaired\"",
        ] {
            assert!(dot.contains(line), "no {line:?} in\n{dot}");
        }
        world.viewnet(["graph", "lab.toml", "--svg"]).run().ok().says("</svg>");
        world.viewnet(["down"]).run().ok().says("- gateway right\n");
        assert!(!world.home().join("left.vde").exists() && !world.home().join("left.metrics").exists());
        assert_eq!(world.viewnet(["gateway", "ls", "--json"]).run().ok().stdout, "[]\n");
    }
}

/// The switches were told so.
fn check_told(world: &World) {
    let ask = |words: &[&str]| json(world.viewnet(words.iter().copied().chain(["--json"])).run());
    let show = ask(&["switch", "show", "left"]);
    assert!(show["vde"].as_str().is_some_and(|path| path.ends_with("/left.vde")), "{show}");
    let tree = ask(&["switch", "stp", "left"]);
    assert_eq!((&tree["enabled"], &tree["config"]["priority"]), (&true.into(), &4096.into()), "{tree}");
    assert_eq!(ask(&["switch", "reserve", "ls", "left"])[0]["max_bps"], 80_000_000);
    assert_eq!(ask(&["switch", "qos", "ls", "left"])[0]["priority"]["default_pcp"], 3);
    assert_eq!(ask(&["switch", "guard", "ls", "left"])[0]["mac_limit"], 2);
    assert_eq!(ask(&["switch", "mirror", "ls", "left"])[0]["to"], "probe.eth0");
    assert_eq!(ask(&["switch", "port", "impair", "left"])[0]["seed"], 7);
    let macs = ask(&["switch", "mac", "ls", "left", "--port", "web.eth0"]);
    let pinned = macs.as_array().unwrap().iter().find(|mac| mac["static"] == true).unwrap();
    assert_eq!(pinned["mac"], "02:00:00:00:00:07", "{macs}");
    let impaired = ask(&["switch", "port", "impair", "right"]);
    let names: Vec<&str> = impaired.as_array().unwrap().iter().map(|i| i["port"].as_str().unwrap()).collect();
    assert!(names.contains(&"over") && names.contains(&"two.eth0"), "{impaired}");
    let guards = ask(&["switch", "guard", "ls", "right"]);
    assert_eq!((&guards[0]["port"], &guards[0]["shut"]), (&"far".into(), &"admin".into()), "{guards}");
    assert_eq!(ask(&["gateway", "show", "--switch", "right"])["rules"]["isolate"], true);
}

/// What is edited, or was changed by hand, is put right, and nothing else is touched.
fn check_edits(world: &World) {
    let table = [
        ("rate = \"50M\"", "rate = \"40M\"", "~ switch left: VLAN 10 rate 50M → 40M\n"),
        ("priority = 4096, ", "", "~ switch left: no stp.priority\n"),
        ("rate = \"100M\"", "rate = \"200M\"", "~ port left/up: qos.rate 100M → 200M\n"),
        ("max = \"80M\"", "max = \"90M\"", "~ port left/up: reserve.10.max 80M → 90M\n"),
        ("\"delay 1ms\"", "\"delay 2ms\"", "~ port left/up: impair.out delay 1ms → delay 2ms\n"),
        (", violation = \"shutdown\"", "", "~ port left/web.eth0: no guard.violation\n"),
        ("mirror = {", "#mirror = {", "~ port left/probe.eth0: no mirror.direction, no mirror.from\n"),
        (", shut = true", "", "~ port right/far: no shut\n"),
        ("isolate = true\n", "", "~ gateway right: no isolate\n"),
        ("10.9.0.1/24", "10.9.0.2/24", "~ gateway right: made anew: ip 10.9.0.1/24 → 10.9.0.2/24\n"),
        ("vde = \"left.vde\"\n", "", "~ switch left: no vde.path\n"),
        (
            "port 45072",
            "port 45073",
            "~ port right/over: now vxlan:42[peer 127.0.0.1:45073 local 127.0.0.1:45073 port 45073], trunk 10,20, impair.in loss 1%, impair.out loss 1%\n",
        ),
    ];
    let mut text = LAB.to_owned();
    for (from, to, expected) in table {
        text = text.replace(from, to);
        world.write("lab.toml", &text);
        let changed = world.viewnet(["up", "lab.toml"]).run().ok().stdout;
        let changed = changed.split("peer").next().unwrap() == expected.split("peer").next().unwrap()
            || changed == expected;
        assert!(changed, "{from} → {to}");
        assert_eq!(
            world.viewnet(["up", "lab.toml"]).run().ok().stdout,
            "lab: nothing to do\n",
            "{from} → {to}"
        );
    }
    // By hand.
    for (words, expected) in [
        (vec!["qos", "rm", "left", "web.eth0"], "lab: nothing to do\n"),
        (
            vec!["guard", "rm", "left", "web.eth0"],
            "~ port left/web.eth0: guard.broadcast 100, guard.macs 2\n",
        ),
        (
            vec!["port", "impair", "left", "up", "--out", "none"],
            "~ port left/up: impair.out delay 2ms, impair.seed 7\n",
        ),
        (vec!["port", "shut", "right", "over"], "~ port right/over: no shut\n"),
        (vec!["set", "left", "--metrics", "off"], "~ switch left: metrics unix:"),
        (
            vec!["port", "rm", "left", "up"],
            "+ port left/up: switch:right, trunk all native 1, impair.out delay 2ms",
        ),
    ] {
        world.viewnet(["switch"].into_iter().chain(words)).run().ok();
        let put_right = world.viewnet(["up", "lab.toml"]).run().ok().stdout;
        assert!(put_right.starts_with(expected), "{put_right} is not {expected}");
        assert_eq!(world.viewnet(["up", "lab.toml"]).run().ok().stdout, "lab: nothing to do\n");
    }
}

#[test]
fn a_switch_by_itself_is_told_the_same() {
    let world = World::new(User::Ordinary);
    world.write(
        "lan.toml",
        "stp = true\nvlan.7 = { rate = '1M' }\n[port.far]\nlink = 'udp:127.0.0.1:45081[local 127.0.0.1:45080]'\nqos.rate = '5M'\n",
    );
    world.viewnet(["switch", "up", "lan", "--config", "lan.toml"]).run().ok();
    assert_eq!(
        json(world.viewnet(["switch", "qos", "ls", "lan", "--json"]).run())[0]["shape"]["rate_bps"],
        5_000_000
    );
    assert_eq!(json(world.viewnet(["switch", "stp", "lan", "--json"]).run())["enabled"], true);
    world.viewnet(["switch", "down", "lan"]).run().ok();
    // What the switch would refuse is refused before there is one.
    for (text, expected) in [
        ("port.a = { tap = 't', reserve.1 = '1M' }", "line 1, column 35: the port has no rate"),
        ("port.a = { tap = 't', qos = { rate = '1M' }, reserve.1 = '1M' }", "75 % may be reserved"),
        (
            "port.a = { tap = 't', stp.priority = 3 }",
            "line 1, column 38: a port's priority is a multiple of 16",
        ),
        ("stp = { priority = 1 }", "a bridge's priority is a multiple of 4096"),
        ("port.a = { tap = 't', qos.rte = '1M' }", "unknown field `rte`"),
        ("port.a = { tap = 't', qos.rate = '1X' }", "line 1, column 34: `1X` is no rate"),
        ("port.a = { tap = 't', impair.in = 'delay' }", "line 1, column 35: "),
        ("port.a = { link = 'vde:/x[lamp on]' }", "not a word of this kind of link"),
        ("port.a = { tap = 't', nic = 'n' }", "it leads to two places; give one of `tap`, `nic` and `link`"),
        ("port.a = { link = 'impair:{tap:t}[loss 1%]', impair.in = 'loss 2%' }", "the link says it, too"),
        ("port.a = { tap = 't', trunk = '10', pin = ['02:00:00:00:00:01'] }", "add"),
        ("port.a = { mirror = 'all' }", "what is it?"),
    ] {
        world.write("bad.toml", text);
        let refused = world.viewnet(["switch", "up", "bad", "--config", "bad.toml"]).run().code(1).stderr;
        let expected = if expected == "add" { "vlan N` with one of its VLANs" } else { expected };
        assert!(refused.contains(expected), "{text}: {refused}");
    }
    assert_eq!(world.viewnet(["switch", "ls", "--json"]).run().ok().stdout, "[]\n");
}

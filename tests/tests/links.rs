//! Links of stacks to elsewhere: the same words for kernel and smol stacks, whoever is at the other end.

use serde_json::Value;
use tests::{Outcome, SOON, World, each_user, wait_until};

const KINDS: [&str; 2] = ["kernel", "smol"];

fn json(outcome: Outcome) -> Value {
    let outcome = outcome.ok();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e} in:\n{}", outcome.stdout))
}

/// A name that is asked for over UDP is answered: `there` is a stack that is kept, its link being `their_link`, and the
/// one who asks has `our_link`.
fn talk(world: &World, kind: &str, their_link: &str, our_kind: &str, our_link: &str) {
    let link = format!("{their_link},ip=10.3.0.1/24");
    world.viewnet(["stack", "up", "there", "--kind", kind, "--link", &link]).run().ok();
    let server = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.3.0.1', 53))\n\
                  print('up', flush=True); d, a = s.recvfrom(2000); s.sendto(d[::-1], a)";
    let mut server = world.run(["--stack", "there", "--", "python3", "-c", server]).start();
    server.until("up");
    let client = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n\
                  s.connect(('10.3.0.1', 53))\n\
                  for _ in range(9):\n\
                  \x20   try: s.send(b'x' * 1400 + b'olleh'); print(s.recv(2000)[:5].decode()); break\n\
                  \x20   except TimeoutError: pass";
    let link = format!("{our_link},ip=10.3.0.2/24");
    let asked = world.run(["--kind", our_kind, "--link", &link, "--", "python3", "-c", client]).run().ok();
    assert_eq!(asked.stdout, "hello\n", "{kind} {their_link}, {our_kind} {our_link}: {}", asked.stderr);
    server.wait();
    // What crossed is counted where it came out.
    let metrics = world.viewnet(["metrics"]).run().ok().stdout;
    for (way, least) in
        [("receive_packets", 1), ("receive_bytes", 1405), ("transmit_packets", 1), ("transmit_bytes", 1405)]
    {
        let name = format!("viewnet_interface_{way}_total{{stack=\"there\",interface=\"eth0\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        assert!(line.is_some_and(|count| count.parse::<u64>().unwrap() >= least), "{kind} {name}{line:?}");
    }
    world.viewnet(["stack", "down", "there", "--force"]).run().ok();
}

/// Switches that carried a link go with their stacks.
fn no_wires(world: &World) {
    let names = || world.viewnet(["switch", "ls", "--json"]).run().ok().stdout;
    assert!(wait_until(SOON, || !names().contains("\"wire-")), "{}", names());
}

#[test]
fn debians_vde_switch_joins_stacks_of_both_kinds() {
    each_user(|world| {
        let folder = world.home().join("v.ctl");
        let switch = world.cmd("vde_switch").args(["-sock", folder.to_str().unwrap()]).keep_stdin().start();
        assert!(wait_until(SOON, || folder.join("ctl").exists()));
        for kind in KINDS {
            for other in KINDS {
                // The path is relative to where the command runs.
                talk(&world, kind, "vde:v.ctl", other, "vde:v.ctl[port 9]");
            }
        }
        // One that may not plug in says so, and leaves nothing.
        for kind in KINDS {
            let refused = world.run(["--kind", kind, "--link", "vde:none.ctl", "--", "true"]).run().code(125);
            assert!(refused.stderr.contains("none.ctl"), "{}", refused.stderr);
        }
        no_wires(&world);
        switch.kill_group();
        switch.wait();
    });
}

#[test]
fn udp_and_vxlan_join_stacks_of_both_kinds() {
    each_user(|world| {
        for (kind, other) in [("kernel", "smol"), ("smol", "kernel"), ("smol", "smol")] {
            let there = "udp:127.0.0.1:45091[local 127.0.0.1:45090]";
            talk(&world, kind, there, other, "udp:127.0.0.1:45090[local 127.0.0.1:45091]");
            let there = "vxlan:42[peer 127.0.0.1:45093 local 127.0.0.1:45092]";
            talk(&world, kind, there, other, "vxlan:42[peer 127.0.0.1:45092 local 127.0.0.1:45093]");
            no_wires(&world);
        }
        // QEMU's stream: who listens may be another wire.
        let refused = world.run(["--link", "qemu:/nowhere/q.sock", "--", "true"]).run().code(125);
        assert!(refused.stderr.contains("nobody listens at /nowhere/q.sock"), "{}", refused.stderr);
        talk(&world, "smol", "qemu:./q.sock[listen]", "kernel", "qemu:./q.sock");
    });
}

#[test]
fn links_misbehave_as_they_are_told() {
    each_user(|world| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        for kind in KINDS {
            talk(&world, kind, "switch:lan", kind, "impair:{switch:lan}[delay 5ms | seed 3]");
            let far = "udp:127.0.0.1:45095[local 127.0.0.1:45094]";
            let near = "impair:{udp:127.0.0.1:45094[local 127.0.0.1:45095]}[out delay 3ms, rate 10M]";
            talk(&world, kind, far, kind, near);
            // `in` is what comes to the stack.
            let link = "impair:{switch:lan[vlan 7]}[in loss 100% | out delay 1ms],ip=10.3.0.1/24";
            world.viewnet(["stack", "up", "deaf", "--kind", kind, "--link", link]).run().ok();
            let impaired = json(world.viewnet(["switch", "port", "impair", "lan", "--json"]).run());
            assert_eq!(
                (&impaired[0]["port"], &impaired[0]["in"]["spec"], &impaired[0]["out"]["spec"]),
                (&"deaf.eth0".into(), &"delay 1ms".into(), &"loss 100%".into()),
                "{impaired}"
            );
            world.viewnet(["stack", "down", "deaf"]).run().ok();
        }
        world.viewnet(["switch", "down", "lan"]).run().ok();
        no_wires(&world);
    });
}

#[test]
fn what_crosses_a_wire_is_seen_and_changed_there() {
    each_user(|world| {
        let link = "udp:127.0.0.1:45097[local 127.0.0.1:45096],ip=10.3.0.1/24";
        world.viewnet(["stack", "up", "near", "--kind", "kernel", "--link", link]).run().ok();
        let stacks = json(world.viewnet(["top", "--json", "-i", "0.1"]).run());
        assert_eq!(stacks["stacks"][0]["name"], "near", "{stacks}");
        assert!(stacks["stacks"][0]["rx_bits_per_s"].is_number(), "{stacks}");
        let switches = json(world.viewnet(["switch", "ls", "--json"]).run());
        let wire = switches[0]["name"].as_str().unwrap().to_owned();
        world.viewnet(["switch", "port", "impair", &wire, "link", "--in", "loss 1%"]).run().ok();
        let ports = json(world.viewnet(["switch", "port", "ls", &wire, "--json"]).run());
        let peers: Vec<&str> =
            ports.as_array().unwrap().iter().filter_map(|port| port["peer"].as_str()).collect();
        assert_eq!(peers, ["udp:127.0.0.1:45097[local 127.0.0.1:45096]"], "{ports}");
        let mut seen = world.viewnet(["capture", &wire, "-c", "1", "arp"]).start();
        let shout = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                     while True: s.sendto(b'x', ('10.3.0.2', 9)); time.sleep(0.1)";
        let shouter = world.run(["--stack", "near", "--", "python3", "-c", shout]).start();
        seen.until("10.3.0.2");
        seen.wait().ok();
        shouter.kill_group();
        shouter.wait();
        world.viewnet(["stack", "down", "near", "--force"]).run().ok();
        no_wires(&world);
    });
}

#[test]
fn ports_of_stacks_have_any_rules() {
    each_user(|world| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        for kind in KINDS {
            for (rules, mode) in [
                ("hybrid 10,20 untagged 20 pvid 20", "hybrid"),
                ("tunnel 7", "tunnel"),
                ("service 10 native 3", "service"),
            ] {
                let link = format!("switch:lan[{rules}]");
                world.viewnet(["stack", "up", "s", "--kind", kind, "--link", &link]).run().ok();
                let ports = json(world.viewnet(["switch", "port", "ls", "lan", "--json"]).run());
                assert_eq!(ports[0]["vlans"]["mode"], mode, "{ports}");
                let shown = json(world.viewnet(["stack", "show", "s", "--json"]).run());
                assert_eq!(shown["interfaces"][1]["link"], link, "{shown}");
                world.viewnet(["stack", "down", "s"]).run().ok();
            }
        }
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

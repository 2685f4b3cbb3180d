//! Who may use a switch, who may give it an interface of the machine, and what can be changed while it runs.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use tests::{User, World};

/// A user of the switch's group, and one of another.
const MEMBER: [&str; 4] = ["setpriv", "--reuid=64996", "--regid=64990", "--clear-groups"];
const STRANGER: [&str; 4] = ["setpriv", "--reuid=64996", "--regid=64991", "--clear-groups"];

#[test]
fn the_group_of_a_switch_may_look_and_plug_in_and_no_more() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can be several users");
    }
    let world = World::new(User::Root);
    let path = world.folder().join("bin/lan");
    let path = path.to_str().unwrap();
    world.viewnet(["switch", "up", path, "--mode", "0660", "--group", "64990"]).run().ok();
    assert_eq!(std::fs::metadata(path).unwrap().gid(), 64990);
    let runtime = world.folder().join("guest");
    std::fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::chown(&runtime, Some(64996), None).unwrap();
    let runtime = format!("XDG_RUNTIME_DIR={}", runtime.display());
    let act = |who: &[&str], words: &[&str]| {
        let cmd = world.cmd(who[0]).args(&who[1..]).args(["env", &runtime, "viewnet"]);
        cmd.args(words).run()
    };
    let plugged = |vlan| format!("switch:{path}{vlan},ip=10.7.0.1/24");
    let plug = |who, vlan| act(who, &["run", "--kind", "smol", "--link", &plugged(vlan), "--", "true"]);
    act(&MEMBER, &["switch", "show", path]).ok();
    plug(&MEMBER, "").ok();
    for (outcome, why) in [
        (act(&MEMBER, &["switch", "set", path, "--age", "5"]), "user"),
        (act(&MEMBER, &["switch", "vlan", "add", path, "7"]), "user"),
        (plug(&MEMBER, "[vlan 7]"), "user"),
        (act(&STRANGER, &["switch", "show", path]), "ermission denied"),
        (plug(&STRANGER, ""), "ermission denied"),
    ] {
        assert!(outcome.stderr.starts_with("viewnet: ") && outcome.stderr.contains(why), "{outcome:?}");
    }
    // While it runs.
    world.viewnet(["switch", "set", path, "--group", "64991"]).run().ok();
    act(&STRANGER, &["switch", "show", path]).ok();
    act(&MEMBER, &["switch", "show", path]).code(1);
    world.viewnet(["switch", "down", path]).run().ok();
}

#[test]
fn an_interface_of_the_machine_takes_privilege_and_says_so() {
    for &user in User::all() {
        let world = World::new(user);
        world.viewnet(["switch", "up", "lan"]).run().ok();
        if user == User::Ordinary {
            let refused =
                world.viewnet(["switch", "port", "add", "lan", "up0", "--nic", "lo"]).run().code(1).stderr;
            let said = "viewnet: cannot take the interface `lo`: not permitted in this network; run it inside a view";
            assert!(refused.starts_with(said) && refused.contains("or as root"), "{refused}");
        }
        if world.has_own_host() {
            // As it says: root opens it, and passes the descriptor on.
            let socket = world.runtime().join("viewnet/switches/lan").display().to_string();
            world.administer(&["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
            world.administer(&["ip", "addr", "add", "10.7.0.1/24", "dev", "v0"]);
            world.administer(&["ip", "link", "set", "v0", "up"]);
            world.administer(&["ip", "link", "set", "v1", "up"]);
            let viewnet = world.folder().join("bin/viewnet").display().to_string();
            world.administer(&[&viewnet, "switch", "port", "add", &socket, "up0", "--nic", "v1"]);
            world.viewnet(["switch", "port", "ls", "lan"]).run().ok().says("packet");
            let link = "switch:lan,ip=10.7.0.2/24";
            world
                .run(["--kind", "smol", "--link", link, "--", "ping", "-c", "1", "-W", "9", "10.7.0.1"])
                .run()
                .ok();
        }
        world.viewnet(["switch", "down", "lan"]).run().ok();
    }
}

/// A command, what to ask afterwards, where in the answer, and what is there; `null` for nothing.
const CHANGES: [(&str, &str, &str, &str); 28] = [
    ("port set lan a --trunk 10,20-29 --native 1", "port ls lan", "/0/vlans/allowed", "\"10,20-29\""),
    (
        "qos set lan a --rate 100M --classes 1,2,strict",
        "qos ls lan",
        "/0/shape/classes",
        "[\"1\",\"2\",\"strict\"]",
    ),
    (
        "qos set lan a --default-pcp 3 --police 50M --exceed mark",
        "qos ls lan",
        "/0/police/exceed",
        "\"mark\"",
    ),
    ("qos set lan a --map-out 0,0,1,1,2,2,3,3", "qos ls lan", "/0/priority/egress", "[0,0,1,1,2,2,3,3]"),
    ("reserve add lan --vlan 10 --port a --rate 60M", "reserve ls lan", "/0/free_bps", "15000000"),
    ("guard set lan a --broadcast 100 --macs 2", "guard ls lan", "/0/mac_limit", "2"),
    ("vlan add lan 10 --name office", "vlan ls lan", "/1/name", "\"office\""),
    ("vlan set lan 10 --rate 50M", "vlan ls lan", "/1/police/rate_bps", "50000000"),
    ("mac add lan 02:00:00:00:00:07 --port a --vlan 10", "mac ls lan", "/0/static", "true"),
    ("mirror add lan --from a --direction in --vlan 10 --to b", "mirror ls lan", "/0/vlans", "\"10\""),
    (
        "port impair lan a --in delay\u{a0}20ms\u{a0}normal\u{a0}5ms --seed 7",
        "port impair lan",
        "/0/in/spec",
        "\"delay 20ms normal 5ms\"",
    ),
    (
        "port impair lan a --out loss\u{a0}gilbert\u{a0}1%\u{a0}10%",
        "port impair lan",
        "/0/out/spec",
        "\"loss gilbert 1% 10% 100% 0%\"",
    ),
    ("port shut lan a", "guard ls lan", "/0/shut", "\"admin\""),
    ("vde keep lan 7 --access 10", "vde ls lan", "/0/number", "7"),
    ("set lan --stp on --priority 4096", "stp lan", "/config/priority", "4096"),
    ("port set lan a --stp-cost 2 --bpdu-guard on", "stp lan", "/ports/0/told_cost", "2"),
    ("set lan --age 60", "show lan", "/age_s", "60"),
    // And back.
    ("port impair lan a --in none --out none", "port impair lan", "/0", "null"),
    ("port open lan a", "guard ls lan", "/0/shut", "null"),
    ("reserve rm lan --vlan 10 --port a", "reserve ls lan", "/0", "null"),
    ("qos rm lan a", "qos ls lan", "/0", "null"),
    ("guard rm lan a", "guard ls lan", "/0", "null"),
    ("mac rm lan 02:00:00:00:00:07 --vlan 10", "mac ls lan", "/0", "null"),
    ("vlan set lan 10 --rate off", "vlan ls lan", "/1/police", "null"),
    ("vde release lan 7", "vde ls lan", "/0", "null"),
    ("vlan rm lan 10", "port ls lan", "/0/vlans/allowed", "\"20-29\""),
    ("mirror rm lan b", "mirror ls lan", "/0", "null"),
    ("set lan --stp off", "stp lan", "/enabled", "false"),
];

#[test]
fn everything_is_changed_by_the_command_line_while_it_runs() {
    let world = World::new(User::Ordinary);
    // A space within a word is written as one that does not break.
    let switch = |line: &str| {
        let words = line.split(' ').map(|word| word.replace('\u{a0}', " "));
        world.viewnet(std::iter::once("switch".to_owned()).chain(words)).run()
    };
    switch("up lan").ok();
    switch("port add lan a --udp 127.0.0.1:45191[local\u{a0}127.0.0.1:45190]").ok();
    switch("port add lan b --udp 127.0.0.1:45193[local\u{a0}127.0.0.1:45192]").ok();
    for (command, ask, place, expected) in CHANGES {
        switch(command).ok();
        let told = switch(&format!("{ask} --json")).ok().stdout;
        let told: Value = serde_json::from_str(&told).unwrap();
        let found = told.pointer(place).unwrap_or(&Value::Null);
        assert_eq!(found.to_string(), expected, "{command}: {told}");
    }
    switch("qos set lan a --rate 100M").ok();
    switch("reserve add lan --vlan 20 --port a --rate 60M").ok();
    let refused = switch("reserve add lan --vlan 21 --port a --rate 60M").code(1).stderr;
    let why = "60 Mbit/s do not fit: of the port's 100 Mbit/s, 75 % may be reserved, 60 Mbit/s are, 15 Mbit/s are free";
    assert!(refused.starts_with(&format!("viewnet: cannot reserve: {why}; ")), "{refused}");
    switch("down lan").ok();
}

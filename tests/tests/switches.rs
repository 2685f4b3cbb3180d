//! Who may use a switch, and who may give it an interface of the machine.

use std::os::unix::fs::MetadataExt;

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

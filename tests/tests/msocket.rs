//! msocket(3) from C: with a supervisor of either kind and without any, dynamic and static, as every user.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tests::binaries::{Linkage, libmsocket, msocket_program};
use tests::{Cmd, User, World};

/// Interfaces of the stacks, which are plugged into nothing.
const NETWORK: [&str; 6] = ["--link", "none", "--ip", "10.9.0.1/24", "--ip", "2001:db8::1/64"];

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Nowhere,
    InKernel,
    InSmol,
}

impl Where {
    fn command(self, world: &World, program: &Path, args: &[&str]) -> Cmd {
        let cmd = match self {
            Self::Nowhere => world.cmd(program),
            Self::InKernel => world.alone(["--stack", "kernel", "--"]).args([program]),
            Self::InSmol => world.alone(["--stack", "smol", "--"]).args([program]),
        };
        cmd.args(args).env("LD_LIBRARY_PATH", world.folder().join("bin"))
    }
}

fn up(world: &World, name: &str, kind: &str) {
    world.viewnet(["stack", "up", name, "--kind", kind]).args(NETWORK).run().ok();
}

fn check(kind: &str, places: &[Where]) {
    for user in User::all() {
        let world = World::new(*user);
        world.install(&libmsocket().join("libmsocket.so"), "libmsocket.so");
        for linkage in [Linkage::Dynamic, Linkage::Static] {
            let program =
                world.install(&msocket_program("msocket", linkage), &format!("msocket-{linkage:?}"));
            for place in places {
                up(&world, "lan", kind);
                let path = world.runtime().join("viewnet/stacks/lan");
                let path = path.display();
                let down = format!("viewnet stack down --force lan; while [ -e {path} ]; do sleep .02; done");
                let said = place.command(&world, &program, &["lan", &down]).run().ok().stdout;
                let bad: Vec<_> = said.lines().filter(|line| !line.starts_with("ok ")).collect();
                assert!(bad.is_empty(), "{kind} {user:?} {linkage:?} {place:?}: {bad:#?}");
                assert!(said.lines().count() >= 18, "{said}");
            }
        }
    }
}

#[test]
fn kernel_stacks() {
    check("kernel", &[Where::Nowhere, Where::InKernel, Where::InSmol]);
}

#[test]
fn smol_stacks() {
    check("smol", &[Where::Nowhere, Where::InKernel, Where::InSmol]);
}

/// A one-line program: tells what msocket() says of a stack, as the errno's name.
fn errno_of(world: &World, place: Where, stack: &str) -> String {
    let program = world.install(&msocket_program("msocket_errno", Linkage::Dynamic), "errno");
    place.command(world, &program, &[stack]).run().stdout.trim().to_owned()
}

#[test]
fn what_may_not_be_had_is_refused() {
    for user in User::all() {
        let world = World::new(*user);
        world.install(&libmsocket().join("libmsocket.so"), "libmsocket.so");
        up(&world, "lan", "kernel");
        up(&world, "lib", "smol");
        for place in [Where::InKernel, Where::InSmol] {
            assert_eq!(errno_of(&world, place, "host"), "EACCES", "a view has no host's network");
            assert_eq!(errno_of(&world, place, "lan"), "0");
            assert_eq!(errno_of(&world, place, "lib"), "0");
        }
        assert_eq!(errno_of(&world, Where::Nowhere, "host"), "0");
        if *user == User::Root {
            // Whoever gave its rights up does not get them back from the supervisor, who has them.
            let program = world.folder().join("bin/errno");
            for kind in ["kernel", "smol"] {
                let demoted = ["--stack", kind, "--", "setpriv", "--reuid", "65534", "--clear-groups"];
                let path = world.runtime().join("viewnet/stacks/lan");
                let cmd = world.run(demoted).args([&program, &path]);
                let said = cmd.env("LD_LIBRARY_PATH", world.folder().join("bin")).run().ok().stdout;
                assert_eq!(said.trim(), "EACCES", "{kind}");
            }
        }
        if *user == User::Ordinary {
            let path = world.runtime().join("viewnet/stacks/lan");
            fs::set_permissions(&path, Permissions::from_mode(0o000)).expect("chmod");
            // The supervisor of a kernel view is root over its user's own files; the owner could change the mode.
            for place in [Where::Nowhere, Where::InSmol] {
                assert_eq!(errno_of(&world, place, "lan"), "EACCES", "{place:?}");
            }
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
        }
        world.viewnet(["stack", "down", "lan"]).run().ok();
        world.viewnet(["stack", "down", "lib"]).run().ok();
    }
}

#[test]
fn the_stacks_of_others_are_theirs() {
    // Only root can play two users.
    if !User::all().contains(&User::Root) {
        return;
    }
    let (world, other) = (World::new(User::Ordinary), World::new(User::Ordinary));
    world.install(&libmsocket().join("libmsocket.so"), "libmsocket.so");
    up(&other, "lan", "kernel");
    let path = other.runtime().join("viewnet/stacks/lan");
    for place in [Where::Nowhere, Where::InKernel, Where::InSmol] {
        assert_eq!(errno_of(&world, place, path.to_str().expect("UTF-8")), "EACCES", "{place:?}");
    }
    other.viewnet(["stack", "down", "lan"]).run().ok();
}

/// Starts a program of `examples/c` and waits until it listens.
fn listening(world: &World, name: &str, args: &[&str]) -> tests::Running {
    let mut running = example(world, name, args).start();
    running.until("listening");
    running
}

fn example(world: &World, name: &str, args: &[&str]) -> Cmd {
    let program =
        world.install(&msocket_program(&format!("../../examples/c/{name}"), Linkage::Dynamic), name);
    Where::Nowhere.command(world, &program, args)
}

#[test]
fn the_examples_in_c() {
    examples("kernel");
}

#[test]
fn the_examples_in_c_on_smol_stacks() {
    examples("smol");
}

fn examples(kind: &str) {
    for user in User::all() {
        let world = World::new(*user);
        world.install(&libmsocket().join("libmsocket.so"), "libmsocket.so");
        world.viewnet(["switch", "up", "near"]).run().ok();
        world.viewnet(["switch", "up", "far"]).run().ok();
        let up = |name: &str, switch: &str, ip: &str| {
            let link = format!("switch:{switch},ip={ip}/24");
            world.viewnet(["stack", "up", name, "--kind", kind, "--link", &link]).run().ok();
        };
        (1..=6).for_each(|host| up(&format!("s{host}"), "near", &format!("10.82.0.{host}")));
        (1..=2).for_each(|host| up(&format!("r{host}"), "far", &format!("10.83.0.{host}")));
        let five = listening(&world, "five", &["80", "s1", "s2", "s3", "s4", "s5"]);
        let far = listening(&world, "five", &["80", "r2"]);
        let proxy = listening(&world, "proxy", &["s6", "8080", "r1", "10.83.0.2", "80"]);
        let three = ["s1", "10.82.0.2", "80", "s6", "10.82.0.5", "80", "r1", "10.83.0.2", "80"];
        let said = example(&world, "three", &three).run().ok().stdout;
        assert_eq!(said, "by s1: s2\nby s6: s5\nby r1: r2\n");
        let said = example(&world, "three", &["s2", "10.82.0.6", "8080"]).run().ok().stdout;
        assert_eq!(said, "by s2: r2\n", "across the proxy");
        drop((five, far, proxy));
        for name in ["s1", "s2", "s3", "s4", "s5", "s6", "r1", "r2"] {
            world.viewnet(["stack", "down", "--force", name]).run().ok();
        }
        for name in ["near", "far"] {
            world.viewnet(["switch", "down", name]).run().ok();
        }
    }
}

#[test]
fn the_library_exports_its_functions_and_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut nm = Command::new("nm");
    nm.args(["-D", "--defined-only", "--format=just-symbols"]).arg(libmsocket().join("libmsocket.so"));
    let nm = nm.output().expect("nm, of binutils");
    let mut exported: Vec<_> =
        String::from_utf8(nm.stdout).expect("symbols").lines().map(str::to_owned).collect();
    exported.sort();
    let list = fs::read_to_string(root.join("msocket/capi/exports")).expect("the list");
    assert_eq!(exported, list.lines().collect::<Vec<_>>());
    // The others are libc's.
    exported.retain(|name| name.starts_with("msocket"));
    let header = fs::read_to_string(root.join("msocket/include/msocket.h")).expect("the header");
    let manual = fs::read_to_string(root.join("doc/msocket.3")).expect("the manual");
    for name in &exported {
        assert!(header.contains(&format!("{name}(")), "{name} is not in msocket.h");
        assert!(manual.contains(name.as_str()), "{name} is not in msocket.3");
    }
}

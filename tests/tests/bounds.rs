//! What views, stacks and their servers must keep apart: rights, names, files, the machine's own devices.

use tests::{SOON, User, World, each_user, wait_until};

/// Another user than root, as a prefix of a command of root's.
const OTHER: [&str; 5] = ["--reuid", "64997", "--regid", "64997", "--clear-groups"];

fn root_world() -> Option<World> {
    if User::all().contains(&User::Root) {
        return Some(World::new(User::Root));
    }
    eprintln!("not tested: only root can be two users");
    None
}

#[test]
fn only_the_views_owner_may_ask_for_a_nested_view() {
    const ASK: &str = "
import json, os, socket
def ask(**request):
    s = socket.socket(0x766e, 1, 0)
    s = socket.socket(socket.AF_UNIX, 1, fileno=os.dup(s.fileno()))
    s.sendall(json.dumps(request).encode() + b'\\n')
    print(s.recv(4096).decode().strip())
ask(op='view', name='x', stack='none')
ask(op='view', name='/tmp/../x', stack={'new': {}})
ask(op='nonsense')
";
    let Some(world) = root_world() else { return };
    let own = world.alone(["--", "python3", "-c", ASK]).run().ok().stdout;
    let lines: Vec<&str> = own.lines().collect();
    assert!(lines[0].contains("\"ok\"") && lines[1].contains("its name is none"), "{own}");
    assert!(lines[2].contains("cannot read the request"), "{own}");
    let dropped = world.alone(["--", "setpriv"]).args(OTHER).args(["python3", "-c", ASK]).run().ok().stdout;
    assert!(dropped.lines().take(2).all(|line| line.contains("not the user")), "{dropped}");
}

#[test]
fn a_guest_of_a_stack_gets_no_raw_sockets() {
    const TRY: &str = "
import socket, errno
for domain, kind in ((2, 2), (2, 3), (17, 3), (2, 10), (40, 1)):
    try: socket.socket(domain, kind, 1 if kind == 3 and domain == 2 else 0); print('ok')
    except OSError as e: print(errno.errorcode[e.errno])
";
    let Some(world) = root_world() else { return };
    let path = world.folder().join("bin/guests.stack");
    let path = path.to_str().unwrap();
    world.viewnet(["stack", "up", path, "--mode", "0666", "--link", "none"]).run().ok();
    let runtime = world.folder().join("guest");
    std::fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::chown(&runtime, Some(64997), Some(64997)).unwrap();
    std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let guest =
        world.cmd("setpriv").args(OTHER).args(["env", &format!("XDG_RUNTIME_DIR={}", runtime.display())]);
    let outcome = guest.args(["viewnet", "run", "--stack", path, "--", "python3", "-c", TRY]).run().ok();
    assert_eq!(outcome.stdout, "ok\nEPERM\nEPERM\nEPERM\nEAFNOSUPPORT\n");
    world.viewnet(["stack", "down", path]).run().ok();
}

#[test]
fn the_machines_bridges_are_out_of_reach() {
    const MAKE: &str = "
import fcntl, socket, errno
for request in (0x89a0, 0x8990, 0x89b1, 0x89f0):
    try: fcntl.ioctl(socket.socket(socket.AF_UNIX), request, b'vnbounds0' + bytes(31)); print('ok')
    except OSError as e: print(errno.errorcode[e.errno])
";
    each_user(|world| {
        let outcome = world.alone(["--", "python3", "-c", MAKE]).run().ok();
        assert_eq!(outcome.stdout, "EPERM\nEPERM\nEPERM\nENOTSUP\n");
    });
}

#[test]
fn three_levels_deep_the_innermost_view_counts() {
    each_user(|world| {
        let link = |n: u8| format!("none,ip=10.{n}.0.1/24");
        for _ in 0..4 {
            let (one, two, three) = (link(1), link(2), link(3));
            let outer = world.run(["--link", &one, "--", "viewnet", "run", "--link", &two, "--"]);
            let inner =
                ["viewnet", "run", "--link", &three, "--", "sh", "-c", "ip -br addr; env -i ip -br addr"];
            let seen = outer.args(inner).env("VIEWNET_VIEW", "1.1").run().ok().stdout;
            assert!(seen.matches("10.3.0.1").count() == 2 && !seen.contains("10.2.0.1"), "{seen}");
        }
    });
}

#[test]
fn a_mark_from_elsewhere_moves_nobody() {
    each_user(|world| {
        let script = "viewnet run --link none,ip=10.2.0.1/24 -- sleep 1 & sleep 0.5; ip -br addr; env | grep VIEWNET_VIEW; wait";
        let outcome = world
            .run(["--link", "none,ip=10.1.0.1/24", "--", "sh", "-c", script])
            .env("VIEWNET_VIEW", "1")
            .run()
            .ok();
        assert!(
            outcome.stdout.contains("10.1.0.1") && !outcome.stdout.contains("VIEWNET_VIEW"),
            "{}",
            outcome.stdout
        );
    });
}

#[test]
fn a_view_can_join_its_own_stack_and_not_from_another_network() {
    each_user(|world| {
        let own = [
            "--name",
            "mine",
            "--link",
            "none,ip=10.1.0.1/24",
            "--",
            "viewnet",
            "run",
            "--stack",
            "mine",
            "--",
        ];
        world.run(own).args(["ip", "-br", "addr"]).run().ok().says("10.1.0.1");
        let left = world
            .alone(["--", "unshare", "-rn", "viewnet", "run", "--link", "lo", "--", "true"])
            .run()
            .code(125);
        assert!(left.stderr.contains("cannot make a view"), "{}", left.stderr);
    });
}

#[test]
fn a_name_is_free_again_at_once() {
    each_user(|world| {
        for _ in 0..5 {
            world.run(["--name", "again", "--ip", "10.0.0.9/24", "--", "true"]).run().ok();
        }
    });
}

#[test]
fn an_ending_server_leaves_others_files_alone() {
    each_user(|world| {
        world.viewnet(["stack", "up", "a", "--link", "none"]).run().ok();
        world.viewnet(["stack", "up", "web", "--link", "none"]).run().ok();
        world.viewnet(["stack", "down", "web"]).run().ok();
        let mut running =
            world.alone(["--name", "web", "--", "sh", "-c", "echo up; read line"]).keep_stdin().start();
        running.until("up");
        world.viewnet(["stack", "down", "a"]).run().ok();
        let keeper = world.runtime().join("viewnet/keeper");
        assert!(wait_until(SOON, || !keeper.exists()), "the keeper stays");
        world.viewnet(["stack", "show", "web"]).run().ok().says("run");
        running.close_stdin();
        running.wait();
    });
}

#[test]
fn kinds_are_no_names() {
    each_user(|world| {
        for kind in ["kernel", "none", "host", "smol"] {
            let outcome = world.viewnet(["stack", "up", kind]).run().code(1);
            assert!(outcome.stderr.contains("name of a kind"), "{}", outcome.stderr);
        }
    });
}

#[test]
fn all_stacks_of_a_user_hang_under_one_user_namespace() {
    each_user(|world| {
        world.viewnet(["stack", "up", "kept", "--link", "none"]).run().ok();
        let start = |name: &str| {
            let mut view =
                world.alone(["--name", name, "--", "sh", "-c", "echo up; read line"]).keep_stdin().start();
            view.until("up");
            view
        };
        let views = ["one", "two"].map(start);
        let namespace = |pid| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        let home = namespace(nix::unistd::getpid());
        let makers: Vec<_> =
            world.supervisors().into_iter().map(namespace).filter(|ns| *ns != home).collect();
        assert!(makers.len() >= 3, "{makers:?}");
        assert!(makers.iter().all(|ns| *ns == makers[0]), "{makers:?}");
        for mut view in views {
            view.close_stdin();
            view.wait();
        }
        world.viewnet(["stack", "down", "kept"]).run().ok();
    });
}

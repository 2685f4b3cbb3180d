//! `viewnet doctor` on this machine, and on the same machine with something taken away.
//!
//! The verdicts of machines that cannot be had here are unit tests in `viewnet/src/doctor`.

use serde_json::Value;
use tests::{Cmd, User, World};

/// `script` in a user namespace of its own, where even a test may change limits.
fn restricted(world: &World, script: &str) -> Cmd {
    world.cmd("unshare").args(["--user", "--map-root-user", "sh", "-c", script])
}

fn verdict<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks
        .iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no check {name} in {report}"))
}

#[test]
fn everything_run_needs_is_here() {
    for &user in User::all() {
        let world = World::new(user);
        let outcome = world.viewnet(["doctor", "--json"]).run().ok();
        let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert_eq!(report["usable"], true, "{user:?}: {report}");
        for name in
            ["kernel", "seccomp-notify", "user-namespaces", "net-namespaces", "id-maps", "runtime-folder"]
        {
            assert_ne!(verdict(&report, name)["state"], "fail", "{user:?}: {report}");
        }
        let table = world.viewnet(["doctor"]).run().ok();
        assert!(table.stdout.contains("`viewnet run` works here"), "{}", table.stdout);
    }
}

#[test]
fn a_limit_of_zero_is_named() {
    let world = World::new(User::Ordinary);
    for (limit, check) in
        [("user.max_user_namespaces", "user-namespaces"), ("user.max_net_namespaces", "net-namespaces")]
    {
        let file = limit.replace('.', "/");
        let script = format!("echo 0 > /proc/sys/{file}; exec viewnet doctor --json");
        let outcome = restricted(&world, &script).run().code(1);
        let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert_eq!(report["usable"], false);
        let verdict = verdict(&report, check);
        assert_eq!(verdict["state"], "fail", "{verdict}");
        assert!(verdict["finding"].as_str().unwrap().starts_with(&format!("{limit}=0")), "{verdict}");
        assert!(verdict["fix"].as_str().unwrap().contains(&format!("sysctl {limit}=")), "{verdict}");
    }
}

#[test]
fn a_failed_run_says_what_doctor_says() {
    let world = World::new(User::Ordinary);
    for limit in ["user.max_user_namespaces", "user.max_net_namespaces"] {
        let script = format!("echo 0 > /proc/sys/{}; exec viewnet run -- true", limit.replace('.', "/"));
        let outcome = restricted(&world, &script).run().code(125);
        assert!(outcome.stderr.contains(&format!("{limit}=0")), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&format!("sysctl {limit}=")), "{}", outcome.stderr);
    }
}

#[test]
fn a_view_is_recognized() {
    let world = World::new(User::Ordinary);
    let outcome = world.run(["--", "viewnet", "doctor", "--json"]).run().ok();
    let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let verdict = verdict(&report, "seccomp-notify");
    assert!(verdict["finding"].as_str().unwrap().contains("a view already"), "{verdict}");
}

#[test]
fn a_reader_may_leave_early() {
    let world = World::new(User::Ordinary);
    let outcome = world.cmd("sh").args(["-c", "viewnet doctor | head -n 1"]).run().ok();
    assert_eq!(outcome.stderr, "");
}

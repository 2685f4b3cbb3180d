//! Every example runs, as the user who runs the tests, in a runtime folder of its own.

use std::process::Command;

fn play(program: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(program).env("XDG_RUNTIME_DIR", folder.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
    // The default switch ends by itself; wait for it, for its socket is in our folder.
    let switch = folder.path().join("viewnet/switches/default");
    for _ in 0..50 {
        if !switch.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the default switch did not end");
}

#[test]
fn two_servers_one_port() {
    play(env!("CARGO_BIN_EXE_two_servers_one_port"));
}

#[test]
fn two_vlans() {
    play(env!("CARGO_BIN_EXE_two_vlans"));
}

#[test]
fn three_stacks() {
    play(env!("CARGO_BIN_EXE_three_stacks"));
}

#[test]
fn proxy() {
    play(env!("CARGO_BIN_EXE_proxy"));
}

#[test]
fn five_servers() {
    play(env!("CARGO_BIN_EXE_five_servers"));
}

//! Every example runs, as the user who runs the tests and, if that is root, as an ordinary one, in a runtime
//! folder of its own.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A uid without privileges, for those who run the tests as root.
const ORDINARY: u32 = 61_999;

fn play(program: &str) {
    play_as(program, None);
    if std::fs::metadata("/proc/self").expect("/proc is mounted").uid() == 0 {
        play_as(program, Some(ORDINARY));
    }
}

fn play_as(program: &str, user: Option<u32>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(program);
    if let Some(user) = user {
        chown(folder.path(), Some(user), Some(user)).expect("we are root");
        command.uid(user).gid(user);
    }
    let output = command.env("XDG_RUNTIME_DIR", folder.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{user:?} {}{said}", String::from_utf8_lossy(&output.stdout));
    // The default switch ends by itself; wait for it, for its socket is in our folder.
    let switch = folder.path().join("viewnet/switches/default");
    for _ in 0..300 {
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

#[test]
fn show_stacks() {
    play(env!("CARGO_BIN_EXE_show_stacks"));
}

//! A terminal with a program on it, for tests of job control.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, tcgetpgrp};

use crate::command::Cmd;
use crate::sys;
use crate::world::{SOON, wait_until};

/// A program that leads a session on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Terminal {
    /// Starts `cmd` on a new terminal.
    pub fn start(mut cmd: Cmd) -> Self {
        let pty = openpty(None, None).expect("a terminal");
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        cmd.command.stdin(end(&pty.slave)).stdout(end(&pty.slave)).stderr(end(&pty.slave));
        cmd.confine.terminal = Some(sys::raw(&pty.slave));
        cmd.confine.apply(&mut cmd.command);
        let child = cmd.command.spawn().expect("the program");
        let keyboard = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shared) = (keyboard.try_clone().expect("a descriptor"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                shared.lock().expect("no panic above").extend_from_slice(&buffer[..n]);
            }
        });
        Self { child, keyboard, screen, seen: 0 }
    }

    /// Types.
    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal");
    }

    /// Everything shown so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no panic above")).into_owned()
    }

    /// Waits until `text` is shown after what was waited for last.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        let find = |screen: &str, from: usize| screen.get(from..).and_then(|rest| rest.find(text));
        let shown = wait_until(SOON, || find(&self.screen(), self.seen).is_some());
        let screen = self.screen();
        assert!(shown, "no {text:?} after byte {} of:\n{screen}", self.seen);
        self.seen += find(&screen, self.seen).expect("just seen") + text.len();
    }

    /// Waits until the terminal is with a job that has a program of this name in it.
    #[track_caller]
    pub fn until_foreground(&mut self, name: &str) {
        let is_there = || {
            let job = tcgetpgrp(&self.keyboard).expect("a terminal with a session").to_string();
            let stats = std::fs::read_dir("/proc").expect("/proc").flatten();
            let mut stats = stats.filter_map(|it| std::fs::read_to_string(it.path().join("stat")).ok());
            // proc_pid_stat(5): the name in parentheses, then state, parent, process group.
            stats.any(|stat| {
                let (named, rest) = stat.rsplit_once(')').unwrap_or_default();
                named.ends_with(&format!("({name}")) && rest.split_whitespace().nth(2) == Some(&job)
            })
        };
        assert!(wait_until(SOON, is_there), "no {name} in the foreground:\n{}", self.screen());
    }

    /// The program's process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits for the end of the program.
    pub fn wait(&mut self) -> Option<i32> {
        let ended = wait_until(SOON, || self.child.try_wait().expect("our child").is_some());
        assert!(ended, "still running:\n{}", self.screen());
        self.child.wait().expect("our child").code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

//! Commands: printed, run, and their failure in words.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a recipe ends with; the error is for a person.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// A command that is printed before it runs.
#[derive(Debug)]
pub(crate) struct Cmd {
    command: Command,
}

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("xtask is in the workspace")
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that runs us.
pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Cmd {
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(args)
}

impl Cmd {
    /// A program in the workspace's folder.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root());
        Self { command }
    }

    /// Adds arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it with our own terminal.
    pub(crate) fn run(mut self) -> Outcome {
        eprintln!("$ {}", self.words());
        let status = self.command.status().map_err(|error| self.cannot_start(&error))?;
        if status.success() { Ok(()) } else { Err(format!("`{}`: {status}", self.words())) }
    }

    /// Runs it and returns what it printed; its messages stay on our terminal.
    pub(crate) fn output(mut self) -> Outcome<Vec<u8>> {
        let output =
            self.command.stderr(Stdio::inherit()).output().map_err(|error| self.cannot_start(&error))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(format!("`{}`: {}", self.words(), output.status))
        }
    }

    /// What it printed, whatever its status; `None` if it could not be started.
    pub(crate) fn printed(mut self) -> Option<String> {
        let output = self.command.stderr(Stdio::null()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it silently for at most `limit`; the error is the last line it said.
    pub(crate) fn quietly_within(mut self, limit: Duration) -> Outcome {
        let log = target().join("xtask.log");
        let file = std::fs::create_dir_all(target()).and_then(|()| std::fs::File::create(&log));
        let file = file.map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|error| self.cannot_start(&error))?;
        let start = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(100)),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("no answer within {} s", limit.as_secs()));
                }
            }
        };
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        Err(last.map_or_else(|| status.to_string(), |line| line.trim().to_owned()))
    }

    fn words(&self) -> String {
        let program = Path::new(self.command.get_program());
        let name = program.file_name().unwrap_or(program.as_os_str());
        let mut words = name.to_string_lossy().into_owned();
        for arg in self.command.get_args() {
            words.push(' ');
            words.push_str(&arg.to_string_lossy());
        }
        words
    }

    fn cannot_start(&self, error: &std::io::Error) -> String {
        format!("cannot start `{}`: {error}", self.words())
    }
}

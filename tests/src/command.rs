//! The commands of a [`World`](crate::World): how they start, what they say, how they end.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::sys::Confine;

/// Longest run of one command, unless the test says otherwise: generous, as two cores serve all tests.
const LIMIT: Duration = Duration::from_secs(120);

/// How long the end of its output may take to be seen after its own.
const HELD: Duration = Duration::from_secs(5);

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// Not within its limit: it was killed.
    TimedOut,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// Somebody still held its output open when it was gone.
    pub held_open: bool,
}

impl Outcome {
    /// The command ended with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Status::Exited(0), "stdout:\n{}stderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The command ended with `code`.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status, Status::Exited(code), "stdout:\n{}stderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Its output has `text` in it.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "no {text:?} in:\n{}stderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// A command of a [`World`](crate::World), not yet started.
#[derive(Debug)]
pub struct Cmd {
    /// The command itself.
    pub command: Command,
    pub(crate) confine: Confine,
    stdin: Option<Vec<u8>>,
    keep_stdin: bool,
    limit: Duration,
}

impl Cmd {
    pub(crate) fn new(command: Command, confine: Confine) -> Self {
        Self { command, confine, stdin: None, keep_stdin: false, limit: LIMIT }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads from its standard input, which is empty otherwise.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Its standard input stays open and empty until [`Running::close_stdin`].
    pub fn keep_stdin(mut self) -> Self {
        self.keep_stdin = true;
        self
    }

    /// Its limit, if not [`LIMIT`].
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it, in a process group of its own.
    pub fn start(mut self) -> Running {
        let fed = self.keep_stdin || self.stdin.is_some();
        self.command.stdin(if fed { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        self.confine.apply(&mut self.command);
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", self.command));
        let mut input = child.stdin.take();
        if let Some(bytes) = self.stdin
            && let Some(mut pipe) = input.take()
        {
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let output = collect(child.stdout.take().expect("piped"));
        let errors = collect(child.stderr.take().expect("piped"));
        Running { child, input, output, errors, deadline: Instant::now() + self.limit, ended: None }
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.start().wait()
    }
}

/// Bytes that arrive, and word that no more will.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    end: Receiver<()>,
}

fn collect(mut pipe: impl Read + Send + 'static) -> Collected {
    let (done, end) = channel();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&bytes);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            shared.lock().expect("no panic above").extend_from_slice(&buffer[..n]);
        }
        done.send(())
    });
    Collected { bytes, end }
}

impl Collected {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no panic above")).into_owned()
    }

    /// True if the writing end was still open after a grace.
    fn is_held(&self) -> bool {
        matches!(self.end.recv_timeout(HELD), Err(RecvTimeoutError::Timeout))
    }
}

/// A command under way. Dropped, its process group is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Collected,
    errors: Collected,
    deadline: Instant,
    ended: Option<Status>,
}

impl Running {
    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal to the process alone.
    pub fn kill(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is ours and not yet reaped");
    }

    /// Kills it and all that is still in its process group.
    pub fn kill_group(&self) {
        killpg(self.pid(), Signal::SIGKILL).expect("the process is ours and not yet reaped");
    }

    /// Writes a line to its standard input, which was kept open.
    #[track_caller]
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("started with keep_stdin");
        writeln!(input, "{line}").expect("it reads its input");
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.input = None;
    }

    /// What it has written so far.
    pub fn stdout(&self) -> String {
        self.output.text()
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        self.errors.text()
    }

    /// Has it ended?
    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait().expect("our child")
        {
            self.ended = Some(match (status.code(), status.signal()) {
                (Some(code), _) => Status::Exited(code),
                (None, signal) => Status::Signaled(signal.expect("ended one way or the other")),
            });
        }
        self.ended.is_some()
    }

    /// Waits until its output has `text` in it; panics if it ends before, or does not within its limit.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        while !self.stdout().contains(text) {
            let ended = self.has_ended();
            if ended {
                // What it wrote last may still be on its way to us.
                self.output.is_held();
            }
            std::thread::sleep(Duration::from_millis(5));
            let late = ended || Instant::now() > self.deadline;
            assert!(
                !late || self.stdout().contains(text),
                "no {text:?} (ended: {:?})\nstdout:\n{}stderr:\n{}",
                self.ended,
                self.stdout(),
                self.stderr()
            );
        }
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Outcome {
        self.close_stdin();
        while !self.has_ended() && Instant::now() < self.deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.ended.unwrap_or(Status::TimedOut);
        if status == Status::TimedOut {
            self.end();
        }
        let held_open = self.output.is_held() | self.errors.is_held();
        Outcome { status, stdout: self.output.text(), stderr: self.errors.text(), held_open }
    }

    fn end(&mut self) {
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.end();
        }
    }
}

//! One test's machine: a user, a runtime folder, a host network, and the commands it runs there.

use std::ffi::{CString, OsStr};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};

use crate::binaries;
use crate::leftovers::{self, Leftover};
use crate::sys::Confine;

/// Longest run of one command, unless the test says otherwise: generous, as two cores serve all tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How long what a World started may take to vanish after the World's last command ended.
pub(crate) const SETTLE: Duration = Duration::from_secs(8);

/// Who runs the commands of a World.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Root, with every capability. Only where the tests themselves run as root.
    Root,
    /// Somebody without any privilege: the user of the tests, or, if that is root, an uid of the World's own
    /// that has no entry in /etc/passwd.
    Ordinary,
}

impl User {
    /// The users this run of the tests can be: both for root, else one.
    pub fn all() -> &'static [Self] {
        if geteuid().is_root() { &[Self::Ordinary, Self::Root] } else { &[Self::Ordinary] }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct World {
    folder: Option<tempfile::TempDir>,
    uid: u32,
    net: Option<Arc<OwnedFd>>,
    binds: Vec<(CString, CString)>,
    forgiving: bool,
}

impl World {
    /// A machine for `user`, with `viewnet` in its PATH.
    pub fn new(user: User) -> Self {
        let root = geteuid().is_root();
        assert!(root || user == User::Ordinary, "only root can test as root");
        let uid = if root && user == User::Ordinary { spare_uid() } else { geteuid().as_raw() };
        let folder =
            tempfile::Builder::new().prefix("vn").rand_bytes(8).tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).expect("chmod");
        for (name, mode) in [("bin", 0o755), ("dev", 0o755), ("home", 0o700), ("run", 0o700)] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("mkdir");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
            chown(&path, Some(uid), Some(uid)).expect("chown");
        }
        let world =
            Self { folder: Some(folder), uid, net: root.then(host_network), binds: vec![], forgiving: false };
        world.install(&binaries::viewnet(), "viewnet");
        world
    }

    /// The World's folder.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("lives as long as the World").path()
    }

    /// A folder the World's user owns; commands start here.
    pub fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// `$XDG_RUNTIME_DIR` of every command.
    pub fn runtime(&self) -> PathBuf {
        self.folder().join("run")
    }

    /// The uid of every command.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Does the World have a host network of its own? (It does where the tests run as root.)
    pub fn has_own_host(&self) -> bool {
        self.net.is_some()
    }

    /// Copies a program to where the World's user finds and may execute it.
    pub fn install(&self, program: &Path, name: &str) -> PathBuf {
        let to = self.folder().join("bin").join(name);
        if !to.exists() {
            // Not by this process: a child that another thread forks meanwhile would hold the file open for
            // writing, and executing it would fail with ETXTBSY.
            let copied = Command::new("cp").arg(program).arg(&to).status().expect("cp");
            assert!(copied.success(), "cannot copy {}", program.display());
            fs::set_permissions(&to, Permissions::from_mode(0o755)).expect("chmod");
        }
        to
    }

    /// Writes a file the World's user owns into its home.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home().join(name);
        fs::create_dir_all(path.parent().expect("in home")).expect("mkdir");
        fs::write(&path, content).expect("write");
        for part in path.ancestors().take_while(|p| *p != self.home()) {
            chown(part, Some(self.uid), Some(self.uid)).expect("chown");
        }
        path
    }

    /// From now on commands see `what` at `over` (root only).
    pub fn bind_mount(&mut self, what: &Path, over: &Path) {
        let name = |p: &Path| CString::new(p.as_os_str().as_bytes()).expect("no NUL in a path");
        self.binds.push((name(what), name(over)));
    }

    /// For tests that leave something behind on purpose: it is ended, but the test does not fail.
    pub fn forgive_leftovers(&mut self) {
        self.forgiving = true;
    }

    /// A command, run by the World's user on the World's host network.
    pub fn cmd(&self, program: impl AsRef<OsStr>) -> Cmd {
        let mut command = Command::new(program);
        let bin = self.folder().join("bin");
        let path = format!("{}:{}", bin.display(), binaries::SYSTEM_PATH);
        command.current_dir(self.home()).env_clear().env("PATH", path).env("LC_ALL", "C").env("TERM", "dumb");
        command.env("HOME", self.home()).env("TMPDIR", self.home()).env("XDG_RUNTIME_DIR", self.runtime());
        for kept in ["RUST_BACKTRACE", "VIEWNET_LOG"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        Cmd { command, confine: self.confine(), stdin: None, keep_stdin: false, limit: LIMIT }
    }

    /// `viewnet ARGS`
    pub fn viewnet<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        let mut cmd = self.cmd(self.folder().join("bin/viewnet"));
        cmd.command.args(args);
        cmd
    }

    /// `viewnet run ARGS`
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        let mut cmd = self.viewnet(["run"]);
        cmd.command.args(args);
        cmd
    }

    /// `viewnet run -- bash -c SCRIPT`, stopping at the first error.
    pub fn run_script(&self, script: &str) -> Cmd {
        self.run(["--", "bash", "-euc", script])
    }

    fn confine(&self) -> Confine {
        let name = |p: PathBuf| CString::new(p.into_os_string().as_bytes()).expect("no NUL in a path");
        let own = geteuid().as_raw() != self.uid;
        let tun = own && Path::new("/dev/net/tun").exists();
        Confine {
            net: self.net.clone(),
            dev: tun.then(|| name(self.folder().join("dev"))),
            tun: tun.then(|| name(self.folder().join("dev/tun"))),
            binds: self.binds.clone(),
            uid: own.then_some(self.uid),
            terminal: None,
        }
    }

    /// The processes of viewnet itself in this World: those that execute its copy of the binary.
    pub fn supervisors(&self) -> Vec<Pid> {
        let binary = self.folder().join("bin/viewnet");
        let all = leftovers::processes(&self.runtime()).into_iter().map(|(pid, _)| pid);
        let ours = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary);
        all.filter(ours).map(Pid::from_raw).collect()
    }

    /// What the World's commands left behind at this moment.
    pub fn leftovers(&self) -> Vec<Leftover> {
        leftovers::find(&self.runtime())
    }

    /// Waits until nothing is left; what remains after `limit` is returned.
    pub fn settle(&self, limit: Duration) -> Vec<Leftover> {
        wait_until(limit, || self.leftovers().is_empty());
        self.leftovers()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let left = self.settle(if self.forgiving { Duration::ZERO } else { SETTLE });
        for leftover in &left {
            if let Leftover::Process { pid, .. } = leftover {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        if std::env::var_os("KEEP_WORLD").is_some() {
            eprintln!("kept: {}", self.folder.take().expect("still there").keep().display());
        }
        if !left.is_empty() && !self.forgiving && !std::thread::panicking() {
            panic!("left behind:\n{}", left.iter().map(|l| format!("  {l}\n")).collect::<String>());
        }
    }
}

/// A uid nobody uses: different for every World that lives at the same time.
fn spare_uid() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    61_000 + (std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed)) % 4_000
}

/// A network namespace with nothing but a loopback that is up.
fn host_network() -> Arc<OwnedFd> {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip");
        assert!(up.success(), "lo stays down");
        fs::File::open("/proc/thread-self/ns/net").expect("the namespace").into()
    });
    Arc::new(made.join().expect("a host network"))
}

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

/// A command of a [`World`], not yet started.
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
        matches!(self.end.recv_timeout(Duration::from_secs(2)), Err(RecvTimeoutError::Timeout))
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

/// Looks every few milliseconds until `done`; false if it never was within `limit`.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

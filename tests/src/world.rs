//! One test's machine: a user, a runtime folder, a host network, and the commands it runs there.

use std::ffi::{CString, OsStr};
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getegid, geteuid};

use crate::binaries;
use crate::command::Cmd;
use crate::leftovers::{self, Leftover};
use crate::sys::Confine;

/// How long to wait for what an idle machine does at once: on two cores that have other things to do it takes its time.
pub const SOON: Duration = Duration::from_secs(30);

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

/// A test as each user that this run of the tests can be, in a world of its own.
pub fn each_user(test: impl Fn(World)) {
    for &user in User::all() {
        eprintln!("as {user:?}");
        test(World::new(user));
    }
}

/// The same, on either kind of stack.
pub fn each_kind(test: impl Fn(World, &str)) {
    for kind in ["kernel", "smol"] {
        eprintln!("on a {kind} stack");
        each_user(|world| test(world, kind));
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct World {
    folder: Option<tempfile::TempDir>,
    uid: u32,
    net: Option<Arc<OwnedFd>>,
    binds: Vec<(CString, CString)>,
    tun: bool,
    namespaces: bool,
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
        let world = Self {
            folder: Some(folder),
            uid,
            net: root.then(host_network),
            binds: vec![],
            tun: true,
            namespaces: true,
            forgiving: false,
        };
        world.install(&binaries::viewnet(), "viewnet");
        world.install(&binaries::shim(), "libvnet_preload.so");
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

    /// Runs a command with all rights on the World's host network, which it has of its own: addresses, sysctls.
    ///
    /// # Panics
    /// It fails, or the network is not the World's own.
    pub fn administer(&self, command: &[&str]) {
        let net = Arc::clone(self.net.as_ref().expect("a host network of its own"));
        let (program, args) = command.split_first().expect("a command");
        let (program, args) = (program.to_string(), args.iter().map(ToString::to_string).collect::<Vec<_>>());
        // A thread of its own, which ends with its namespace.
        let done = std::thread::spawn(move || {
            nix::sched::setns(&*net, CloneFlags::CLONE_NEWNET).expect("setns");
            Command::new(program).args(args).status().expect("a command")
        });
        assert!(done.join().expect("no panic").success(), "{command:?} failed");
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

    /// From now on /dev/net/tun is as on the machine: on many not for ordinary users.
    pub fn forbid_tun(&mut self) {
        self.tun = false;
    }

    /// From now on nobody can make user namespaces, as on hardened hosts.
    pub fn forbid_user_namespaces(&mut self) {
        self.namespaces = false;
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
        Cmd::new(command, self.confine())
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

    /// `viewnet run --link lo ARGS`: on no network.
    pub fn alone<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        let mut cmd = self.run(["--link", "lo"]);
        cmd.command.args(args);
        cmd
    }

    /// `viewnet run --link lo -- bash -c SCRIPT`, stopping at the first error.
    pub fn run_script(&self, script: &str) -> Cmd {
        self.alone(["--", "bash", "-euc", script])
    }

    fn confine(&self) -> Confine {
        let name = |p: PathBuf| CString::new(p.into_os_string().as_bytes()).expect("no NUL in a path");
        let own = geteuid().as_raw() != self.uid;
        let tun = own && self.tun && Path::new("/dev/net/tun").exists();
        Confine {
            net: self.net.clone(),
            dev: tun.then(|| name(self.folder().join("dev"))),
            tun: tun.then(|| name(self.folder().join("dev/tun"))),
            binds: self.binds.clone(),
            uid: own.then_some(self.uid),
            no_namespaces: (!self.namespaces).then(|| {
                let gid = if own { self.uid } else { getegid().as_raw() };
                [self.uid, gid].map(|id| format!("{id} {id} 1").into_bytes())
            }),
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
        let left = self.settle(if self.forgiving { Duration::ZERO } else { SOON });
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

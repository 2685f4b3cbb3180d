//! Programs that run in a namespace of a test, and end with it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Namespace, eventually};

/// A program, and its process group, that ends with this value.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn within(ns: &Namespace, program: &'static str, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        ns.run(move || {
            // It ends with its namespace's thread, whatever happens to the test.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", program]).args(args).stdin(Stdio::piped()).process_group(0);
            Self(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Open vSwitch's daemons in a namespace, with the user-space datapath.
pub(crate) struct OpenVSwitch {
    _daemons: [Running; 2],
    dir: String,
}

impl OpenVSwitch {
    pub(crate) fn new(ns: &Namespace, dir: &Path) -> Self {
        let dir = dir.to_str().unwrap().to_owned();
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        ns.sh(&format!("ovsdb-tool create {dir}/conf.db {schema} >/dev/null"));
        let db = format!("punix:{dir}/db.sock");
        let control = |name: &str| format!("--unixctl={dir}/{name}.ctl");
        let run = |program, args: &[&str]| {
            let variables = ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"];
            let mut all: Vec<String> = variables.iter().map(|name| format!("{name}={dir}")).collect();
            all.push(program);
            all.extend(args.iter().map(|arg| (*arg).to_owned()));
            Running::within(ns, "env", &all.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let quiet = ["-vconsole:off", "-vsyslog:off"];
        let server = run(
            "ovsdb-server".to_owned(),
            &[&format!("{dir}/conf.db"), &format!("--remote={db}"), &control("db"), quiet[0], quiet[1]],
        );
        eventually("ovsdb-server", || Path::new(&dir).join("db.sock").exists());
        ns.sh(&format!("ovs-vsctl --db=unix:{dir}/db.sock --no-wait init"));
        let daemon = run(
            "ovs-vswitchd".to_owned(),
            &[&format!("unix:{dir}/db.sock"), &control("vswitchd"), quiet[0], quiet[1]],
        );
        Self { _daemons: [server, daemon], dir }
    }

    pub(crate) fn vsctl(&self, ns: &Namespace, args: &str) {
        ns.sh(&format!("timeout 20 ovs-vsctl --db=unix:{}/db.sock {args}", self.dir));
    }

    /// What its daemon answers to a command.
    pub(crate) fn ask(&self, ns: &Namespace, args: &str) -> String {
        let command = format!("timeout 20 ovs-appctl -t {}/vswitchd.ctl {args}", self.dir);
        let out = ns.run(move || Command::new("sh").args(["-c", &command]).output().unwrap());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

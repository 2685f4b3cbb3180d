//! VDE's own programs on a served switch: Debian's vde_plug2tap, dpipe, vde_plug, wirefilter, vdens, and QEMU.

mod common;

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Namespace, Served, eventually, has_tap, isolated, transfer};
use switch::client::{Attach, Client, Kind, PortInfo, Request};
use switch::control::Vde;
use switch::ports::vde::plug;
use switch::vde::Wanted;

const LEN: usize = 8 << 20;

/// A program that ends with this value.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// In a namespace, with a terminal's end that never says anything.
    fn within(ns: &Namespace, program: &'static str, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        ns.run(move || Self::start(Command::new(program).args(args)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A served switch with its folder for VDE's programs.
fn vde_switch(served: &Served) -> PathBuf {
    let folder = served.dir.path().join("vde");
    set_vde(&mut served.client(), &Vde::at(&folder));
    folder
}

fn set_vde(client: &mut Client, vde: &Vde) {
    client.call::<()>(&Request::Set { age_s: None, vde: Some(vde.clone()) }).unwrap();
}

fn ports(served: &Served) -> Vec<PortInfo> {
    served.client().ports().unwrap()
}

fn names(served: &Served) -> Vec<String> {
    ports(served).into_iter().map(|port| port.name).collect()
}

/// A namespace with `vde_plug2tap` on a TAP of its own.
fn plug2tap(folder: &Path, address: &str) -> (Namespace, Running) {
    let ns = Namespace::new();
    ns.sh("ip tuntap add dev t0 mode tap");
    let running = Running::within(&ns, "vde_plug2tap", &["-s", folder.to_str().unwrap(), "t0"]);
    ns.configure("t0", &[address]);
    (ns, running)
}

#[test]
fn two_taps_of_vde_plug2tap() {
    isolated("two_taps_of_vde_plug2tap", || {
        if !has_tap() {
            return;
        }
        let served = Served::new(None);
        let folder = vde_switch(&served);
        let (a, _one) = plug2tap(&folder, "10.0.0.1/24");
        let (b, two) = plug2tap(&folder, "10.0.0.2/24");
        eventually("two ports", || names(&served) == ["vde1", "vde2"]);
        assert!(a.ping("10.0.0.2"));
        transfer(&a, &b, "10.0.0.2", LEN);
        let list = ports(&served);
        assert!(
            list.iter().all(|port| port.kind == Kind::Vde && port.peer.contains("vde_plug2tap")),
            "{list:?}"
        );
        let sockets = || std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(sockets(), 3, "ctl, and a socket a port");
        drop(two);
        eventually("a port goes with its program", || names(&served) == ["vde1"]);
        assert_eq!(sockets(), 2);
    });
}

//! Starting a tunnel: the process that `vpn up` and `run --vpn` leave behind.
//!
//! # Theory of operation
//! This program is run again as `serve-tunnel PATH` ([`background::launch`]) and is told what the tunnel is to be: so no key
//! is in a file but the user's own. The tunnel looks up its peers' names and makes its sockets before it answers. It has
//! an eye ([`crate::eye`]), which removes its socket's file should it be killed.

use std::os::fd::AsFd;
use std::path::Path;

use stacks::wg::serve::{Server, Start, look_up, mtu};

use crate::background::{self, start_eye};
use crate::commands::TUNNEL;
use crate::exit::{Exit, Failure};
use crate::sys::seccomp::native_domain;

const START: &str = "cannot start the tunnel";

/// Starts a tunnel in the background; the answer is what its user should know: names without an address.
pub(super) fn launch(path: &Path, start: &Start) -> Result<Vec<String>, Failure> {
    if is_on_smol_stack() {
        let why = "this is inside a view on a smol stack, whose supervisor cannot wait for it";
        return Err(Failure::new(START, why).hint("give the outer tunnel a stack of kind kernel"));
    }
    let mut command = background::command("viewnet", &[&TUNNEL, &path]);
    Ok(background::launch(START, &mut command, start, "run it again with VIEWNET_LOG=debug")??)
}

/// Does this process get its sockets from a smol stack?
fn is_on_smol_stack() -> bool {
    use rustix::net::{AddressFamily, SocketType, socket};
    let Ok(probe) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return false };
    native_domain(probe.as_fd()).is_ok_and(|domain| domain != libc::AF_INET)
}

/// `viewnet serve-tunnel`: what [`launch`] starts.
pub(crate) fn serve(path: &Path) -> Result<Exit, Failure> {
    let internal = |e: nix::errno::Errno| Failure::io(START, &e.into());
    let set_up = |mut start: Start| {
        let mut eye = start_eye().map_err(internal)?;
        // It has keys: nobody but root looks into it, and no core file is written (prctl(2), PR_SET_DUMPABLE).
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        let (addresses, missing) = look_up(&start.config);
        start.config.mtu = start.config.mtu.or_else(|| Some(mtu(&start.config, &addresses)));
        let server = Server::new(start, path, &addresses, eye.as_fd())?;
        eye.keep(path).map_err(internal)?;
        let note = |name: &_| format!("{name} has no address yet; it is asked for again");
        Ok(((server, eye), missing.iter().map(note).collect::<Vec<String>>()))
    };
    background::serve(START, c"viewnet-vpn", set_up, |(server, _eye)| server.run())
}

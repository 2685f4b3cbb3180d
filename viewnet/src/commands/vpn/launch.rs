//! Starting a tunnel: the process that `vpn up` and `run --vpn` leave behind.
//!
//! # Theory of operation
//! This program is run again as `vpn serve PATH` and is told on its standard input, a line as all control connections
//! are, what the tunnel is to be: so no key is ever an argument, nor in a file but the user's own. That process forks the
//! tunnel and ends; the tunnel looks up its peers' names, makes its sockets, and says on the same line how it went. It
//! has an eye ([`crate::eye`]), which removes its socket's file should it be killed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use msocket_proto::line::{Line, Received, Refusal, Reply};
use stacks::wg::serve::{Server, Start, look_up, mtu};

use crate::background::{self, start_eye};
use crate::exit::{Exit, Failure};
use crate::sys::process::{self, Fork};
use crate::sys::seccomp::native_domain;

const START: &str = "cannot start the tunnel";

/// Starts a tunnel in the background; the answer is what its user should know: names without an address.
pub(super) fn launch(path: &Path, start: &Start) -> Result<Vec<String>, Failure> {
    let failed = |e: io::Error| Failure::io(START, &e);
    if is_on_smol_stack() {
        let why = "this is inside a view on a smol stack, whose supervisor cannot wait for it";
        return Err(Failure::new(START, why).hint("give the outer tunnel a stack of kind kernel"));
    }
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("viewnet")
        .args(["vpn", "serve"])
        .arg(path)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut line = Line::client(ours);
    let sent = line.send(start, &[]);
    let answer = line.receive::<Reply<Vec<String>>>();
    // The process that we started only forked the tunnel.
    let _ = child.wait();
    match (sent, answer) {
        (_, Ok(Received::Message(Reply::Ok(notes), _))) => Ok(notes),
        (_, Ok(Received::Message(Reply::Error(refusal), _))) => Err(refusal.into()),
        _ => Err(Failure::new(START, "it ended at once").hint("run it again with VIEWNET_LOG=debug")),
    }
}

/// Does this process get its sockets from a smol stack?
fn is_on_smol_stack() -> bool {
    use rustix::net::{AddressFamily, SocketType, socket};
    let Ok(probe) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return false };
    native_domain(probe.as_fd()).is_ok_and(|domain| domain != libc::AF_INET)
}

/// `viewnet vpn serve`: what [`launch`] starts.
pub(super) fn serve(path: &Path) -> Result<Exit, Failure> {
    let failed = |e: io::Error| Failure::io(START, &e);
    let starter = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let mut line = Line::client(UnixStream::from(starter));
    match set_up(path, &mut line) {
        Ok(None) => Ok(Exit::Done),
        Ok(Some((server, _eye, notes))) => {
            let _ = line.send(&Reply::Ok(notes), &[]);
            drop(line);
            server.run().map_err(|e| failed(e.into()))?;
            Ok(Exit::Done)
        }
        Err(failure) => {
            let _ = line.send(&Reply::<()>::Error(failure.refusal), &[]);
            Ok(Exit::Failed)
        }
    }
}

/// The tunnel, or nothing in the process that only forked it.
fn set_up(path: &Path, line: &mut Line) -> Result<Option<(Server, crate::eye::Eye, Vec<String>)>, Failure> {
    let internal = |e: nix::errno::Errno| Failure::io(START, &e.into());
    let Ok(Received::Message(mut start, _)) = line.receive::<Start>() else {
        return Err(Refusal::new(START, "nobody said what it is to be").into());
    };
    if let Fork::Parent(_) = process::fork().map_err(internal)? {
        return Ok(None);
    }
    process::close_all_but(&[line.as_fd().as_raw_fd()]);
    background::enter(c"viewnet-vpn", false);
    let mut eye = start_eye().map_err(internal)?;
    // It has keys: nobody but root looks into it, and no core file is written (prctl(2), PR_SET_DUMPABLE).
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let (addresses, missing) = look_up(&start.config);
    start.config.mtu = start.config.mtu.or_else(|| Some(mtu(&start.config, &addresses)));
    let server = Server::new(start, path, &addresses, eye.as_fd())?;
    eye.keep(path).map_err(internal)?;
    // For top and ps, which would show `exe`.
    let _ = rustix::thread::set_name(c"viewnet-vpn");
    let notes =
        missing.iter().map(|name| format!("{name} has no address yet; it is asked for again")).collect();
    Ok(Some((server, eye, notes)))
}

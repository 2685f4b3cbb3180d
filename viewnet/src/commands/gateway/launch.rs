//! Starting a gateway: where it lives, and the process that `gateway up` leaves behind if that is nobody's.
//!
//! # Theory of operation
//! It is to live in its switch's process and thread ([`Lodger`]), which spares each packet two wake-ups. If the switch does
//! not take it, being another user's, in another network or too short of descriptors, if it goes by a proxy, or if it is to be apart, it has a
//! process of its own: `up` runs this program again as `gateway serve PATH` and tells it on its standard input, a line as all control
//! connections are, what the gateway is to be. That process forks the gateway and ends, so the gateway is nobody's
//! child; the gateway says on the same line how it went. It has an eye ([`crate::eye`]), which removes its
//! socket's file should it be killed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use msocket_proto::line::{Line, Received, Refusal, Reply};
use stacks::gateway::Config;
use stacks::gateway::serve::{Lodger, Server};

use crate::background::{self, start_eye};
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;
use crate::sys::process::{self, Fork};

const START: &str = "cannot start the gateway";

/// Starts a gateway in the background, `apart` in a process of its own; when this returns, it is plugged in.
pub(super) fn launch(runtime: &Runtime, path: &Path, config: &Config, apart: bool) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::io(START, &e);
    if crate::nested::supervisor().is_some() {
        return Err(Failure::new(START, "this is inside a view, whose network is not the host's")
            .hint("start it outside"));
    }
    if !apart && Lodger::move_in(config, path, (&runtime.switches(), &runtime.stacks()))? {
        return Ok(());
    }
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("viewnet")
        .args(["gateway", "serve"])
        .arg(path)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut line = Line::client(ours);
    let sent = line.send(config, &[]);
    let answer = line.receive::<Reply<()>>();
    // The process that we started only forked the gateway.
    let _ = child.wait();
    match (sent, answer) {
        (_, Ok(Received::Message(Reply::Ok(()), _))) => Ok(()),
        (_, Ok(Received::Message(Reply::Error(refusal), _))) => Err(refusal.into()),
        _ => Err(Failure::new(START, "it ended at once").hint("run it again with VIEWNET_LOG=debug")),
    }
}

/// `viewnet gateway serve`: what [`launch`] starts.
pub(super) fn serve(path: &Path) -> Result<Exit, Failure> {
    let failed = |e: io::Error| Failure::io(START, &e);
    let starter = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let mut line = Line::client(UnixStream::from(starter));
    match set_up(path, &mut line) {
        Ok(None) => Ok(Exit::Done),
        Ok(Some((server, _eye))) => {
            let _ = line.send(&Reply::Ok(()), &[]);
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

/// The gateway, or nothing in the process that only forked it.
fn set_up(path: &Path, line: &mut Line) -> Result<Option<(Server, crate::eye::Eye)>, Failure> {
    let internal = |e: nix::errno::Errno| Failure::io(START, &e.into());
    let Ok(Received::Message(config, _)) = line.receive::<Config>() else {
        return Err(Refusal::new(START, "nobody said what it is to be").into());
    };
    let runtime = Runtime::locate()?;
    if let Fork::Parent(_) = process::fork().map_err(internal)? {
        return Ok(None);
    }
    process::close_all_but(&[line.as_fd().as_raw_fd()]);
    background::enter(c"viewnet-gateway", false);
    let mut eye = start_eye().map_err(internal)?;
    let server = Server::new(config, path, (&runtime.switches(), &runtime.stacks()), eye.as_fd())?;
    eye.keep(path).map_err(internal)?;
    // For top and ps, which would show `exe`.
    let _ = rustix::thread::set_name(c"viewnet-gateway");
    Ok(Some((server, eye)))
}

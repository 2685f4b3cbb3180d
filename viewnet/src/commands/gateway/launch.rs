//! Starting a gateway: where it lives, and the process that `gateway up` leaves behind if that is nobody's.
//!
//! # Theory of operation
//! It is to live in its switch's process and thread ([`Lodger`]), which spares each packet two wake-ups. If the switch does
//! not take it, being another user's, in another network or too short of descriptors, or if it goes by a proxy, it has a
//! process of its own: `up` runs this program again as `serve-gateway PATH` ([`background::launch`]) and tells it what the
//! gateway is to be. That process has an eye ([`crate::eye`]), which removes its socket's file should it be killed.

use std::os::fd::AsFd;
use std::path::Path;

use stacks::gateway::Config;
use stacks::gateway::serve::{Lodger, Server};

use crate::background::{self, start_eye};
use crate::commands::GATEWAY;
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;

const START: &str = "cannot start the gateway";

/// Starts a gateway in the background; when this returns, it is plugged in.
pub(super) fn launch(runtime: &Runtime, path: &Path, config: &Config) -> Result<(), Failure> {
    if crate::nested::supervisor().is_some() {
        return Err(Failure::new(START, "this is inside a view, whose network is not the host's")
            .hint("start it outside"));
    }
    if Lodger::move_in(config, path, (&runtime.switches(), &runtime.stacks()))? {
        return Ok(());
    }
    let mut command = background::command("viewnet", &[&GATEWAY, &path]);
    Ok(background::launch(START, &mut command, config, "run it again with VIEWNET_LOG=debug")??)
}

/// `viewnet serve-gateway`: what [`launch`] starts.
pub(crate) fn serve(path: &Path) -> Result<Exit, Failure> {
    let internal = |e: nix::errno::Errno| Failure::io(START, &e.into());
    let set_up = |config: Config| {
        let runtime = Runtime::locate()?;
        let mut eye = start_eye().map_err(internal)?;
        let server = Server::new(config, path, (&runtime.switches(), &runtime.stacks()), eye.as_fd())?;
        eye.keep(path).map_err(internal)?;
        Ok(((server, eye), ()))
    };
    background::serve(START, c"viewnet-gateway", set_up, |(server, _eye)| server.run())
}

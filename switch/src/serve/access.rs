//! Who may use the switch: mode and group of its socket's file, as vde_switch has them, and its console.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use msocket_proto::line::{Refusal, unusable};
use nix::sys::epoll::Epoll;
use nix::unistd::{Gid, Group, chown, getegid};

use super::Options;
use super::consoles::{self, Consoles};
use crate::console::Identity;
use crate::control::{self, Settings};

/// Mode bits of a socket's file.
const MODE_BITS: u32 = 0o777;

/// The control socket's file, and the console.
pub(super) struct Access {
    path: PathBuf,
    pub(super) consoles: Consoles,
}

impl Access {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        let identity = Identity {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: now,
            socket: options.path.clone(),
            mode: options.mode,
            vde: None,
            mgmt: PathBuf::new(),
            mgmt_mode: consoles::MODE,
        };
        Self { path: options.path.clone(), consoles: Consoles::new(identity) }
    }

    /// Serves the console that the options ask for.
    pub(super) fn open(&mut self, options: &Options, epoll: &Epoll) -> io::Result<()> {
        let path = options.mgmt.as_deref();
        path.map_or(Ok(()), |path| self.consoles.serve_at(path, epoll)).map_err(|e| {
            // The path of the error is not that of the switch.
            let place = path.map(|path| path.display().to_string()).unwrap_or_default();
            io::Error::other(format!("its console at {place}: {e}"))
        })
    }

    /// Where the console is.
    pub(super) fn mgmt(&self) -> Option<PathBuf> {
        let path = &self.consoles.identity.mgmt;
        (!path.as_os_str().is_empty()).then(|| path.clone())
    }

    /// VDE's programs plug in there from now on, or nowhere.
    pub(super) fn vde_is_at(&mut self, vde: &control::Vde) {
        self.consoles.identity.vde = vde.path.clone().map(|folder| (folder, vde.mode));
    }

    /// The mode of the control socket's file.
    pub(super) fn mode(&self) -> u32 {
        self.consoles.identity.mode
    }

    /// Changes what is given; nothing, if any of it cannot be.
    pub(super) fn change(&mut self, settings: &Settings, epoll: &Epoll) -> Result<(), Refusal> {
        const WHAT: &str = "cannot set who may use the switch";
        let (mode, mgmt) = (settings.mode, settings.mgmt.as_deref());
        if mode.is_some_and(|mode| mode & !MODE_BITS != 0) {
            return Err(Refusal::new(WHAT, "a mode has nine bits").hint("use 0600, 0660 or 0666"));
        }
        let gid = settings
            .group
            .as_deref()
            .map(find_group)
            .transpose()
            .map_err(|e| Refusal::system(WHAT, e).hint(GROUP_HINT))?;
        if let Some(path) = mgmt {
            if !path.as_os_str().is_empty() && !path.is_absolute() {
                return Err(Refusal::new("cannot serve the console", "its path must be absolute"));
            }
            self.consoles
                .serve_at(path, epoll)
                .map_err(|e| unusable("cannot serve the console", path, &e))?;
        }
        if let Some(gid) = gid {
            chown(&self.path, None, Some(gid)).map_err(|e| Refusal::system(WHAT, e).hint(GROUP_HINT))?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(&self.path, PermissionsExt::from_mode(mode))
                .map_err(|e| Refusal::system(WHAT, e))?;
            self.consoles.identity.mode = mode;
        }
        Ok(())
    }
}

const GROUP_HINT: &str = "give a group that there is; only root and its members can give it a file";

/// Changes the group of a new socket's file.
///
/// # Errors
/// There is no such group; those of chown(2).
pub(super) fn give_to_group(path: &Path, group: &str) -> io::Result<()> {
    Ok(chown(path, None, Some(find_group(group)?))?)
}

/// The group of this name or number; no name means our own.
fn find_group(group: &str) -> io::Result<Gid> {
    match (group, group.parse()) {
        ("", _) => Ok(getegid()),
        (_, Ok(number)) => Ok(Gid::from_raw(number)),
        (name, Err(_)) => {
            let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("there is no group `{name}`"));
            Ok(Group::from_name(name)?.ok_or_else(unknown)?.gid)
        }
    }
}

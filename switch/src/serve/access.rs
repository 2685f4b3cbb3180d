//! Who may use the switch: mode and group of its sockets' files, as vde_switch has them.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use msocket_proto::line::Refusal;
use nix::sys::epoll::Epoll;
use nix::unistd::{Gid, Group, chown, getegid};

use super::Options;

/// Mode bits of a socket's file.
const MODE_BITS: u32 = 0o777;

/// The sockets' files, and what they are.
#[derive(Debug)]
pub(super) struct Access {
    path: PathBuf,
}

impl Access {
    pub(super) fn new(options: &Options) -> Self {
        Self { path: options.path.clone() }
    }

    /// Changes what is given; nothing, if any of it cannot be.
    pub(super) fn change(
        &mut self,
        mode: Option<u32>,
        group: Option<String>,
        _mgmt: Option<PathBuf>,
        _epoll: &Epoll,
    ) -> Result<(), Refusal> {
        const WHAT: &str = "cannot set who may use the switch";
        if mode.is_some_and(|mode| mode & !MODE_BITS != 0) {
            return Err(Refusal::new(WHAT, "a mode has nine bits").hint("use 0600, 0660 or 0666"));
        }
        let system = |e: io::Error| Refusal::system(WHAT, e);
        if let Some(group) = group {
            give_to_group(&self.path, &group).map_err(|e| {
                let hint = "only root and members of a group can give it a file";
                system(e).hint(hint)
            })?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(&self.path, PermissionsExt::from_mode(mode)).map_err(system)?;
        }
        Ok(())
    }
}

/// Changes the group of a socket's file; no name means our own group.
///
/// # Errors
/// There is no such group; those of chown(2).
pub(super) fn give_to_group(path: &Path, group: &str) -> io::Result<()> {
    let gid = match (group, group.parse()) {
        ("", _) => getegid(),
        (_, Ok(number)) => Gid::from_raw(number),
        (name, Err(_)) => {
            let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("there is no group `{name}`"));
            Group::from_name(name)?.ok_or_else(unknown)?.gid
        }
    };
    Ok(chown(path, None, Some(gid))?)
}

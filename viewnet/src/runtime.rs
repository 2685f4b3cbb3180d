//! Where viewnet's sockets live: `$XDG_RUNTIME_DIR/viewnet`, and nowhere else.
//!
//! Without `XDG_RUNTIME_DIR` the folder is `/run/user/UID/viewnet` if that user folder exists, else
//! `/tmp/viewnet-UID`. Whatever the folder, it must be a real directory (no symlink) that belongs to the
//! user and that nobody else can enter; otherwise viewnet refuses to use it, as another user could have
//! put it there.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use stacks::stack::Kind;

use crate::exit::Failure;

/// The runtime folder of this user.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    folder: PathBuf,
}

impl Runtime {
    /// Finds the folder, making it if it is missing.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn locate() -> Result<Self, Failure> {
        let uid = nix::unistd::geteuid().as_raw();
        let folder = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
            Some(dir) => PathBuf::from(dir).join("viewnet"),
            None => {
                let user = PathBuf::from(format!("/run/user/{uid}"));
                match is_private(&user, uid) {
                    Ok(()) => user.join("viewnet"),
                    Err(_) => PathBuf::from(format!("/tmp/viewnet-{uid}")),
                }
            }
        };
        let runtime = Self { folder };
        let folders =
            ["stacks", "switches", "gateways", "tunnels", "topologies"].map(|name| runtime.folder.join(name));
        for dir in std::iter::once(&runtime.folder).chain(&folders) {
            make_private(dir, uid).map_err(|why| {
                Failure::new(format!("cannot use {} for sockets", dir.display()), why)
                    .hint("set XDG_RUNTIME_DIR to a folder of your own with mode 0700")
            })?;
        }
        Ok(runtime)
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where all stacks have their sockets.
    pub(crate) fn stacks(&self) -> PathBuf {
        self.folder.join("stacks")
    }

    /// The socket of a stack: `name` as it is if it is a path, else a file in [`Runtime::stacks`].
    pub(crate) fn stack(&self, name: &str) -> PathBuf {
        if name.contains('/') { PathBuf::from(name) } else { self.stacks().join(name) }
    }

    /// The socket of the keeper of stacks of a kind.
    pub(crate) fn keeper(&self, kind: Kind) -> PathBuf {
        self.folder.join(if kind == Kind::Smol { "keeper-smol" } else { "keeper" })
    }

    /// Where all switches have their sockets.
    pub(crate) fn switches(&self) -> PathBuf {
        self.folder.join("switches")
    }

    /// Where the gateways of switches have their sockets.
    pub(crate) fn gateways(&self) -> PathBuf {
        self.folder.join("gateways")
    }

    /// Where all WireGuard tunnels have their sockets.
    pub(crate) fn tunnels(&self) -> PathBuf {
        self.folder.join("tunnels")
    }

    /// Where all topologies have their folders.
    pub(crate) fn topologies(&self) -> PathBuf {
        self.folder.join("topologies")
    }

    /// The control socket of a switch: `name` as it is if it is a path, else a file in
    /// [`Runtime::switches`].
    pub(crate) fn switch(&self, name: &str) -> PathBuf {
        if name.contains('/') { PathBuf::from(name) } else { self.switches().join(name) }
    }
}

/// How much to log: `VIEWNET_LOG`.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn log_level() -> Option<String> {
    std::env::var("VIEWNET_LOG").ok()
}

/// Whether a terminal may be given colours: unless `NO_COLOR` says no.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The folders in which execvp(3) looks for a program.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// File name of the library that spares dynamic programs traps.
const SHIM: &str = "libvnet_preload.so";
/// What it preloads, to the dynamic linker (ld.so(8)).
const PRELOAD: &str = "LD_PRELOAD";
/// AddressSanitizer's options: it ends programs whose first library is not its own, unless told not to look.
const SANITIZER: &str = "ASAN_OPTIONS";
/// What tells the library the kind of the view's stack.
const SHIM_VARIABLE: &str = "VIEWNET_SHIM";

/// The library, where `cargo build` puts it, beside this program, or where it is installed, in `../lib`.
fn shim() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    [folder.join(SHIM), folder.join("../lib").join(SHIM)].into_iter().find(|path| path.is_file())
}

/// What tells the library where the stack is, if there is no supervisor.
const SHIM_STACK: &str = "VIEWNET_STACK";

/// Has the program to be executed make its sockets in the stack at a path, by the library alone. False: there is no
/// library.
pub(crate) fn set_shim_alone(stack: &str) -> bool {
    set_shim(Some(Kind::Kernel));
    crate::sys::process::set_variable(SHIM_VARIABLE, Some("alone"));
    crate::sys::process::set_variable(SHIM_STACK, Some(stack));
    shim().is_some()
}

/// Has the program to be executed load the library, behind what it loads anyway, or not. A path that the variable
/// cannot hold is not put there.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn set_shim(kind: Option<Kind>) {
    let loaded = std::env::var(PRELOAD).unwrap_or_default();
    let others: Vec<&str> =
        loaded.split([':', ' ']).filter(|path| !path.is_empty() && !path.ends_with(SHIM)).collect();
    let shim = kind.and_then(|_| shim()?.to_str().map(str::to_owned));
    let shim = shim.filter(|path| !path.contains([':', ' ', '$']));
    let loaded: Vec<&str> = others.iter().copied().chain(shim.as_deref()).collect();
    let loaded = loaded.join(":");
    crate::sys::process::set_variable(PRELOAD, Some(loaded.as_str()).filter(|list| !list.is_empty()));
    if shim.is_some() {
        let options = std::env::var(SANITIZER).unwrap_or_default();
        let no_look = ["verify_asan_link_order=0", options.as_str()];
        let options: Vec<&str> = no_look.into_iter().filter(|option| !option.is_empty()).collect();
        crate::sys::process::set_variable(SANITIZER, Some(&options.join(":")));
    }
    crate::sys::process::set_variable(SHIM_VARIABLE, kind.filter(|_| shim.is_some()).map(Kind::name));
}

/// Marks the environment of the program to be executed with the nested view it is in, or with none.
pub(crate) fn set_marker(marker: Option<&str>) {
    crate::sys::process::set_variable(crate::eye::MARKER, marker);
}

/// A name for a stack or a switch that can be a file's: 1 to 32 letters, digits and `._-`.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let reserved = ["kernel", "none", "host", "smol"].contains(&name);
    if reserved || !stacks::serve::is_name(name) {
        let why = if reserved { "it is the name of a kind" } else { "it is no name" };
        return Err(Failure::new(format!("cannot use `{name}` as the name of a {what}"), why)
            .hint("use 1 to 32 letters, digits and `._-`, or a path with a `/`"));
    }
    Ok(())
}

fn make_private(dir: &Path, uid: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => is_private(dir, uid),
    }
}

fn is_private(dir: &Path, uid: u32) -> io::Result<()> {
    let meta = dir.symlink_metadata()?;
    let why = if !meta.is_dir() {
        "it is no folder"
    } else if meta.uid() != uid {
        "it belongs to another user"
    } else if meta.mode() & 0o077 != 0 {
        "other users may enter it"
    } else {
        return Ok(());
    };
    Err(io::Error::other(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_others_may_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let open = dir.path().join("open");
        DirBuilder::new().mode(0o755).create(&open).unwrap();
        assert!(make_private(&open, uid).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(make_private(&link, uid).is_err());
        assert!(make_private(&dir.path().join("new"), uid).is_ok());
    }
}

//! Small programs on several networks; each is under `src/bin`, and CI runs them all.
//!
//! The examples play both sides: they start themselves again, as plain programs that know nothing of
//! viewnet, inside views.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// The viewnet to run: `$VIEWNET_BIN`, or the one beside this program, or the one on the path.
pub fn viewnet() -> OsString {
    let beside =
        || Some(std::env::current_exe().ok()?.with_file_name("viewnet")).filter(|path| path.exists());
    let named = std::env::var_os("VIEWNET_BIN").map(PathBuf::from);
    named.or_else(beside).map_or_else(|| "viewnet".into(), PathBuf::into_os_string)
}

/// This program again, in a view with these options and in the role that `words` tell it.
pub fn in_view(options: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new(viewnet());
    let this = std::env::current_exe().expect("/proc is mounted");
    command.arg("run").args(options).arg("--").arg(this).args(words);
    command
}

/// Runs a viewnet command that must succeed.
pub fn manage(words: &[&str]) {
    let status = Command::new(viewnet()).args(words).status().expect("viewnet can be run");
    assert!(status.success(), "viewnet {} failed", words.join(" "));
}

/// A kept stack, which goes with this value.
#[derive(Debug)]
pub struct Kept(String);

impl Kept {
    /// Makes it, under this name and our process's number.
    pub fn up(name: &str, options: &[&str]) -> Self {
        let name = format!("{name}-{}", std::process::id());
        manage(&[&["stack", "up", &name], options].concat());
        Self(name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        manage(&["stack", "down", "--force", &self.0]);
    }
}

/// The default switch, which is there as long as anything is plugged into it.
pub fn hold_default_switch() -> Kept {
    Kept::up("holder", &["--kind", "smol", "--link", "switch"])
}

//! The management console of vde_switch: a person, or a script, at the other end of a Unix socket.
//!
//! # Theory of operation
//! The console greets, prompts with `vde$ `, and takes a line. A command is a path (`port/print`) and arguments; its
//! answer is text between `0000 DATA END WITH '.'` and `.`, if it has any, then `1000 Success`, or 1000 plus an errno
//! and its words. So Debian's unixterm(1), unixcmd(1) and the scripts written for them work. vde_switch(1) describes
//! the commands; where its words are ambiguous, what it does decides.
//!
//! A [`Session`] is one connection: bytes go in by [`Session::handle_input`], [`Session::next`] gives one command at a
//! time, and [`run`] does it and writes the answer. The session itself does no I/O; [`Ports`] is what it needs of
//! whoever has the descriptors. A line is at most [`MAX_LINE`] bytes, the rest of a longer one is thrown away; what has
//! arrived and was not taken yet is at most [`MAX_INPUT`], beyond which its owner stops reading.
//!
//! **What differs.** Ports are numbered from 1, as there; they come when they are plugged in, and go with their last
//! endpoint but for those that were created, which are [kept](crate::switch::Place). VLAN 0, the console's name for
//! frames without a VLAN, is VLAN 1 here, and so the console has no VLAN 1: one that a script made would not be apart
//! from the others. There is one spanning tree for all VLANs, and there are no plugins.

mod commands;
mod debug;
mod ports;
mod show;
mod tree;

use std::path::PathBuf;
use std::time::Instant;

use crate::port::PortId;
use crate::switch::Switch;

pub use self::commands::run;
pub use self::debug::{Categories, Debugger, Told};

/// Longest line, in bytes; vde_switch takes 127.
pub const MAX_LINE: usize = 1024;
/// Bytes of input that wait at most.
pub const MAX_INPUT: usize = 64 << 10;
/// Longest script of `load`, in bytes.
pub const MAX_SCRIPT: usize = 64 << 10;
/// What stands before a line is typed. Scripts wait for its last two characters.
pub const PROMPT: &str = "\nvde$ ";
/// The last words of a session.
pub const END: &str = "9999 END OF SESSION";

/// What the console tells about the switch and cannot see in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Version of the program.
    pub version: &'static str,
    /// Process.
    pub pid: u32,
    /// Since when the switch runs.
    pub started: Instant,
    /// Its control socket.
    pub socket: PathBuf,
    /// Mode of that file.
    pub mode: u32,
    /// Where VDE's programs find the switch, and the mode of the sockets there.
    pub vde: Option<(PathBuf, u32)>,
    /// The console's socket.
    pub mgmt: PathBuf,
    /// Mode of that file.
    pub mgmt_mode: u32,
}

/// What is plugged into a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its number among those of the port, from 1.
    pub number: u32,
    /// The part of vde_switch that would have it, in a word or two.
    pub module: &'static str,
    /// What it says of itself.
    pub description: String,
}

/// What the console needs of whoever has the ports' descriptors, and of the system.
pub trait Ports {
    /// What is plugged in there, the last to come first.
    fn endpoints(&self, port: PortId) -> Vec<Endpoint>;
    /// Whose port it is, if that matters.
    fn user(&self, port: PortId) -> Option<u32>;
    /// Pulls an endpoint out, and the port if it was the last; true if there was one of that number.
    fn close(&mut self, switch: &mut Switch, port: PortId, endpoint: u32) -> bool;
    /// The spanning tree was turned on or off.
    fn tree_changed(&mut self, now: Instant, switch: &mut Switch);
    /// The number of a user or a group.
    fn find(&self, who: Who<&str>) -> Option<u32>;
    /// The name of a user or a group.
    fn name(&self, who: Who<u32>) -> Option<String>;
}

/// A user or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<T> {
    /// A user.
    User(T),
    /// A group.
    Group(T),
}

/// What was said at the console and is nowhere else to be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// How often the forwarding database is to be looked through, in seconds: it is not, entries end by the clock.
    gc_s: i64,
    /// The port whose link costs less, and by how much.
    bonus: Option<(u32, i64)>,
}

/// What commands work on.
pub struct Context<'a> {
    /// The time.
    pub now: Instant,
    /// The switch.
    pub switch: &'a mut Switch,
    /// Its descriptors.
    pub ports: &'a mut dyn Ports,
    /// What was said before.
    pub memory: &'a mut Memory,
    /// What this session is told unasked.
    pub categories: &'a mut Categories,
    /// Who it is.
    pub identity: &'a Identity,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("now", &self.now).finish_non_exhaustive()
    }
}

/// What follows from a command, beside its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// The prompt.
    Prompt,
    /// The end of the session.
    Logout,
    /// The end of the switch.
    Shutdown,
    /// The commands of this file, each as [`run`] would; then [`loaded`] writes the answer.
    Load(PathBuf),
}

/// One connection.
#[derive(Debug, Default)]
pub struct Session {
    input: Vec<u8>,
    /// The rest of the line that is arriving is thrown away.
    skipping: bool,
}

impl Session {
    /// A session, and what it says first.
    pub fn begin(identity: &Identity, out: &mut String) -> Self {
        out.push_str(&show::banner(identity));
        out.push_str(PROMPT);
        Self::default()
    }

    /// Bytes arrived.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// How many more bytes there is room for.
    pub fn room(&self) -> usize {
        MAX_INPUT.saturating_sub(self.input.len())
    }

    /// The next whole line, without its end; what is no text in it is replaced.
    #[expect(clippy::should_implement_trait, reason = "an iterator would hold the session")]
    pub fn next(&mut self) -> Option<String> {
        let Some(end) = self.input.iter().position(|&byte| byte == b'\n') else {
            if self.input.len() > MAX_LINE {
                self.input.clear();
                self.skipping = true;
            }
            return None;
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        let skipped = std::mem::take(&mut self.skipping);
        let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
        if skipped || line.len() > MAX_LINE {
            // Its answer is that it makes no sense.
            return Some("\u{fffd}".to_owned());
        }
        Some(String::from_utf8_lossy(line).into_owned())
    }
}

/// The lines of a script that `load` read, each with what stands before its answer.
pub fn script<'a>(path: &'a std::path::Path, text: &'a str) -> impl Iterator<Item = (String, &'a str)> {
    text.lines().map(move |line| (format!("vde[{}]: {line}\n", path.display()), line))
}

/// Writes the answer to `load`.
pub fn loaded(result: Result<(), i32>, out: &mut String) {
    commands::finish(result.map_err(commands::Trouble::of), out);
}

#[cfg(test)]
mod tests;

//! Where a probe runs: natively first, then in a view.

use std::fmt;
use std::path::Path;

use crate::command::Cmd;
use crate::world::{User, World};

/// Where a probe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// In a network namespace of its own, loopback up, whose owner the probe is: the reference.
    Native,
    /// Under `viewnet run`, in a view whose kernel stack has only its own loopback.
    View,
    /// The same with a smol stack, by traps alone.
    Smol,
    /// The same with the preloaded library, as `viewnet run` has it.
    Shimmed,
    /// On a kernel stack by the preloaded library alone, without a supervisor.
    Alone,
    /// The same on a smol stack.
    AloneSmol,
    /// A program that is linked with libmsocket and has a kernel stack for its default, without a supervisor.
    Linked,
    /// The same with a smol stack.
    LinkedSmol,
    /// As `View`, with a rule that no probe's destination matches: every destination is looked at.
    Ruled,
    /// The same with a smol stack.
    RuledSmol,
}

/// To an address for documentation (RFC 5737).
const RULE: &str = "to 203.0.113.254 deny";

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::View => "kernel view",
            Self::Smol => "smol view",
            Self::Shimmed => "smol view with the library",
            Self::Alone => "library alone on a kernel stack",
            Self::AloneSmol => "library alone on a smol stack",
            Self::Linked => "libmsocket on a kernel stack",
            Self::LinkedSmol => "libmsocket on a smol stack",
            Self::Ruled => "kernel view with rules",
            Self::RuledSmol => "smol view with rules",
        })
    }
}

/// Makes the namespace what every machine is today: loopback up, ping allowed to everybody.
const SET_UP: &str = "ip link set lo up; echo 0 0 >/proc/sys/net/ipv4/ping_group_range; exec \"$@\"";

/// The library serves a stack that is kept.
const ALONE: &str = "viewnet stack up probe --kind $KIND >&2 && viewnet run --preload-only --stack probe -- \"$@\"; \
                     end=$?; viewnet stack down probe >&2; exit $end";

/// The program asks for that stack by itself.
const LINKED: &str = "viewnet stack up probe --kind $KIND >&2 && PROBE_STACK=probe \"$@\"; \
                      end=$?; viewnet stack down probe >&2; exit $end";

impl Subject {
    /// `program args`, to be run by this subject.
    pub fn command(self, world: &World, user: User, program: &Path, args: &[&str]) -> Cmd {
        let flags = if user == User::Root { "-n" } else { "-rn" };
        let cmd = match self {
            Self::Native => world.cmd("unshare").args([flags, "--", "sh", "-euc", SET_UP, "sh"]),
            Self::View => world.alone(["--stack", "kernel", "--"]),
            Self::Smol => world.alone(["--no-shim", "--stack", "smol", "--"]),
            Self::Shimmed => world.alone(["--stack", "smol", "--"]),
            Self::Alone => world.cmd("sh").env("KIND", "kernel").args(["-uc", ALONE, "sh"]),
            Self::AloneSmol => world.cmd("sh").env("KIND", "smol").args(["-uc", ALONE, "sh"]),
            Self::Linked => world.cmd("sh").env("KIND", "kernel").args(["-uc", LINKED, "sh"]),
            Self::LinkedSmol => world.cmd("sh").env("KIND", "smol").args(["-uc", LINKED, "sh"]),
            Self::Ruled => world.alone(["--stack", "kernel", "--rule", RULE, "--"]),
            Self::RuledSmol => world.alone(["--stack", "smol", "--rule", RULE, "--"]),
        };
        cmd.args([program]).args(args)
    }

    /// A program of the World's `bin` folder by its file name, for messages.
    pub fn describe(program: &Path) -> String {
        program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

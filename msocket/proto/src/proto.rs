//! What a stack's path understands: one [`Request`] a line, one [`Reply`](crate::line::Reply) each.
//!
//! The version is in `hello`; a server answers requests of its own version only. A connection that has
//! sent [`Request::Join`] counts as a user of the stack until it closes.

use serde::{Deserialize, Serialize};

/// Version of this protocol.
pub const VERSION: u32 = 1;

/// The address family that no kernel has: socket(2) with it, inside a view, gives a control line to the
/// view's supervisor. Outside, the kernel answers EAFNOSUPPORT.
pub const AF_VIEWNET: i32 = 0x766e;

/// Another one: msocket() as one call. socket(2) with it takes six arguments, of which a kernel looks at none
/// but the first (EAFNOSUPPORT), and a view's supervisor at all: this, the type or [`SOCK_DEFAULT`], the protocol,
/// the family, and the address and length of the stack's path (no NUL), or the number that [`SOCK_NUMBER`] gave and 0:
/// to read memory costs more than all the rest. ESTALE: no stack has the number any more. A family that the stack
/// lacks is EPFNOSUPPORT.
pub const AF_MSOCKET: i32 = 0x766f;

/// Instead of a socket's type: the number of the stack, for this supervisor, for the next time. It is the last value
/// that the bits of a type can have, and no type.
pub const SOCK_NUMBER: i32 = 15;

/// Instead of a socket's type: sets the default stack of a family. The value is View-OS's.
pub const SOCK_DEFAULT: i32 = 0;

/// The upper half of a first argument that a view's filter lets pass, on calls whose first argument is a
/// descriptor. The kernel takes a descriptor as an int and does not see it, no compiler puts anything there, so it
/// is how a library in the program says "this one is mine, let the kernel have it".
pub const EXEMPT: u32 = 0x7669_6577;

/// A request to a stack.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you? Answer: [`Hello`].
    Hello,
    /// A socket of this stack. Answer: `null` and the descriptor.
    Socket {
        /// AF_*
        domain: i32,
        /// SOCK_* and its flags
        #[serde(rename = "type")]
        kind: i32,
        /// Protocol
        protocol: i32,
    },
    /// A file about the stack's network, for reading. Answer: `null` and the descriptor, or its errno; EOPNOTSUPP if it
    /// is not to be had so, as folders below /proc/net.
    File(File),
    /// Use the stack as a view does. Answer: [`Joined`], with the network namespace's descriptor if there
    /// is one and the caller is the stack's owner.
    Join {
        /// The user's name for its view.
        view: String,
        /// The process the view was made for.
        pid: i32,
        /// The rules of the view, for others to see.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rules: Vec<String>,
    },
    /// The user namespace in which the owner's stacks live. Answer: `null` and the descriptor.
    UserNamespace,
    /// What the stack is like. Answer: the stack's description.
    Show,
    /// The stack's packet filter: change it, if so said, then show it. Answer: its rules and counters. Only the
    /// stack's owner may change it.
    Filter {
        /// What is to be another way.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        change: Option<FilterChange>,
    },
    /// Forget the stack. Answer: `null`.
    Down {
        /// Even if it is in use.
        force: bool,
    },
}

/// A file about a stack's network.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where.
    pub place: FilePlace,
    /// Its path there.
    pub path: String,
    /// What for.
    #[serde(default)]
    pub how: FileUse,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileUse {
    /// To be read.
    #[default]
    Read,
    /// To be looked at, as stat(2) does (O_PATH).
    Look,
    /// Likewise, and if it is a symbolic link, that (O_NOFOLLOW).
    Link,
}

/// What is to be another way in a packet filter.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum FilterChange {
    /// These rules come behind those that are there.
    Add {
        /// One a line.
        rules: String,
    },
    /// These rules stand in the place of those that are there, at once.
    Set {
        /// One a line.
        rules: String,
    },
    /// A rule goes.
    Remove {
        /// Its number, as it is shown.
        handle: u64,
    },
    /// All rules go, and everything is let through.
    Flush,
}

/// Where files about a network are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilePlace {
    /// Below /proc/net, proc_net(5).
    Proc,
    /// Below /sys/class/net, sysfs(5).
    Sys,
}

/// Answer to [`Request::Hello`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Hello {
    /// [`VERSION`] of the server.
    pub version: u32,
    /// Name of the stack.
    pub name: String,
}

/// Answer to [`Request::Join`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Joined {
    /// Name of the stack.
    pub name: String,
    /// Kind of the stack.
    pub kind: String,
    /// Whether a descriptor of the network namespace came along; if not, ask for each socket.
    pub namespace: bool,
}

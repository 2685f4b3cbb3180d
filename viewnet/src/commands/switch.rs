//! `viewnet switch`: start, list and change user-space Ethernet switches.
//!
//! # Theory of operation
//! A switch is a process of its own that answers on a socket file; every command here but `up` is one
//! connection to it, a request or two, and the answer as a table or as JSON. NAME is a name, whose socket
//! lives in the runtime folder, or a path (with a `/`). [`launch`] starts switches, [`ensure_default`] for those
//! who need one and do not care which; [`inspect`] asks, [`change`] changes, [`crate::tables`] prints.

mod change;
mod inspect;
mod launch;

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Subcommand};
use msocket_proto::line::unusable;
use switch::client::{Client, Hello};
use switch::vlan::{PortVlans, Vid, VidSet};

pub(crate) use self::change::plug;
use self::launch::ensure_default;
pub(crate) use self::launch::{Definition, start_switch};
use crate::exit::{Exit, Failure, call_failed};
use crate::runtime::Runtime;

/// Name of the switch that starts when it is first used.
pub(crate) const DEFAULT: &str = "default";
/// Bytes at most in a switch's name: the path of its socket must fit into 107 (unix(7)).
const MAX_NAME: usize = 32;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a switch in the background
    Up(launch::Up),
    /// List the running switches
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a switch with its ports and VLANs
    Show {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change a switch
    Set {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        settings: change::Changes,
    },
    /// End a switch and all its ports
    Down {
        #[command(flatten)]
        target: Target,
    },
    /// List, add, remove and change ports
    #[command(subcommand)]
    Port(Port),
    /// List, name and remove VLANs
    #[command(subcommand)]
    Vlan(Vlan),
    /// List and forget learned addresses
    #[command(subcommand)]
    Mac(Mac),
    #[command(hide = true)]
    Serve(launch::Serve),
}

/// Which switch.
#[derive(Debug, clap::Args)]
struct Target {
    /// The switch: a name, or the path of its socket
    #[arg(id = "switch", value_name = "SWITCH")]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Port {
    /// List the ports
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a port: an interface of the network this command runs in
    Add(change::PortAdd),
    /// Remove a port
    Rm {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
    },
    /// Change a port's VLANs or name
    Set {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
        #[command(flatten)]
        rules: Rules,
        /// Its new name
        #[arg(long, value_name = "NEW")]
        rename: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Vlan {
    /// List the VLANs that have a name, an access or native port, or traffic
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a VLAN a name
    Add {
        #[command(flatten)]
        target: Target,
        /// The VLAN, 1 to 4094
        vid: Vid,
        /// Its name
        #[arg(long, value_name = "TEXT", default_value = "")]
        name: String,
    },
    /// Forget a VLAN and take it off every trunk
    Rm {
        #[command(flatten)]
        target: Target,
        /// The VLAN, 1 to 4094
        vid: Vid,
    },
}

#[derive(Debug, Subcommand)]
enum Mac {
    /// List the learned addresses
    Ls {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        filter: Filter,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget learned addresses
    Flush {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        filter: Filter,
    },
}

/// Which addresses.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Only those of this VLAN
    #[arg(long, value_name = "VID")]
    vlan: Option<Vid>,
    /// Only those behind this port
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
}

/// A port's VLANs, as typed.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("mode").args(["access", "trunk"]))]
struct Rules {
    /// One VLAN, without tags
    #[arg(long, value_name = "VID")]
    access: Option<Vid>,
    /// Several VLANs, with tags: 10,20-29 or all
    #[arg(long, value_name = "LIST")]
    trunk: Option<VidSet>,
    /// The VLAN of frames without tag on a trunk
    #[arg(long, value_name = "VID", requires = "trunk")]
    native: Option<Vid>,
}

impl Rules {
    fn vlans(self) -> Option<PortVlans> {
        let native = self.native;
        let trunk = self.trunk.map(|allowed| PortVlans::Trunk { native, allowed });
        trunk.or_else(|| self.access.map(|vid| PortVlans::Access { vid }))
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    // What runs in the background was told its path, and needs no runtime folder.
    if let Command::Serve(serve) = args.command {
        return launch::serve(serve);
    }
    let runtime = Runtime::locate()?;
    match args.command {
        Command::Up(up) => launch::up(up, &runtime)?,
        Command::Serve(_) => {}
        Command::Ls { json } => inspect::ls(&runtime, json)?,
        Command::Show { target, json } => inspect::show(&target, &runtime, json)?,
        Command::Set { target, settings } => change::set(&target, &runtime, settings)?,
        Command::Down { target } => change::down(&target, &runtime)?,
        Command::Port(Port::Ls { target, json }) => inspect::ports(&target, &runtime, json)?,
        Command::Port(Port::Add(add)) => change::port_add(add, &runtime)?,
        Command::Port(Port::Rm { target, port }) => change::port_rm(&target, &runtime, port)?,
        Command::Port(Port::Set { target, port, rules, rename }) => {
            change::port_set(&target, &runtime, port, rules, rename)?;
        }
        Command::Vlan(Vlan::Ls { target, json }) => inspect::vlans(&target, &runtime, json)?,
        Command::Vlan(Vlan::Add { target, vid, name }) => change::vlan_add(&target, &runtime, vid, name)?,
        Command::Vlan(Vlan::Rm { target, vid }) => change::vlan_rm(&target, &runtime, vid)?,
        Command::Mac(Mac::Ls { target, filter, json }) => inspect::macs(&target, &runtime, filter, json)?,
        Command::Mac(Mac::Flush { target, filter }) => change::mac_flush(&target, &runtime, filter)?,
    }
    Ok(Exit::Done)
}

impl Target {
    fn path(&self, runtime: &Runtime) -> Result<PathBuf, Failure> {
        socket_of(&self.name, runtime)
    }

    /// Connects to the switch.
    fn connect(&self, runtime: &Runtime) -> Result<Client, Failure> {
        connect(&self.name, &self.path(runtime)?)
    }
}

/// The socket of the switch `name`, as an absolute path.
fn socket_of(name: &str, runtime: &Runtime) -> Result<PathBuf, Failure> {
    if !name.contains('/') && !is_valid_name(name) {
        return Err(Failure::new(
            format!("`{name}` is no name for a switch"),
            "a name has 1 to 32 letters, digits, `.`, `_` or `-`",
        )
        .hint("to name a socket file, write a path with a `/`"));
    }
    let path = runtime.switch(name);
    std::path::absolute(&path).map_err(|e| Failure::io(format!("cannot use {}", path.display()), &e))
}

fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn connect(name: &str, path: &Path) -> Result<Client, Failure> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let what = format!("cannot reach the switch `{name}`");
    let mut client = Client::connect(path).map_err(|e| match e.kind() {
        NotFound | ConnectionRefused => Failure::new(&what, format!("nobody serves {}", path.display()))
            .hint(format!("start it with `viewnet switch up {name}`, or see `viewnet switch ls`")),
        PermissionDenied => Failure::new(&what, format!("{}: {e}", path.display()))
            .hint("its owner may open it with `viewnet switch set --mode`"),
        _ => unusable(&what, path, &e).into(),
    })?;
    let hello = client.hello().map_err(|e| call_failed(&what, e))?;
    check_version(name, &hello).map(|()| client)
}

/// A connection to the switch that a stack is plugged into; the default one starts on first use.
pub(crate) fn reach(runtime: &Runtime, name: &str) -> Result<Client, Failure> {
    if name == DEFAULT {
        return ensure_default(runtime);
    }
    connect(name, &socket_of(name, runtime)?)
}

/// Do we understand this switch?
fn check_version(name: &str, hello: &Hello) -> Result<(), Failure> {
    let ours = switch::control::VERSION;
    if hello.version <= ours {
        return Ok(());
    }
    let why = format!("it speaks version {}, this viewnet {ours}", hello.version);
    Err(Failure::new(format!("cannot talk to the switch `{name}`"), why)
        .hint("use the viewnet that started it"))
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::augment_args(clap::Command::new("switch")).debug_assert();
    }

    #[test]
    fn names() {
        for good in ["lan", "a", "lab-1.b_2"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-x", "a b", "ä", &"x".repeat(33)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}

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
mod links;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Subcommand};
use msocket_proto::line::unusable;
use switch::client::{Client, Hello};
use switch::control::Vde;
use switch::vlan::{PortVlans, Vid, VidSet};

use self::launch::ensure_default;
use crate::commands::options::file_mode;
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
        /// Forget stations silent for so many seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        age: Option<u64>,
        #[command(flatten)]
        vde: VdeOptions,
        /// Let VDE's programs plug in no more; those that did stay
        #[arg(long, conflicts_with = "vde")]
        no_vde: bool,
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
    /// Add a port: an interface of the network this command runs in, or a link to elsewhere
    Add(Box<change::PortAdd>),
    /// Remove a port
    Rm {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
    },
    /// Change a port's VLANs, name or tunnel
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
        /// The peers of a VXLAN tunnel that get what is flooded: ADDR or ADDR:PORT
        #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = change::peer)]
        peer: Vec<SocketAddr>,
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

/// Where VDE's programs plug in, and who may.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "VDE")]
struct VdeOptions {
    /// Let VDE's programs plug in, too: vde_plug, vdens, QEMU's `-nic vde` find the switch in this folder
    #[arg(long, value_name = "FOLDER")]
    vde: Option<PathBuf>,
    /// The mode of the sockets in that folder, in octal, as vde_switch's -m
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = file_mode, requires = "vde")]
    vde_mode: u32,
    /// The group of that folder and the sockets in it, as vde_switch's -g
    #[arg(long, value_name = "GROUP", requires = "vde")]
    vde_group: Option<String>,
}

impl VdeOptions {
    fn resolve(&self) -> Result<Option<Vde>, Failure> {
        let Some(folder) = &self.vde else { return Ok(None) };
        let path = std::path::absolute(folder)
            .map_err(|e| Failure::io(format!("cannot use {}", folder.display()), &e))?;
        let group = self.vde_group.as_deref().map(group_id).transpose()?;
        Ok(Some(Vde { path: Some(path), mode: self.vde_mode, group }))
    }
}

/// The number of a group, which may be given as such.
fn group_id(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = nix::unistd::Group::from_name(name).ok().flatten();
    found.map(|group| group.gid.as_raw()).ok_or_else(|| {
        Failure::new(format!("cannot use the group `{name}`"), "there is no such group")
            .hint("`getent group` lists them")
    })
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
        Command::Set { target, age, vde, no_vde } => {
            let nowhere = no_vde.then_some(Vde { path: None, mode: vde.vde_mode, group: None });
            change::set(&target, &runtime, age, vde.resolve()?.or(nowhere))?;
        }
        Command::Down { target } => change::down(&target, &runtime)?,
        Command::Port(Port::Ls { target, json }) => inspect::ports(&target, &runtime, json)?,
        Command::Port(Port::Add(add)) => change::port_add(*add, &runtime)?,
        Command::Port(Port::Rm { target, port }) => change::port_rm(&target, &runtime, port)?,
        Command::Port(Port::Set { target, port, rules, rename, peer }) => {
            change::port_set(&target, &runtime, port, rules, rename, peer)?;
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
            .hint("its owner may open it with `--socket-mode`"),
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

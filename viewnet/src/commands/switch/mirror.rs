//! `switch mirror`: copies of some ports' frames for another one.

use clap::Subcommand;
use switch::client::{MirrorInfo, MirrorRule, Request};
use switch::vlan::VidSet;

use super::Target;
use super::change::request;
use crate::commands::capture::WayName;
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

#[derive(Debug, Subcommand)]
pub(super) enum Mirror {
    /// List the mirrors
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give one port copies of the frames of others, and nothing else from now on
    Add(Add),
    /// Remove a mirror: its port is an ordinary one again
    Rm {
        #[command(flatten)]
        target: Target,
        /// The port that gets the copies
        #[arg(value_name = "PORT")]
        to: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    #[command(flatten)]
    target: Target,
    /// The ports to watch, or all
    #[arg(long, value_name = "PORT,..|all", default_value = "all", value_delimiter = ',')]
    from: Vec<String>,
    /// Which of their frames: those that arrive at the switch, those that leave it, or both
    #[arg(long, value_name = "WAY", default_value = "both")]
    direction: WayName,
    /// Of which VLANs: 10,20-29 or all
    #[arg(long, value_name = "LIST", default_value = "all")]
    vlan: VidSet,
    /// The port that gets the copies
    #[arg(long, value_name = "PORT")]
    to: String,
}

pub(super) fn run(command: Mirror, runtime: &Runtime) -> Result<(), Failure> {
    match command {
        Mirror::Ls { target, json } => ls(&target, runtime, json),
        Mirror::Add(Add { target, from, direction, vlan, to }) => {
            let from = (from != ["all"]).then_some(from);
            let rule = MirrorRule { to, from, direction: direction.into(), vlans: vlan };
            request(&target, runtime, "cannot add the mirror", &Request::MirrorAdd(rule))
        }
        Mirror::Rm { target, to } => {
            request(&target, runtime, "cannot remove the mirror", &Request::MirrorRm { to })
        }
    }
}

fn ls(target: &Target, runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let mirrors = target.connect(runtime)?.mirrors().map_err(|e| call_failed("cannot ask the switch", e))?;
    if json {
        return print_json(&mirrors);
    }
    let row = |m: &MirrorInfo| {
        let direction = serde_json::to_value(m.rule.direction).ok();
        [
            m.rule.to.clone(),
            m.rule.from.as_ref().map_or_else(|| "all".to_owned(), |from| from.join(",")),
            direction.as_ref().and_then(|d| d.as_str()).unwrap_or_default().to_owned(),
            m.rule.vlans.to_string(),
            m.frames.to_string(),
            m.bytes.to_string(),
        ]
    };
    print(&table(["TO", "FROM", "DIRECTION", "VLANS", "FRAMES", "BYTES"], mirrors.iter().map(row)))
}

//! `switch vde`: the numbers of ports, which VDE's programs ask for, and the programs.

use clap::Subcommand;
use nix::unistd::{Group, User};
use switch::client::Request;
use switch::control::vde::{Any, Owner, VdeInfo, VdeKeep};

use super::change::request;
use super::{Rules, Target, group_id};
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

#[derive(Debug, Subcommand)]
pub(super) enum Vde {
    /// List the programs, and the numbers that are kept
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Keep a port's number for programs that ask for it, with VLANs, and for some only; or change that
    Keep(Keep),
    /// Keep a number no more
    Release {
        #[command(flatten)]
        target: Target,
        /// The number
        number: u32,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Keep {
    #[command(flatten)]
    target: Target,
    /// The number
    number: u32,
    #[command(flatten)]
    rules: Rules,
    /// Whose programs may have it, beside root's and the group's: name or number, or any
    #[arg(long, value_name = "USER", value_parser = user)]
    user: Option<Owner>,
    /// Whose members' programs may have it, beside root's and the user's: name or number, or any
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// May programs that ask for no number get it?
    #[arg(long, value_name = "BOOL")]
    allocatable: Option<bool>,
}

pub(super) fn run(command: Vde, runtime: &Runtime) -> Result<(), Failure> {
    match command {
        Vde::Ls { target, json } => ls(&target, runtime, json),
        Vde::Keep(Keep { target, number, rules, user, group, allocatable }) => {
            let group = match group.as_deref() {
                Some("any") => Some(Owner::Any(Any::Any)),
                group => group.map(group_id).transpose()?.map(Owner::Id),
            };
            let keep = VdeKeep { number, vlans: rules.vlans(), allocatable, user, group };
            request(&target, runtime, "cannot keep the number", &Request::VdeKeep(keep))
        }
        Vde::Release { target, number } => {
            request(&target, runtime, "cannot release the number", &Request::VdeRelease { number })
        }
    }
}

fn ls(target: &Target, runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let mut client = target.connect(runtime)?;
    let list: Vec<VdeInfo> =
        client.call(&Request::VdeLs).map_err(|e| call_failed("cannot ask the switch", e))?;
    if json {
        return print_json(&list);
    }
    let row = |info: &VdeInfo| {
        let peers = info.endpoints.iter().map(|endpoint| endpoint.peer.as_str());
        let kept = match (info.kept, info.allocatable) {
            (false, _) => "no",
            (true, false) => "yes",
            (true, true) => "allocatable",
        };
        [
            info.number.to_string(),
            info.port.clone().unwrap_or_default(),
            info.vlans.to_string(),
            kept.to_owned(),
            allowed(info),
            peers.collect::<Vec<_>>().join(", "),
        ]
    };
    print(&table(["NUMBER", "PORT", "VLANS", "KEPT", "FOR", "PROGRAMS"], list.iter().map(row)))
}

/// For whom a number is.
fn allowed(info: &VdeInfo) -> String {
    let user = info.user.map(|id| {
        let user = User::from_uid(id.into()).ok().flatten();
        user.map_or_else(|| id.to_string(), |user| user.name)
    });
    let group = info.group.map(|id| {
        let group = Group::from_gid(id.into()).ok().flatten();
        format!("@{}", group.map_or_else(|| id.to_string(), |group| group.name))
    });
    let both: Vec<String> = user.into_iter().chain(group).collect();
    if both.is_empty() { "all".to_owned() } else { both.join(" ") }
}

fn user(name: &str) -> Result<Owner, String> {
    match (name, name.parse()) {
        ("any", _) => Ok(Owner::Any(Any::Any)),
        (_, Ok(number)) => Ok(Owner::Id(number)),
        (name, Err(_)) => {
            let user = User::from_name(name).ok().flatten();
            user.map(|user| Owner::Id(user.uid.as_raw())).ok_or_else(|| "there is no such user".to_owned())
        }
    }
}

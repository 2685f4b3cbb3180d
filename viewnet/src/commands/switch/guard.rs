//! `switch guard`: what a port may bring in, and who may be behind it.

use clap::Subcommand;
use switch::client::traffic::{GuardInfo, GuardSet};
use switch::client::{PortInfo, Request};
use switch::guard::{GuardRules, Violation};

use super::change::request;
use super::{OrOff, Target};
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

const ASK: &str = "cannot ask the switch";
const CHANGE: &str = "cannot change the port";

#[derive(Debug, Subcommand)]
pub(super) enum Guard {
    /// List the ports with limits, and those that are shut
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change a port's limits; what is not given stays
    Set {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Take all limits of a port away
    Rm {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
    },
}

/// What `guard set` may change.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Limits {
    /// Broadcasts per second; `off` for any number
    #[arg(long, value_name = "FRAMES")]
    broadcast: Option<OrOff<u32>>,
    /// Multicasts per second; `off` for any number
    #[arg(long, value_name = "FRAMES")]
    multicast: Option<OrOff<u32>>,
    /// Frames per second to stations nobody knows; `off` for any number
    #[arg(long, value_name = "FRAMES")]
    unknown: Option<OrOff<u32>>,
    /// Stations behind the port; `off` for any number
    #[arg(long, value_name = "STATIONS")]
    macs: Option<OrOff<u32>>,
    /// What one station too many, or one pinned to another port, leads to
    #[arg(long, value_name = "ACTION", value_parser = violation())]
    violation: Option<Violation>,
}

fn violation() -> impl clap::builder::TypedValueParser<Value = Violation> {
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    PossibleValuesParser::new(["drop", "shutdown"]).map(|word| match word.as_str() {
        "shutdown" => Violation::Shutdown,
        _ => Violation::Drop,
    })
}

pub(super) fn run(command: Guard, runtime: &Runtime) -> Result<(), Failure> {
    match command {
        Guard::Ls { target, json } => {
            let mut client = target.connect(runtime)?;
            let guards = client.guards().map_err(|e| call_failed(ASK, e))?;
            if json {
                return print_json(&guards);
            }
            let ports = client.ports().map_err(|e| call_failed(ASK, e))?;
            print(&guard_table(&guards, &ports))
        }
        Guard::Rm { target, port } => {
            let guard = GuardRules::default();
            request(&target, runtime, CHANGE, &Request::GuardSet(GuardSet { port, guard }))
        }
        Guard::Set { target, port, limits } => {
            let mut client = target.connect(runtime)?;
            let guards = client.guards().map_err(|e| call_failed(ASK, e))?;
            let present = guards.into_iter().find(|info| info.port == port).map(|info| info.guard);
            let guard = limits.apply(present.unwrap_or_default());
            client.call(&Request::GuardSet(GuardSet { port, guard })).map_err(|e| call_failed(CHANGE, e))
        }
    }
}

impl Limits {
    fn apply(self, present: GuardRules) -> GuardRules {
        let new = |limit: Option<OrOff<u32>>, old| limit.map_or(old, |limit| limit.0);
        GuardRules {
            broadcast_fps: new(self.broadcast, present.broadcast_fps),
            multicast_fps: new(self.multicast, present.multicast_fps),
            unknown_fps: new(self.unknown, present.unknown_fps),
            mac_limit: new(self.macs, present.mac_limit),
            violation: self.violation.unwrap_or(present.violation),
        }
    }
}

fn guard_table(guards: &[GuardInfo], ports: &[PortInfo]) -> String {
    let word = |value: Result<serde_json::Value, _>| {
        value.ok().and_then(|v: serde_json::Value| v.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let limit = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let row = |info: &GuardInfo| {
        let dropped = ports.iter().find(|port| port.name == info.port).map(|port| {
            use switch::port::DropReason::{
                MacLimit, Shut, StormBroadcast, StormMulticast, StormUnknown, WrongPort,
            };
            let reasons = [StormBroadcast, StormMulticast, StormUnknown, MacLimit, WrongPort, Shut];
            reasons.iter().filter_map(|reason| port.drops.get(reason)).sum::<u64>()
        });
        [
            info.port.clone(),
            limit(info.guard.broadcast_fps),
            limit(info.guard.multicast_fps),
            limit(info.guard.unknown_fps),
            limit(info.guard.mac_limit),
            info.macs.to_string(),
            word(serde_json::to_value(info.guard.violation)),
            dropped.unwrap_or(0).to_string(),
            info.shut.map_or_else(
                || "open".to_owned(),
                |why| format!("shut: {}", word(serde_json::to_value(why))),
            ),
        ]
    };
    let heads = [
        "PORT",
        "BROADCAST/s",
        "MULTICAST/s",
        "UNKNOWN/s",
        "MACS",
        "PRESENT",
        "VIOLATION",
        "DROPPED",
        "STATE",
    ];
    table(heads, guards.iter().map(row))
}

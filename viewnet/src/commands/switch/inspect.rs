//! The commands that ask a switch: `ls`, `show`, and the lists of ports, VLANs and addresses.

use std::path::PathBuf;

use serde::Serialize;
use switch::client::{Client, MacFilter, PortInfo, Show, Station, StpTree, VlanInfo};

use super::qos::police_cell;
use super::{Filter, Target, connect, stp};
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::served::sockets;
use crate::tables::{print, print_json, table};

const WHAT: &str = "cannot ask the switch";

/// One switch in `ls --json`.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    show: Show,
    path: PathBuf,
}

/// `show --json`.
#[derive(Serialize)]
struct Shown {
    name: String,
    path: PathBuf,
    pid: u32,
    uptime_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_s: Option<u64>,
    age_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    mgmt: Option<PathBuf>,
    hub: bool,
    stations: usize,
    stations_refused: u64,
    stations_learned: u64,
    stations_moved: u64,
    stations_aged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
    connections: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    stp: Option<StpTree>,
    vde: Option<PathBuf>,
    ports: Vec<PortInfo>,
    vlans: Vec<VlanInfo>,
}

/// Every switch of the runtime folder that takes a connection, and its path; the sockets of dead ones are removed.
pub(super) fn running(runtime: &Runtime) -> Result<Vec<(PathBuf, Client)>, Failure> {
    let client = |path: PathBuf| Client::connect(&path).ok().map(|client| (path, client));
    Ok(sockets(&runtime.switches())?.into_iter().filter_map(client).collect())
}

/// Lists the switches of the runtime folder, and removes the sockets of dead ones on the way.
pub(super) fn ls(runtime: &Runtime, json: bool) -> Result<(), Failure> {
    // One that ends while we ask is not listed.
    let show = |(path, mut client): (PathBuf, Client)| client.show().ok().map(|show| Listed { show, path });
    let mut listed: Vec<Listed> = running(runtime)?.into_iter().filter_map(show).collect();
    listed.sort_by(|a, b| a.show.name.cmp(&b.show.name));
    if json {
        return print_json(&listed);
    }
    let row = |l: &Listed| {
        let s = &l.show;
        [
            s.name.clone(),
            s.pid.to_string(),
            s.ports.to_string(),
            s.vlans.to_string(),
            s.stations.to_string(),
            duration(s.uptime_s),
        ]
    };
    print(&table(["NAME", "PID", "PORTS", "VLANS", "STATIONS", "UP"], listed.iter().map(row)))
}

/// A switch with its ports and VLANs.
pub(super) fn show(target: &Target, runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let path = target.path(runtime)?;
    let mut client = connect(&target.name, &path)?;
    let failed = |e| call_failed(WHAT, e);
    let show = client.show().map_err(failed)?;
    let (ports, vlans) = (client.ports().map_err(failed)?, client.vlans().map_err(failed)?);
    let shown = Shown {
        name: show.name,
        path,
        pid: show.pid,
        uptime_s: show.uptime_s,
        idle_s: show.idle_s,
        age_s: show.age_s,
        mgmt: show.mgmt,
        hub: show.hub,
        stations: show.stations,
        stations_refused: show.stations_refused,
        stations_learned: show.stations_learned,
        stations_moved: show.stations_moved,
        stations_aged: show.stations_aged,
        metrics: show.metrics,
        connections: show.connections,
        // A switch that runs since before there was one does not know the question.
        stp: client.stp().ok(),
        vde: show.vde,
        ports,
        vlans,
    };
    if json {
        return print_json(&shown);
    }
    let idle = shown.idle_s.map_or_else(|| "never".to_owned(), |s| format!("when unused for {s} s"));
    print(&format!(
        "name      {}\nsocket    {}\n{}{}process   {}, up {}\nends      {idle}\nstations  {}, forgotten after {} s{}\ntree      {}\n{}\n{}\n{}",
        shown.name,
        shown.path.display(),
        shown.vde.as_ref().map_or_else(String::new, |folder| format!("VDE       {}\n", folder.display())),
        shown.mgmt.as_ref().map_or_else(String::new, |path| format!("console   {}\n", path.display())),
        shown.pid,
        duration(shown.uptime_s),
        shown.stations,
        shown.age_s,
        match shown.stations_refused {
            _ if shown.hub => "; a hub, which learns none".to_owned(),
            0 => String::new(),
            n => format!(", {n} not learned for want of room"),
        },
        shown.stp.as_ref().map_or_else(|| "unknown".to_owned(), stp::in_short),
        shown.metrics.as_ref().map_or_else(String::new, |place| format!("counters  {place}\n")),
        port_table(&shown.ports),
        vlan_table(&shown.vlans),
    ))
}

pub(super) fn ports(target: &Target, runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let ports = target.connect(runtime)?.ports().map_err(|e| call_failed(WHAT, e))?;
    if json { print_json(&ports) } else { print(&port_table(&ports)) }
}

pub(super) fn vlans(target: &Target, runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let vlans = target.connect(runtime)?.vlans().map_err(|e| call_failed(WHAT, e))?;
    if json { print_json(&vlans) } else { print(&vlan_table(&vlans)) }
}

pub(super) fn macs(target: &Target, runtime: &Runtime, filter: Filter, json: bool) -> Result<(), Failure> {
    let filter = MacFilter { vid: filter.vlan, port: filter.port };
    let stations = target.connect(runtime)?.stations(filter).map_err(|e| call_failed(WHAT, e))?;
    if json {
        return print_json(&stations);
    }
    let row = |s: &Station| {
        let heard = if s.pinned { "pinned".to_owned() } else { format!("{:.1} s", s.age_ms as f64 / 1000.0) };
        [s.vid.to_string(), s.mac.to_string(), s.port.clone(), heard]
    };
    print(&table(["VLAN", "ADDRESS", "PORT", "HEARD"], stations.iter().map(row)))
}

fn port_table(ports: &[PortInfo]) -> String {
    let row = |p: &PortInfo| {
        let drops: Vec<String> = p.drops.iter().map(|(reason, n)| format!("{} {n}", word(reason))).collect();
        [
            p.name.clone(),
            word(p.kind),
            if p.link { "up" } else { "down" }.to_owned(),
            if p.shut.is_some() { format!("{} (shut)", p.vlans) } else { p.vlans.to_string() },
            p.stp.as_ref().map_or_else(|| "-".to_owned(), |s| format!("{} {}", word(s.role), word(s.state))),
            p.rx_frames.to_string(),
            p.rx_bytes.to_string(),
            p.tx_frames.to_string(),
            p.tx_bytes.to_string(),
            if drops.is_empty() { "-".to_owned() } else { drops.join(", ") },
            if p.peer.is_empty() { "-".to_owned() } else { p.peer.clone() },
        ]
    };
    let head = ["PORT", "KIND", "LINK", "VLANS", "TREE", "RX", "RX BYTES", "TX", "TX BYTES", "DROPS", "PEER"];
    table(head, ports.iter().map(row))
}

fn vlan_table(vlans: &[VlanInfo]) -> String {
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(",") };
    let row = |v: &VlanInfo| {
        [
            v.vid.to_string(),
            if v.name.is_empty() { "-".to_owned() } else { v.name.clone() },
            v.rx_frames.to_string(),
            v.rx_bytes.to_string(),
            v.tx_frames.to_string(),
            v.tx_bytes.to_string(),
            v.flooded.to_string(),
            police_cell(v.police),
            v.limited.to_string(),
            list(&v.untagged),
            list(&v.tagged),
        ]
    };
    let heads = [
        "VLAN", "NAME", "RX", "RX BYTES", "TX", "TX BYTES", "FLOODED", "RATE", "LIMITED", "UNTAGGED",
        "TAGGED",
    ];
    table(heads, vlans.iter().map(row))
}

/// The word by which the control protocol calls something.
pub(super) fn word(thing: impl Serialize) -> String {
    let value = serde_json::to_value(thing).ok();
    value.as_ref().and_then(|v| v.as_str()).unwrap_or_default().to_owned()
}

/// Seconds in the two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(
            [0, 59, 60, 3599, 3600, 90_000].map(duration),
            ["0s", "59s", "1m0s", "59m59s", "1h0m", "1d1h"]
        );
    }
}

//! The commands that ask a switch: `ls`, `show`, and the lists of ports, VLANs and addresses.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use serde::Serialize;
use switch::client::{Client, MacFilter, PortInfo, Show, Station, VlanInfo};

use super::{Filter, Target, connect};
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
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
    stations: usize,
    stations_refused: u64,
    connections: usize,
    ports: Vec<PortInfo>,
    vlans: Vec<VlanInfo>,
}

/// Lists the switches of the runtime folder, and removes the sockets of dead ones on the way.
pub(super) fn ls(runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let folder = runtime.switches();
    let failed = |e: std::io::Error| Failure::new(format!("cannot list {}", folder.display()), e);
    let mut listed = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
        if !is_socket || msocket_proto::line::sweep(&path).unwrap_or(false) {
            continue;
        }
        // One that ends while we ask is not listed.
        let shown = Client::connect(&path).ok().and_then(|mut client| client.show().ok());
        listed.extend(shown.map(|show| Listed { show, path }));
    }
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
        stations: show.stations,
        stations_refused: show.stations_refused,
        connections: show.connections,
        ports,
        vlans,
    };
    if json {
        return print_json(&shown);
    }
    let idle = shown.idle_s.map_or_else(|| "never".to_owned(), |s| format!("when unused for {s} s"));
    print(&format!(
        "name      {}\nsocket    {}\n{}process   {}, up {}\nends      {idle}\nstations  {}, forgotten after {} s{}\n\n{}\n{}",
        shown.name,
        shown.path.display(),
        shown.mgmt.as_ref().map_or_else(String::new, |path| format!("console   {}\n", path.display())),
        shown.pid,
        duration(shown.uptime_s),
        shown.stations,
        shown.age_s,
        match shown.stations_refused {
            0 => String::new(),
            n => format!(", {n} not learned for want of room"),
        },
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
        [s.vid.to_string(), s.mac.to_string(), s.port.clone(), format!("{:.1} s", s.age_ms as f64 / 1000.0)]
    };
    print(&table(["VLAN", "ADDRESS", "PORT", "HEARD"], stations.iter().map(row)))
}

fn port_table(ports: &[PortInfo]) -> String {
    let row = |p: &PortInfo| {
        let drops: Vec<String> = p
            .drops
            .iter()
            .map(|(reason, n)| {
                let reason = serde_json::to_value(reason).ok();
                format!("{} {n}", reason.as_ref().and_then(|r| r.as_str()).unwrap_or_default())
            })
            .collect();
        let kind = serde_json::to_value(p.kind).ok();
        [
            p.name.clone(),
            kind.as_ref().and_then(|k| k.as_str()).unwrap_or_default().to_owned(),
            p.vlans.to_string(),
            p.rx_frames.to_string(),
            p.rx_bytes.to_string(),
            p.tx_frames.to_string(),
            p.tx_bytes.to_string(),
            if drops.is_empty() { "-".to_owned() } else { drops.join(", ") },
        ]
    };
    let head = ["PORT", "KIND", "VLANS", "RX", "RX BYTES", "TX", "TX BYTES", "DROPS"];
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
            v.flooded.to_string(),
            list(&v.untagged),
            list(&v.tagged),
        ]
    };
    table(["VLAN", "NAME", "FRAMES", "BYTES", "FLOODED", "UNTAGGED", "TAGGED"], vlans.iter().map(row))
}

/// Seconds in the two largest units.
fn duration(seconds: u64) -> String {
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

//! What the console shows: the form of vde_switch's answers.

use std::fmt::{Arguments, Write as _};
use std::time::Instant;

use nix::errno::Errno;

use super::commands::{Trouble, number_of};
use super::{Context, Identity};
use crate::fdb::{Entry, MAX_ENTRIES};
use crate::frame::Mac;
use crate::port::{Counters, MAX_PORTS, PortId};
use crate::vlan::{Egress, PortVlans, Vid};

type Done = Result<(), Trouble>;

/// vde_switch's version whose console this is.
const VDE: &str = "2.3.2";
/// How often the forwarding database is looked through: never, entries end by the clock.
const SWEEP_S: u64 = 0;

/// One line.
pub(super) fn line(out: &mut String, text: Arguments<'_>) {
    let _ = writeln!(out, "{text}");
}

/// The console's number of a VLAN.
fn shown(vid: Vid) -> u16 {
    if vid == Vid::DEFAULT { 0 } else { vid.number() }
}

/// The greeting.
pub(super) fn banner(identity: &Identity) -> String {
    format!("VDE switch V.{VDE}\n(viewnet {})\n", identity.version)
}

pub(super) fn sockets(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("ctl dir {}", context.identity.socket.display()));
    line(out, format_args!("std mode 0{:03o}", context.identity.mode));
    Ok(())
}

pub(super) fn switch(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    let identity = context.identity;
    line(out, format_args!("{}", banner(identity)));
    let uptime = context.now.saturating_duration_since(identity.started).as_secs();
    line(out, format_args!("pid {} MAC {} uptime {uptime}", identity.pid, Mac([0; 6])));
    line(out, format_args!("mgmt {} perm 0{:03o}", identity.mgmt.display(), identity.mgmt_mode));
    Ok(())
}

/// As there is no category, none matches.
pub(super) fn no_debugging(_: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("{:<22} {:<3} {:<6} {}", "CATEGORY", "TAG", "STATUS", "HELP"));
    line(out, format_args!("{:<22} {:<3} {:<6} {}", "------------", "---", "------", "----"));
    Err(Trouble::of(Errno::ENOENT as i32))
}

pub(super) fn no_plugins(_: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("{:<22} {}", "NAME", "HELP"));
    line(out, format_args!("{:<22} {}", "------------", "----"));
    Err(Trouble::of(Errno::ENOENT as i32))
}

pub(super) fn hash(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("Hash size {MAX_ENTRIES}"));
    line(out, format_args!("GC interval {SWEEP_S} secs"));
    line(out, format_args!("GC expire {} secs", context.switch.fdb().age().as_secs()));
    line(out, format_args!("Min persistence 0 secs"));
    Ok(())
}

pub(super) fn stations(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    for (vid, mac, entry) in context.switch.stations(context.now) {
        station(context.now, vid, mac, entry, out);
    }
    Ok(())
}

/// Stations have no number in a table here.
pub(super) fn station(now: Instant, vid: Vid, mac: Mac, entry: Entry, out: &mut String) {
    let age = now.saturating_duration_since(entry.seen).as_secs();
    let (vlan, port) = (shown(vid), number_of(entry.port));
    line(out, format_args!("Hash: 0000 Addr: {mac} VLAN {vlan:04} to port: {port:03}  age {age} secs"));
}

pub(super) fn no_tree(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("MAC {} Priority 32768 (0x8000)", Mac([0; 6])));
    line(out, format_args!("FSTP={}", context.switch.stp().is_some()));
    Ok(())
}

pub(super) fn no_root(vid: Vid, out: &mut String) {
    line(out, format_args!("FST DATA VLAN {:04} ROOTSWITCH FSTP IS DISABLED", shown(vid)));
    line(out, format_args!(" ++ root 80:00:{}", Mac([0; 6])));
    line(out, format_args!(" ++ designated ff:ff:{}", Mac([0xFF; 6])));
    line(out, format_args!(" ++ rootport 0000 cost 0 age 0 bonusport 0000 bonuscost 0"));
}

pub(super) fn ports(_: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("Numports={MAX_PORTS}"));
    line(out, format_args!("HUB=false"));
    line(out, format_args!("counters=true"));
    Ok(())
}

/// All ports by number, those without endpoint only if asked for.
pub(super) fn every_port(context: &Context<'_>, all: bool, out: &mut String) {
    let mut reserved = context.reserved.iter().filter(|_| all).peekable();
    for (id, _) in context.switch.ports() {
        while let Some((n, vlans)) = reserved.next_if(|(n, _)| **n < number_of(id)) {
            reserved_port(*n, vlans, out);
        }
        port(context, id, out);
    }
    reserved.for_each(|(n, vlans)| reserved_port(*n, vlans, out));
}

/// A port with its endpoint.
pub(super) fn port(context: &Context<'_>, id: PortId, out: &mut String) {
    let Some(port) = context.switch.port(id) else { return };
    let n = number_of(id);
    head(n, &port.vlans, true, &port.counters, out);
    line(out, format_args!("  -- endpoint ID {n:04} module {:<12}: {}", context.ports.kind(id), port.name));
}

/// A port that nobody has plugged into.
pub(super) fn reserved_port(n: u32, vlans: &PortVlans, out: &mut String) {
    head(n, vlans, false, &Counters::default(), out);
}

fn head(n: u32, vlans: &PortVlans, active: bool, counters: &Counters, out: &mut String) {
    // 4095 is no VLAN at all.
    let untagged = vlans.pvid().map_or(4095, shown);
    let (inactive, not) = if active { ("", "") } else { ("IN", "NOT ") };
    line(
        out,
        format_args!("Port {n:04} untagged_vlan={untagged:04} {inactive}ACTIVE - {not}Unnamed Allocatable"),
    );
    line(out, format_args!(" Current User: NONE Access Control: (User: NONE - Group: NONE)"));
    line(out, format_args!(" IN:  pkts {:>10}          bytes {:>20}", counters.rx_frames, counters.rx_bytes));
    line(out, format_args!(" OUT: pkts {:>10}          bytes {:>20}", counters.tx_frames, counters.tx_bytes));
}

/// A VLAN and its ports.
pub(super) fn vlan(context: &Context<'_>, vid: Vid, all: bool, out: &mut String) {
    line(out, format_args!("VLAN {:04}", shown(vid)));
    let active = context.switch.members(vid).map(|(id, egress)| (number_of(id), egress, true));
    let reserved = context.reserved.iter().filter(|_| all);
    let reserved = reserved.filter_map(|(n, vlans)| Some((*n, vlans.egress(vid)?, false)));
    let mut members: Vec<(u32, Egress, bool)> = active.chain(reserved).collect();
    members.sort_unstable_by_key(|(n, ..)| *n);
    for (n, egress, active) in members {
        let (tagged, active) = (u8::from(egress == Egress::Tagged), u8::from(active));
        let status = if active == 1 { "Forwarding" } else { "Learning" };
        line(out, format_args!(" -- Port {n:04} tagged={tagged} active={active} status={status}"));
    }
}

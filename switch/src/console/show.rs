//! What the console shows: the form of vde_switch's answers.

use std::collections::BTreeSet;
use std::fmt::{Arguments, Write as _};
use std::time::Instant;

use nix::errno::Errno;

use super::commands::{Trouble, number_of};
use super::{Context, Endpoint, Identity, Who};
use crate::fdb::{Entry, MAX_ENTRIES};
use crate::frame::Mac;
use crate::port::PortId;
use crate::stp::config::State;
use crate::switch::Place;
use crate::vlan::{Egress, Vid};

type Done = Result<(), Trouble>;

/// vde_switch's version whose console this is.
const VDE: &str = "2.3.2";

/// One line.
pub(super) fn line(out: &mut String, text: Arguments<'_>) {
    let _ = writeln!(out, "{text}");
}

/// The console's number of a VLAN.
pub(super) fn shown(vid: Vid) -> u16 {
    if vid == Vid::DEFAULT { 0 } else { vid.number() }
}

/// The greeting.
pub(super) fn banner(identity: &Identity) -> String {
    format!("VDE switch V.{VDE}\n(viewnet {})\n", identity.version)
}

pub(super) fn sockets(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    let identity = context.identity;
    // Without a folder of VDE's, what others plug in by.
    let (place, mode) =
        identity.vde.as_ref().map_or((&identity.socket, identity.mode), |(folder, mode)| (folder, *mode));
    line(out, format_args!("ctl dir {}", place.display()));
    line(out, format_args!("std mode 0{mode:03o}"));
    Ok(())
}

pub(super) fn switch(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    let identity = context.identity;
    line(out, format_args!("{}", banner(identity)));
    let uptime = context.now.saturating_duration_since(identity.started).as_secs();
    line(out, format_args!("pid {} MAC {} uptime {uptime}", identity.pid, context.switch.address()));
    line(out, format_args!("mgmt {} perm 0{:03o}", identity.mgmt.display(), identity.mgmt_mode));
    Ok(())
}

pub(super) fn no_plugins(_: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("{:<22} {}", "NAME", "HELP"));
    line(out, format_args!("{:<22} {}", "------------", "----"));
    Err(Trouble::of(Errno::ENOENT as i32))
}

pub(super) fn hash(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("Hash size {MAX_ENTRIES}"));
    line(out, format_args!("GC interval {} secs", context.memory.gc_s));
    line(out, format_args!("GC expire {} secs", context.switch.fdb().age().as_secs()));
    line(out, format_args!("Min persistence {} secs", context.switch.fdb().hold().as_secs()));
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

pub(super) fn ports(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    line(out, format_args!("Numports={}", context.switch.numbers()));
    line(out, format_args!("HUB={}", context.switch.is_hub()));
    line(out, format_args!("counters=true"));
    Ok(())
}

/// All ports by number, those without endpoint only if asked for.
pub(super) fn every_port(context: &Context<'_>, all: bool, out: &mut String) {
    let kept =
        context.switch.places().map(|(id, _)| id).filter(|id| all || context.switch.port(*id).is_some());
    let ids: BTreeSet<PortId> = context.switch.ports().map(|(id, _)| id).chain(kept).collect();
    ids.into_iter().for_each(|id| port(context, id, out));
}

/// A port with its endpoints, or one that nobody has plugged into.
pub(super) fn port(context: &Context<'_>, id: PortId, out: &mut String) {
    let (port, place) = (context.switch.port(id), context.switch.place(id));
    let unknown = Place { allocatable: true, ..Place::default() };
    let kept = place.unwrap_or(&unknown);
    let (vlans, counters) = port.map_or((&kept.vlans, &kept.counters), |port| (&port.vlans, &port.counters));
    // 4095 is no VLAN at all.
    let (n, untagged) = (number_of(id), vlans.pvid().map_or(4095, shown));
    let inactive = if port.is_some() { "" } else { "IN" };
    let not = if kept.allocatable { "" } else { "NOT " };
    line(
        out,
        format_args!("Port {n:04} untagged_vlan={untagged:04} {inactive}ACTIVE - {not}Unnamed Allocatable"),
    );
    let name = |who: Option<Who<u32>>| match who {
        None => "NONE".to_owned(),
        Some(who @ (Who::User(id) | Who::Group(id))) => {
            context.ports.name(who).unwrap_or_else(|| id.to_string())
        }
    };
    let current = name(port.and_then(|_| context.ports.user(id)).map(Who::User));
    let (user, group) = (name(kept.user.map(Who::User)), name(kept.group.map(Who::Group)));
    line(out, format_args!(" Current User: {current} Access Control: (User: {user} - Group: {group})"));
    line(out, format_args!(" IN:  pkts {:>10}          bytes {:>20}", counters.rx_frames, counters.rx_bytes));
    line(out, format_args!(" OUT: pkts {:>10}          bytes {:>20}", counters.tx_frames, counters.tx_bytes));
    if port.is_none() {
        return;
    }
    for Endpoint { number, module, description } in context.ports.endpoints(id) {
        line(out, format_args!("  -- endpoint ID {number:04} module {module:<12}: {description}"));
    }
}

/// A VLAN and its ports.
pub(super) fn vlan(context: &Context<'_>, vid: Vid, all: bool, out: &mut String) {
    line(out, format_args!("VLAN {:04}", shown(vid)));
    let active = context.switch.members(vid).map(|(id, egress)| (id, egress, true));
    let kept = context.switch.places().filter(|(id, _)| all && context.switch.port(*id).is_none());
    let kept = kept.filter_map(|(id, place)| Some((id, place.vlans.egress(vid)?, false)));
    let mut members: Vec<(PortId, Egress, bool)> = active.chain(kept).collect();
    members.sort_unstable_by_key(|(id, ..)| *id);
    for (id, egress, active) in members {
        let status = match context.switch.port(id) {
            Some(port) if port.shut.is_some() => "Discarding",
            Some(port) => match port.state {
                State::Discarding => "Discarding",
                State::Learning => "Learning",
                State::Forwarding => "Forwarding",
            },
            None => "Learning",
        };
        let (n, tagged, active) = (number_of(id), u8::from(egress == Egress::Tagged), u8::from(active));
        line(out, format_args!(" -- Port {n:04} tagged={tagged} active={active} status={status}"));
    }
}

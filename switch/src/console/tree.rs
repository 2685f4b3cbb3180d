//! The commands about the spanning tree, `fstp`.
//!
//! # Theory of operation
//! vde_switch has a tree of a protocol of its own for every VLAN; here is one for all ([`crate::stp`]). The VLAN that
//! commands name is looked at, and what they change is changed for all.

use super::commands::{Done, INVALID, NO_SUCH, Trouble, chosen, known_vlan, number};
use super::ports::{Place, place};
use super::show::{line, shown};
use super::{Context, commands};
use crate::port::PortId;
use crate::stp::bpdu::Role;
use crate::stp::config::{Change, Edge, PortChange, PortTree, Tree};
use crate::vlan::{Egress, Vid};

pub(super) fn info(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    let switch = &*context.switch;
    let priority = switch.stp_config().priority;
    line(out, format_args!("MAC {} Priority {priority} ({priority:#x})", switch.address()));
    line(out, format_args!("FSTP={}", switch.stp().is_some()));
    Ok(())
}

pub(super) fn set(context: &mut Context<'_>, argument: &str, out: &mut String) -> Done {
    if context.switch.is_hub() {
        line(out, format_args!("Can't use fstp in hub mode"));
        return Ok(());
    }
    if turn(context, number(argument) != 0) { Ok(()) } else { Err(Trouble::of(libc::ENOSPC)) }
}

/// Turns the tree on or off; false if it cannot be.
pub(super) fn turn(context: &mut Context<'_>, on: bool) -> bool {
    let change = Change { enabled: Some(on), ..Change::default() };
    let is_new = context.switch.stp().is_some() != on;
    let done = !is_new || context.switch.set_stp(context.now, &change).is_ok();
    if is_new {
        context.ports.tree_changed(context.now, context.switch);
    }
    done
}

/// `VLAN PORT VALUE`.
fn vlan_port_value(context: &Context<'_>, argument: &str) -> Result<(PortId, i64), Trouble> {
    let mut words = argument.split_whitespace();
    let mut next = || words.next().ok_or(INVALID);
    let words = [next()?, next()?, next()?];
    let (vlan, port) = commands::two_numbers(&format!("{} {}", words[0], words[1]))?;
    let (value, _) = commands::two_numbers(&format!("{} 0", words[2]))?;
    let seat = place(context, port)?;
    known_vlan(context, vlan)?;
    match seat {
        Place::Port(id) => Ok((id, value)),
        Place::Kept(_) | Place::Free(_) => Err(NO_SUCH),
    }
}

pub(super) fn set_edge(context: &mut Context<'_>, argument: &str) -> Done {
    let (id, value) = vlan_port_value(context, argument)?;
    let edge = if value == 0 { Edge::Auto } else { Edge::On };
    let change = PortChange { edge: Some(edge), ..PortChange::default() };
    context.switch.set_stp_port(context.now, id, &change).map_err(|_| INVALID)
}

/// One port has a bonus: its link costs so much less. That of another one costs again what it did.
pub(super) fn set_bonus(context: &mut Context<'_>, argument: &str) -> Done {
    let (id, bonus) = vlan_port_value(context, argument)?;
    let set = |context: &mut Context<'_>, id, cost| {
        let change = PortChange { cost: Some(cost), ..PortChange::default() };
        context.switch.set_stp_port(context.now, id, &change)
    };
    if let Some((number, _)) = context.memory.bonus.take() {
        // 0 stands for what its speed says; the port may be gone.
        let _ = set(context, PortId::new(number - 1), 0);
    }
    let tree = context.switch.stp_tree(context.now);
    let cost = report(context, &tree, id).map_or(0, |port| i64::from(port.cost));
    if bonus != 0 {
        let cost = u32::try_from(cost.saturating_sub(bonus).max(1)).map_err(|_| INVALID)?;
        set(context, id, cost).map_err(|_| INVALID)?;
        context.memory.bonus = Some((id.index() as u32 + 1, bonus));
    }
    Ok(())
}

pub(super) fn print(context: &mut Context<'_>, argument: &str, out: &mut String) -> Done {
    let vlans = chosen(context, argument)?;
    let tree = context.switch.stp_tree(context.now);
    vlans.into_iter().for_each(|vid| print_vlan(context, &tree, vid, out));
    Ok(())
}

fn print_vlan(context: &Context<'_>, tree: &Tree, vid: Vid, out: &mut String) {
    let switch = &*context.switch;
    let is_root = if tree.bridge == tree.root { "ROOTSWITCH" } else { "" };
    let is_off = if tree.enabled { "" } else { "FSTP IS DISABLED" };
    line(out, format_args!("FST DATA VLAN {:04} {is_root} {is_off}", shown(vid)));
    line(out, format_args!(" ++ root {}", identifier(&tree.root)));
    let root = tree.root_port.as_ref().and_then(|name| switch.find(name));
    let designated = root.and_then(|id| report(context, tree, id));
    let nobody = || ["ff"; 8].join(":");
    let designated = designated.map_or_else(nobody, |port| identifier(&port.designated_bridge));
    line(out, format_args!(" ++ designated {designated}"));
    let age = context.now.saturating_duration_since(context.identity.started).as_secs();
    let age = if root.is_some() { 0 } else { age };
    let (bonus_port, bonus) = context.memory.bonus.unwrap_or_default();
    line(
        out,
        format_args!(
            " ++ rootport {:04} cost {} age {age} bonusport {bonus_port:04} bonuscost {bonus}",
            root.map_or(0, |id| id.index() + 1),
            tree.root_cost,
        ),
    );
    let mut members: Vec<(bool, PortId)> =
        switch.members(vid).map(|(id, egress)| (egress != Egress::Untagged, id)).collect();
    members.sort_unstable();
    for (tagged, id) in members {
        let Some(port) = report(context, tree, id) else { continue };
        let (n, tagged) = (id.index() + 1, u8::from(tagged));
        line(out, format_args!(" -- Port {n:04} tagged={tagged} portcost={} role={}", port.cost, role(port)));
    }
}

fn report<'a>(context: &Context<'_>, tree: &'a Tree, id: PortId) -> Option<&'a PortTree> {
    let name = &context.switch.port(id)?.name;
    tree.ports.iter().find(|port| port.name == *name)
}

fn role(port: &PortTree) -> &'static str {
    match port.role {
        _ if port.edge == Edge::On => "Edge",
        Role::Root => "Root",
        Role::Alternate | Role::Backup => "Alternate/Backup",
        Role::Designated => "Designated",
        Role::Disabled => "Unknown",
    }
}

/// `8000.02:…` as eight octets.
pub(super) fn identifier(text: &str) -> String {
    let (priority, address) = text.split_once('.').unwrap_or(("0000", text));
    let (high, low) = priority.split_at_checked(2).unwrap_or(("00", "00"));
    format!("{high}:{low}:{address}")
}

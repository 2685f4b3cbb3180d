//! What comes and what differs, in words: for the reader of the difference.

use serde::Serialize;
use stacks::filter::Ruleset;

use super::words::differences;
use crate::topology::schema::{Age, Mode, Port, PortSettings, Program, Stack, Switch, Tree, VdeFolder, Vlan};

/// A stack's packet filter, as the file has it.
#[derive(Serialize)]
pub(super) struct Rules<'a> {
    #[serde(skip_serializing_if = "Ruleset::is_empty")]
    filter: &'a Ruleset,
}

impl<'a> Rules<'a> {
    pub(super) fn of(stack: &'a Stack) -> Self {
        Self { filter: &stack.filter }
    }
}

/// What of a stack cannot be changed while it is there.
pub(super) fn structure(stack: &Stack) -> Stack {
    let mut stack = Stack { filter: Ruleset::default(), publish: Vec::new(), ..stack.clone() };
    for interface in &mut stack.interfaces {
        interface.link = std::mem::take(&mut interface.link).with_vlans(None);
    }
    stack
}

/// A switch that comes.
pub(super) fn describe_switch(switch: &Switch) -> String {
    compare_switches(&Switch::default(), switch).join(", ")
}

/// What differs between two switches, but for their ports.
pub(super) fn compare_switches(now: &Switch, wanted: &Switch) -> Vec<String> {
    let mut words = Vec::new();
    let (is, shall) = (now.age.unwrap_or(Age::DEFAULT), wanted.age.unwrap_or(Age::DEFAULT));
    if is != shall {
        words.push(format!("age {} s", shall.seconds()));
    }
    let mode = |switch: &Switch| String::from(switch.mode.unwrap_or(Mode(0o600)));
    if mode(now) != mode(wanted) {
        words.push(format!("mode {}", mode(wanted)));
    }
    if now.group != wanted.group {
        words.push(format!("group {}", wanted.group.as_deref().unwrap_or("of its user")));
    }
    if now.mgmt != wanted.mgmt {
        words.push(match &wanted.mgmt {
            Some(path) => format!("console at {}", path.display()),
            None => "no console".to_owned(),
        });
    }
    let unnamed = Vlan::default();
    for (vid, vlan) in &wanted.vlan {
        let is = now.vlan.get(vid);
        if is.is_none_or(|is| is.name != vlan.name) {
            words.push(format!("VLAN {} {}", vid.0, vlan.name).trim_end().to_owned());
        }
        let (mut is, mut shall) = (is.unwrap_or(&unnamed).canonical(), vlan.canonical());
        (is.name, shall.name) = (String::new(), String::new());
        words.extend(differences(&is, &shall).iter().map(|word| format!("VLAN {} {word}", vid.0)));
    }
    words.extend(
        now.vlan.keys().filter(|vid| !wanted.vlan.contains_key(vid)).map(|vid| format!("no VLAN {}", vid.0)),
    );
    let rest = |switch: &Switch| Rest {
        hub: switch.hub,
        vde: switch.vde.clone(),
        metrics: switch.metrics.clone(),
        stp: switch.tree(),
    };
    words.extend(differences(&rest(now), &rest(wanted)));
    words
}

/// What of a switch is compared by the words of the file.
#[derive(Serialize)]
struct Rest {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hub: bool,
    vde: Option<VdeFolder>,
    metrics: Option<String>,
    stp: Tree,
}

/// A port that comes.
pub(super) fn describe_port(port: &Port) -> String {
    let device = port.leads_to().map(|link| link.to_string()).unwrap_or_default();
    let place = match (&port.tap, &port.nic) {
        (None, None) => device,
        // As people say it.
        _ => device.replacen(':', " ", 1),
    };
    let plain = if port.plain { " plain" } else { "" };
    let words = differences(&PortSettings::default(), &port.settings());
    [format!("{place}{plain}"), port.vlans().to_string()]
        .into_iter()
        .chain(words)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A stack that comes.
pub(super) fn describe_stack(stack: &Stack) -> String {
    let kind = stack.kind.iter().map(ToString::to_string);
    let interfaces = stack.interfaces.iter().map(|interface| {
        let addresses = interface.ip.iter().map(ToString::to_string);
        let words: Vec<String> =
            [interface.name.clone(), interface.link.to_string()].into_iter().chain(addresses).collect();
        words.join(" ")
    });
    let vpn = stack.vpn.iter().map(|file| format!("vpn {}", file.display()));
    let publish = stack.publish.iter().map(|ports| format!("publish {ports}"));
    kind.chain(interfaces).chain(vpn).chain(publish).collect::<Vec<_>>().join(", ")
}

/// The fields that differ, by their names in the file.
pub(super) fn compare_stacks(now: &Stack, wanted: &Stack) -> String {
    let (now, wanted) = (structure(now), structure(wanted));
    let fields = [
        ("kind", now.kind != wanted.kind),
        ("mode", now.mode != wanted.mode),
        ("restart", now.restart != wanted.restart),
        ("interface", now.interfaces != wanted.interfaces),
        ("route", now.routes != wanted.routes),
        ("limits", now.limits != wanted.limits),
        ("forward", now.forward != wanted.forward),
        ("vpn", now.vpn != wanted.vpn),
    ];
    differing(&fields)
}

/// The fields that differ, by their names in the file.
pub(super) fn compare_programs(now: &Program, wanted: &Program) -> String {
    let fields = [
        ("stack", now.stack != wanted.stack),
        ("command", now.command != wanted.command),
        ("environment", now.environment != wanted.environment),
        ("folder", now.folder != wanted.folder),
        ("restart", now.restart != wanted.restart),
        ("after", now.after != wanted.after),
        ("rules", now.rules != wanted.rules),
        ("vpn", now.vpn != wanted.vpn),
        ("publish", now.publish != wanted.publish),
    ];
    differing(&fields)
}

fn differing(fields: &[(&str, bool)]) -> String {
    let names: Vec<&str> = fields.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    format!("other {}", names.join(", "))
}

//! What a session is told unasked: the debugging categories of vde_switch.
//!
//! # Theory of operation
//! A session chooses categories by the beginning of their paths (`debug/add port`), and gets a line for whatever happens
//! in them: `3021 port/+ 05`. A [`Debugger`] makes the lines of the switch's [events](crate::events); as those name
//! ports, and vde_switch numbers them, it keeps the numbers of ports by their names.
//!
//! Read: vde-2's src/vde_switch/consmgmt.c (`debugadd`, `debugout`), hash.c, fstp.c and port.c (`DBGOUT`).

use std::fmt::Write as _;

use rustc_hash::FxHashMap;

use super::Context;
use super::commands::{Done, EXISTS, INVALID, NOT_FOUND, number_of};
use super::show::{line, shown};
use crate::events::Event;
use crate::stp::config::State;
use crate::switch::Switch;

struct Category {
    path: &'static str,
    tag: u16,
    help: &'static str,
}

const fn category(path: &'static str, tag: u16, help: &'static str) -> Category {
    Category { path, tag, help }
}

const HASH_NEW: usize = 0;
const HASH_GONE: usize = 1;
const TREE_STATUS: usize = 2;
const TREE_ROOT: usize = 3;
const PORT_NEW: usize = 6;
const PORT_GONE: usize = 7;
const DESCRIPTION: usize = 8;
const ENDPOINT_NEW: usize = 9;
const ENDPOINT_GONE: usize = 10;

static CATEGORIES: [Category; 11] = [
    category("hash/+", 0o011, "hash: new element"),
    category("hash/-", 0o012, "hash: discarded element"),
    category("fstp/status", 0o044, "fstp: status change"),
    category("fstp/root", 0o045, "fstp: rootswitch/port change"),
    category("fstp/+", 0o041, "fstp: port becomes active"),
    category("fstp/-", 0o042, "fstp: port becomes inactive"),
    category("port/+", 0o021, "new port"),
    category("port/-", 0o022, "closed port"),
    category("port/descr", 0o023, "set port description"),
    category("port/ep/+", 0o031, "new endpoint"),
    category("port/ep/-", 0o032, "closed endpoint"),
];

/// The categories of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Categories(u16);

impl Categories {
    /// Is it told nothing?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Is it told of `told`?
    pub fn contain(self, told: &Told) -> bool {
        self.0 & (1 << told.category) != 0
    }
}

/// Those whose path begins so.
fn matching(path: &str) -> u16 {
    let all = CATEGORIES.iter().enumerate();
    all.filter(|(_, category)| category.path.starts_with(path)).map(|(at, _)| 1 << at).sum()
}

pub(super) fn list(context: &mut Context<'_>, path: &str, out: &mut String) -> Done {
    line(out, format_args!("{:<22} {:<3} {:<6} {}", "CATEGORY", "TAG", "STATUS", "HELP"));
    line(out, format_args!("{:<22} {:<3} {:<6} {}", "------------", "---", "------", "----"));
    let (chosen, on) = (matching(path), context.categories.0);
    for (at, category) in CATEGORIES.iter().enumerate().filter(|(at, _)| chosen & (1 << at) != 0) {
        let status = if on & (1 << at) == 0 { "OFF" } else { "ON" };
        let Category { path, tag, help } = category;
        line(out, format_args!("{path:<22} {tag:03o} {status:<6} {help}"));
    }
    if chosen == 0 { Err(NOT_FOUND) } else { Ok(()) }
}

pub(super) fn add(context: &mut Context<'_>, path: &str) -> Done {
    let (chosen, on) = (matching(path), &mut context.categories.0);
    match chosen & !*on {
        _ if chosen == 0 => Err(INVALID),
        0 => Err(EXISTS),
        new => {
            *on |= new;
            Ok(())
        }
    }
}

pub(super) fn del(context: &mut Context<'_>, path: &str) -> Done {
    let (chosen, on) = (matching(path), &mut context.categories.0);
    match chosen & *on {
        _ if chosen == 0 => Err(INVALID),
        0 => Err(NOT_FOUND),
        gone => {
            *on &= !gone;
            Ok(())
        }
    }
}

/// A line for those who want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    category: usize,
    /// The line, with its end.
    pub text: String,
}

/// Makes lines of events.
#[derive(Debug, Default)]
pub struct Debugger {
    /// The ports' numbers, by their names.
    numbers: FxHashMap<String, u32>,
}

impl Debugger {
    /// Events are told from now on.
    pub fn new(switch: &Switch) -> Self {
        let numbers = switch.ports().map(|(id, port)| (port.name.clone(), number_of(id)));
        Self { numbers: numbers.collect() }
    }

    /// The line of an event, if it has one, and a second one.
    pub fn tell(&mut self, event: &Event, switch: &Switch) -> [Option<Told>; 2] {
        let told = |category: usize, text: std::fmt::Arguments<'_>| {
            let Category { path, tag, .. } = &CATEGORIES[category];
            let mut line = String::new();
            let _ = writeln!(line, "3{tag:03o} {path} {text}");
            Some(Told { category, text: line })
        };
        let number = |name: &String| self.numbers.get(name).copied().unwrap_or(0);
        let one = match event {
            Event::PortAdded { port, .. } => {
                let n = switch.find(port).map_or(0, number_of);
                self.numbers.insert(port.clone(), n);
                told(PORT_NEW, format_args!("{n:02}"))
            }
            Event::PortRemoved { port } => {
                let n = self.numbers.remove(port).unwrap_or(0);
                told(PORT_GONE, format_args!("{n:02}"))
            }
            Event::PortRenamed { port, was } => {
                let n = self.numbers.remove(was).unwrap_or(0);
                self.numbers.insert(port.clone(), n);
                None
            }
            Event::EndpointAdded { port, endpoint, peer } => {
                let n = number(port);
                return [
                    told(ENDPOINT_NEW, format_args!("Port {n:02} FD {endpoint:2}")),
                    told(DESCRIPTION, format_args!("Port {n:02} FD {endpoint:2} -> \"{peer}\"")),
                ];
            }
            Event::EndpointRemoved { port, endpoint } => {
                told(ENDPOINT_GONE, format_args!("Port {:02} FD {endpoint:2}", number(port)))
            }
            Event::StationLearned { vlan, mac, port } | Event::StationAged { vlan, mac, port } => {
                let [high, low] = shown(*vlan).to_be_bytes();
                let is_new = matches!(event, Event::StationLearned { .. });
                let category = if is_new { HASH_NEW } else { HASH_GONE };
                told(category, format_args!("{mac} VLAN {high:02x}:{low:02x} Port {}", number(port)))
            }
            Event::PortState { port, state } => {
                let state = match state {
                    State::Discarding => "discarding",
                    State::Learning => "learning",
                    State::Forwarding => "learning+forwarding",
                };
                told(TREE_STATUS, format_args!("Port {:04} VLAN 00:00 {state}", number(port)))
            }
            Event::RootChanged { root, port } => {
                let n = port.as_ref().map_or(0, number);
                let root = super::tree::identifier(root);
                told(TREE_ROOT, format_args!("Port {n:04} VLAN 00:00 -> {root}"))
            }
            _ => None,
        };
        [one, None]
    }
}

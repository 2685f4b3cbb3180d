//! What is to be done so that a topology is as its file says: a pure function of what is wanted and what is there.
//!
//! # Theory of operation
//! [`Current`] is what was found of things that this topology made; whatever else runs on the machine is not in it.
//! [`plan`] compares it with the file and gives a list of [`Change`]s in the order in which they are to be done:
//!
//! 1. programs that go, or must start again, end, those first that others do not wait for;
//! 2. stacks go that nobody wants or that are made anew, then gateways, ports, switches;
//! 3. switches come, or are changed while they run, then ports, gateways, stacks;
//! 4. ports, of stacks too, get their settings: some name other ports, which are there by now;
//! 5. programs start, each after those it waits for.
//!
//! What can be changed while it runs is changed: all of a switch, VLANs and settings of any port, who may use a gateway. A stack that differs in
//! anything else is made anew, and so is one whose port vanished with its switch; a program whose stack is made anew
//! starts again. So a change is `~` for the reader, and both a removal and an addition to whoever does it.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use switch::vlan::PortVlans;

use self::words::differences;
use super::schema::{
    Age, Gateway, Mode, Port, PortSettings, Program, Stack, Switch, Topology, Tree, VdeFolder, Vlan,
};

/// What there is of a topology.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Current {
    /// Its switches as they are now, with the ports that it added, and those of stacks to which it told something.
    pub(crate) switches: BTreeMap<String, Switch>,
    /// Its gateways.
    pub(crate) gateways: BTreeMap<String, Gateway>,
    /// Its stacks.
    pub(crate) stacks: BTreeMap<String, CurrentStack>,
    /// Its programs, as they were started.
    pub(crate) programs: BTreeMap<String, Program>,
}

/// A stack that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CurrentStack {
    /// As it was made.
    pub(crate) made: Stack,
    /// Why it is of no use as it is, if so: it failed, or lost a link.
    pub(crate) broken: Option<String>,
    /// Its ports, by interface: the switch, the port's name there, and its VLANs as they are now.
    pub(crate) ports: BTreeMap<String, (String, String, PortVlans)>,
}

/// Something that comes, changes or goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase", tag = "what", content = "name")]
pub(crate) enum Thing {
    /// A switch.
    Switch(String),
    /// A port of a switch.
    Port(String, String),
    /// The gateway of a switch.
    Gateway(String),
    /// A stack.
    Stack(String),
    /// A program.
    Program(String),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(name) => write!(f, "switch {name}"),
            Self::Port(switch, name) => write!(f, "port {switch}/{name}"),
            Self::Gateway(name) => write!(f, "gateway {name}"),
            Self::Stack(name) => write!(f, "stack {name}"),
            Self::Program(name) => write!(f, "program {name}"),
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sign {
    /// It comes.
    Add,
    /// It is changed, or made anew.
    Change,
    /// It goes.
    Remove,
}

impl Sign {
    /// As in a diff.
    pub(crate) fn symbol(self) -> char {
        match self {
            Self::Add => '+',
            Self::Change => '~',
            Self::Remove => '-',
        }
    }
}

/// One line of the difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// Which way.
    pub(crate) sign: Sign,
    /// What.
    #[serde(flatten)]
    pub(crate) thing: Thing,
    /// What about it, in words.
    pub(crate) detail: String,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ends programs, and forgets them.
    StopPrograms(Vec<String>),
    /// Ends a stack.
    RemoveStack(String),
    /// Takes a port away.
    RemovePort(String, String),
    /// Ends a switch.
    RemoveSwitch(String),
    /// Starts a switch, without its ports.
    AddSwitch(String, Box<Switch>),
    /// Changes a switch from what it is to this.
    ChangeSwitch(String, Box<(Switch, Switch)>),
    /// Adds a port.
    AddPort(String, String, Box<Port>),
    /// Changes the VLANs of a port.
    SetVlans(String, String, PortVlans),
    /// Changes the settings of a port from those of one to those of the other, which is in the file, or is not.
    SetPort(String, String, Box<(Port, Option<Port>)>),
    /// Starts the gateway of a switch.
    AddGateway(String, Box<Gateway>),
    /// Changes who may go where through a gateway.
    ChangeGateway(String, Box<Gateway>),
    /// Ends a gateway.
    RemoveGateway(String),
    /// Makes a stack.
    AddStack(String, Box<Stack>),
    /// Takes note that a stack is now as the file says.
    NoteStack(String, Box<Stack>),
    /// Starts programs, in this order.
    StartPrograms(Vec<(String, Program)>),
}

/// The difference, for the reader and for whoever does it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// For the reader, by kind and name.
    pub(crate) changes: Vec<Change>,
    /// To be done, in order.
    pub(crate) steps: Vec<Step>,
}

/// See the [module](self).
pub(crate) fn plan(wanted: &Topology, current: &Current) -> Plan {
    let mut planner =
        Planner { wanted, current, plan: Plan::default(), anew: BTreeSet::new(), new_ports: BTreeSet::new() };
    let (mut going, mut coming) = (Vec::new(), Vec::new());
    planner.switches(&mut going, &mut coming);
    let (closing, opening) = planner.gateways();
    let (mut gone, made) = planner.stacks();
    let settings = planner.settings();
    let (stops, starts) = planner.programs();
    let steps = &mut planner.plan.steps;
    if !stops.is_empty() {
        steps.push(Step::StopPrograms(stops));
    }
    steps.append(&mut gone);
    steps.extend(closing);
    steps.append(&mut going);
    // A port may lead to a switch that comes after its own.
    coming.sort_by_key(|step| !matches!(step, Step::AddSwitch(..) | Step::ChangeSwitch(..)));
    steps.append(&mut coming);
    steps.extend(opening);
    steps.extend(made);
    steps.extend(settings);
    if !starts.is_empty() {
        steps.push(Step::StartPrograms(starts));
    }
    planner.plan
}

struct Planner<'a> {
    wanted: &'a Topology,
    current: &'a Current,
    plan: Plan,
    /// Stacks that are made anew, or for the first time.
    anew: BTreeSet<String>,
    /// Ports, with their switches, that are plugged in or plugged in again.
    new_ports: BTreeSet<(String, String)>,
}

impl Planner<'_> {
    fn say(&mut self, sign: Sign, thing: Thing, detail: impl Into<String>) {
        self.plan.changes.push(Change { sign, thing, detail: detail.into() });
    }

    fn switches(&mut self, going: &mut Vec<Step>, coming: &mut Vec<Step>) {
        let (wanted, current) = (self.wanted, self.current);
        let is_ours = |name: &str| wanted.switches.get(name).is_some_and(|switch| !switch.external);
        for (name, switch) in wanted.switches.iter().filter(|(_, switch)| !switch.external) {
            match current.switches.get(name) {
                None => {
                    self.say(Sign::Add, Thing::Switch(name.clone()), describe_switch(switch));
                    coming.push(Step::AddSwitch(name.clone(), Box::new(switch.clone())));
                    self.ports(name, &BTreeMap::new(), going, coming);
                }
                Some(now) => {
                    let difference = compare_switches(now, switch);
                    if !difference.is_empty() {
                        self.say(Sign::Change, Thing::Switch(name.clone()), difference.join(", "));
                        let both = Box::new((now.clone(), switch.clone()));
                        coming.push(Step::ChangeSwitch(name.clone(), both));
                    }
                    self.ports(name, &now.port, going, coming);
                }
            }
        }
        let gone: Vec<&String> = current.switches.keys().filter(|name| !is_ours(name)).collect();
        for name in gone {
            self.say(Sign::Remove, Thing::Switch(name.clone()), "");
            going.push(Step::RemoveSwitch(name.clone()));
        }
    }

    fn ports(
        &mut self,
        switch: &str,
        now: &BTreeMap<String, Port>,
        going: &mut Vec<Step>,
        coming: &mut Vec<Step>,
    ) {
        let wanted = &self.wanted.switches[switch].port;
        let thing = |name: &str| Thing::Port(switch.to_owned(), name.to_owned());
        // Those of stacks come and go with their stacks.
        let own = |port: &&Port| port.leads_to().is_some();
        for name in now.iter().filter(|(_, port)| own(port)).map(|(name, _)| name) {
            if !wanted.get(name).is_some_and(|port| own(&port)) {
                self.say(Sign::Remove, thing(name), "");
                going.push(Step::RemovePort(switch.to_owned(), name.clone()));
            }
        }
        for (name, port) in wanted.iter().filter(|(_, port)| own(port)) {
            let add = || Step::AddPort(switch.to_owned(), name.clone(), Box::new(port.clone()));
            match now.get(name) {
                Some(old) if old.is_same_interface(port) => {
                    if old.vlans() != port.vlans() {
                        self.say(Sign::Change, thing(name), format!("{} → {}", old.vlans(), port.vlans()));
                        coming.push(Step::SetVlans(switch.to_owned(), name.clone(), port.vlans()));
                    }
                }
                Some(old) if own(&old) => {
                    self.say(Sign::Change, thing(name), format!("now {}", describe_port(port)));
                    self.new_ports.insert((switch.to_owned(), name.clone()));
                    going.push(Step::RemovePort(switch.to_owned(), name.clone()));
                    coming.push(add());
                }
                _ => {
                    self.say(Sign::Add, thing(name), describe_port(port));
                    self.new_ports.insert((switch.to_owned(), name.clone()));
                    coming.push(add());
                }
            }
        }
    }

    /// What ports are told beside where they lead and their VLANs.
    fn settings(&mut self) -> Vec<Step> {
        let (wanted, current) = (self.wanted, self.current);
        let mut steps = Vec::new();
        for (switch_name, switch) in wanted.switches.iter().filter(|(_, switch)| !switch.external) {
            let now = current.switches.get(switch_name).map(|now| &now.port);
            let told = now.into_iter().flat_map(BTreeMap::keys);
            let names: BTreeSet<&String> = switch.port.keys().chain(told).collect();
            for name in names {
                let shall = switch.port.get(name);
                let place = (switch_name.clone(), name.clone());
                let behind = wanted.behind(switch_name, name).map(|(stack, _)| stack.to_owned());
                let is_new = self.new_ports.contains(&place)
                    || behind.as_ref().is_some_and(|stack| self.anew.contains(stack));
                let is = now.and_then(|now| now.get(name)).filter(|_| !is_new);
                // One that goes, or went with its stack, needs no settings.
                if shall.is_none() && (behind.is_none() || is.is_none_or(|is| is.leads_to().is_some())) {
                    continue;
                }
                let plain = is.or(shall).map(|port| port.with_settings(PortSettings::default()));
                let is = is.cloned().or_else(|| plain.clone()).unwrap_or_default();
                let target = shall.cloned().or(plain).unwrap_or_default();
                if is.settings() == target.settings() {
                    continue;
                }
                if !self.new_ports.contains(&place) {
                    let words = differences(&is.settings(), &target.settings()).join(", ");
                    self.say(Sign::Change, Thing::Port(place.0.clone(), place.1.clone()), words);
                }
                steps.push(Step::SetPort(place.0, place.1, Box::new((is, shall.cloned()))));
            }
        }
        // Mirrors name ports, which must not be mirrors any more: those that end come first.
        steps.sort_by_key(|step| matches!(step, Step::SetPort(_, _, both) if both.1.as_ref().is_some_and(|port| port.mirror.is_some())));
        steps
    }

    /// Gateways that go, and those that come or change.
    fn gateways(&mut self) -> (Vec<Step>, Vec<Step>) {
        let (wanted, current) = (self.wanted, self.current);
        let (mut closing, mut opening) = (Vec::new(), Vec::new());
        for (name, gateway) in &wanted.gateways {
            let thing = Thing::Gateway(name.clone());
            let add = Step::AddGateway(name.clone(), Box::new(gateway.clone()));
            match current.gateways.get(name) {
                None => {
                    self.say(Sign::Add, thing, differences(&Gateway::default(), gateway).join(", "));
                    opening.push(add);
                }
                Some(now) if !now.is_same_place(gateway) => {
                    self.say(
                        Sign::Change,
                        thing,
                        format!("made anew: {}", differences(now, gateway).join(", ")),
                    );
                    closing.push(Step::RemoveGateway(name.clone()));
                    opening.push(add);
                }
                Some(now) if now != gateway => {
                    self.say(Sign::Change, thing, differences(now, gateway).join(", "));
                    opening.push(Step::ChangeGateway(name.clone(), Box::new(gateway.clone())));
                }
                Some(_) => {}
            }
        }
        for name in current.gateways.keys().filter(|name| !wanted.gateways.contains_key(*name)) {
            self.say(Sign::Remove, Thing::Gateway(name.clone()), "");
            closing.push(Step::RemoveGateway(name.clone()));
        }
        (closing, opening)
    }

    /// What goes, and what comes.
    fn stacks(&mut self) -> (Vec<Step>, Vec<Step>) {
        let (wanted, current) = (self.wanted, self.current);
        let (mut gone, mut made) = (Vec::new(), Vec::new());
        for (name, stack) in &wanted.stacks {
            let thing = Thing::Stack(name.clone());
            let Some(now) = current.stacks.get(name) else {
                self.say(Sign::Add, thing, describe_stack(stack));
                self.anew.insert(name.clone());
                made.push(Step::AddStack(name.clone(), Box::new(stack.clone())));
                continue;
            };
            let why = match &now.broken {
                Some(why) => Some(why.clone()),
                None if without_vlans(&now.made) != without_vlans(stack) => {
                    Some(compare_stacks(&now.made, stack))
                }
                None => self.lost_switch(now),
            };
            if let Some(why) = why {
                self.say(Sign::Change, thing, format!("made anew: {why}"));
                self.anew.insert(name.clone());
                gone.push(Step::RemoveStack(name.clone()));
                made.push(Step::AddStack(name.clone(), Box::new(stack.clone())));
                continue;
            }
            let moved = moved_ports(now, stack);
            if !moved.is_empty() {
                let words: Vec<String> = moved.iter().map(|(_, words)| words.clone()).collect();
                self.say(Sign::Change, thing, words.join(", "));
                made.extend(moved.into_iter().map(|(step, _)| step));
            }
            if now.made != *stack {
                made.push(Step::NoteStack(name.clone(), Box::new(stack.clone())));
            }
        }
        for name in current.stacks.keys().filter(|name| !wanted.stacks.contains_key(*name)) {
            self.say(Sign::Remove, Thing::Stack(name.clone()), "");
            gone.push(Step::RemoveStack(name.clone()));
        }
        (gone, made)
    }

    /// Is it plugged into a switch that is to be started?
    fn lost_switch(&self, now: &CurrentStack) -> Option<String> {
        let own = |name: &String| self.wanted.switches.get(name).is_some_and(|switch| !switch.external);
        let mut switches = now.ports.values().map(|(switch, ..)| switch);
        switches
            .find(|name| own(name) && !self.current.switches.contains_key(*name))
            .map(|name| format!("its switch {name} is new"))
    }

    /// Which programs end, and which start.
    fn programs(&mut self) -> (Vec<String>, Vec<(String, Program)>) {
        let (wanted, current) = (self.wanted, self.current);
        let (mut stops, mut starts) = (Vec::new(), Vec::new());
        // The order is there: it was checked when the file was read.
        for name in wanted.order().unwrap_or_default() {
            let program = &wanted.programs[&name];
            let thing = Thing::Program(name.clone());
            match current.programs.get(&name) {
                None => self.say(Sign::Add, thing, format!("in {}: {}", program.stack, program.command)),
                Some(now) if now != program => {
                    self.say(
                        Sign::Change,
                        thing,
                        format!("started again: {}", compare_programs(now, program)),
                    );
                    stops.push(name.clone());
                }
                Some(_) if self.anew.contains(&program.stack) => {
                    self.say(
                        Sign::Change,
                        thing,
                        format!("started again: its stack {} is new", program.stack),
                    );
                    stops.push(name.clone());
                }
                Some(_) => continue,
            }
            starts.push((name, program.clone()));
        }
        for name in current.programs.keys().filter(|name| !wanted.programs.contains_key(*name)) {
            self.say(Sign::Remove, Thing::Program(name.clone()), "");
            stops.push(name.clone());
        }
        // Those that others wait for end last.
        let now = Topology { programs: current.programs.clone(), ..Topology::default() };
        let order = now.order().unwrap_or_default();
        stops.sort_by_key(|name| std::cmp::Reverse(order.iter().position(|other| other == name)));
        (stops, starts)
    }
}

/// Ports of a stack whose VLANs the file sees otherwise.
fn moved_ports(now: &CurrentStack, wanted: &Stack) -> Vec<(Step, String)> {
    let mut moved = Vec::new();
    for interface in &wanted.interfaces {
        let Some(plug) = interface.link.plug() else { continue };
        let Some((switch, port, is)) = now.ports.get(&interface.name) else { continue };
        let shall = plug.vlans();
        if *is != shall {
            let step = Step::SetVlans(switch.clone(), port.clone(), shall.clone());
            moved.push((step, format!("{}: {is} → {shall}", interface.name)));
        }
    }
    moved
}

fn without_vlans(stack: &Stack) -> Stack {
    let mut stack = stack.clone();
    for interface in &mut stack.interfaces {
        interface.link = std::mem::take(&mut interface.link).with_vlans(None);
    }
    stack
}

fn describe_switch(switch: &Switch) -> String {
    compare_switches(&Switch::default(), switch).join(", ")
}

/// What differs between two switches, but for their ports.
fn compare_switches(now: &Switch, wanted: &Switch) -> Vec<String> {
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
    vde: Option<VdeFolder>,
    metrics: Option<String>,
    stp: Tree,
}

fn describe_port(port: &Port) -> String {
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

fn describe_stack(stack: &Stack) -> String {
    let kind = stack.kind.iter().map(ToString::to_string);
    let interfaces = stack.interfaces.iter().map(|interface| {
        let addresses = interface.ip.iter().map(ToString::to_string);
        let words: Vec<String> =
            [interface.name.clone(), interface.link.to_string()].into_iter().chain(addresses).collect();
        words.join(" ")
    });
    kind.chain(interfaces).collect::<Vec<_>>().join(", ")
}

/// The fields that differ, by their names in the file.
fn compare_stacks(now: &Stack, wanted: &Stack) -> String {
    let (now, wanted) = (without_vlans(now), without_vlans(wanted));
    let fields = [
        ("kind", now.kind != wanted.kind),
        ("mode", now.mode != wanted.mode),
        ("restart", now.restart != wanted.restart),
        ("interface", now.interfaces != wanted.interfaces),
        ("route", now.routes != wanted.routes),
        ("limits", now.limits != wanted.limits),
        ("forward", now.forward != wanted.forward),
        ("filter", now.filter != wanted.filter),
    ];
    differing(&fields)
}

fn compare_programs(now: &Program, wanted: &Program) -> String {
    let fields = [
        ("stack", now.stack != wanted.stack),
        ("command", now.command != wanted.command),
        ("environment", now.environment != wanted.environment),
        ("folder", now.folder != wanted.folder),
        ("restart", now.restart != wanted.restart),
        ("after", now.after != wanted.after),
        ("rules", now.rules != wanted.rules),
    ];
    differing(&fields)
}

fn differing(fields: &[(&str, bool)]) -> String {
    let names: Vec<&str> = fields.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    format!("other {}", names.join(", "))
}

#[cfg(test)]
mod tests;

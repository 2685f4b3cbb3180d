//! What is to be done so that a topology is as its file says: a pure function of what is wanted and what is there.
//!
//! # Theory of operation
//! [`Current`] is what was found of things that this topology made; whatever else runs on the machine is not in it.
//! [`plan`] compares it with the file and gives a list of [`Change`]s in the order in which they are to be done:
//!
//! 1. programs that go, or must start again, end, those first that others do not wait for;
//! 2. stacks go that nobody wants or that are made anew, then gateways, ports, switches;
//! 3. switches come, or are changed while they run, then ports, gateways, stacks;
//! 4. ports of the host are published, and ports, of stacks too, get their settings: some name other ports, which are
//!    there by now;
//! 5. programs start, each after those it waits for.
//!
//! What can be changed while it runs is changed: all of a switch, VLANs and settings of any port, who may use a gateway,
//! packet filters, published ports. A stack that differs in anything else is made anew, and so is one whose port vanished
//! with its switch; a program whose stack is made anew starts again. So a change is `~` for the reader, and both a removal
//! and an addition to whoever does it.

mod describe;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use stacks::filter::Ruleset;
use stacks::gateway::publish::Publish;
use switch::vlan::PortVlans;

use self::describe::{
    Rules, compare_programs, compare_stacks, compare_switches, describe_port, describe_stack,
    describe_switch, structure,
};
use self::words::differences;
use super::schema::{Gateway, Port, PortSettings, Program, Stack, Switch, Topology};

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
    /// As it was made, with those of its rules and published ports that are there still.
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
    /// Changes who may go where through a gateway, and its packet filter, from what they are to these.
    ChangeGateway(String, Box<(Gateway, Gateway)>),
    /// Ends a gateway.
    RemoveGateway(String),
    /// Makes a stack.
    AddStack(String, Box<Stack>),
    /// Gives a stack these rules of the packet filter in the place of its own.
    SetFilter(String, Ruleset),
    /// Lets ports of the host lead to a stack.
    Publish(String, Vec<Publish>),
    /// Lets them lead there no more.
    Unpublish(String, Vec<Publish>),
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
    let mut planner = Planner {
        wanted,
        current,
        plan: Plan::default(),
        anew: BTreeSet::new(),
        new_ports: BTreeSet::new(),
        new_gateways: BTreeSet::new(),
    };
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
    /// Switches whose gateways are started, or started again: what they published is so no more.
    new_gateways: BTreeSet<String>,
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
                    self.new_gateways.insert(name.clone());
                    opening.push(add);
                }
                Some(now) if !now.is_same_place(gateway) => {
                    self.say(
                        Sign::Change,
                        thing,
                        format!("made anew: {}", differences(now, gateway).join(", ")),
                    );
                    self.new_gateways.insert(name.clone());
                    closing.push(Step::RemoveGateway(name.clone()));
                    opening.push(add);
                }
                Some(now) if now != gateway => {
                    self.say(Sign::Change, thing, differences(now, gateway).join(", "));
                    opening.push(Step::ChangeGateway(name.clone(), Box::new((now.clone(), gateway.clone()))));
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
        let (mut gone, mut made, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        for (name, stack) in &wanted.stacks {
            let thing = Thing::Stack(name.clone());
            let publish = |ports: &[Publish]| Step::Publish(name.clone(), ports.to_vec());
            let Some(now) = current.stacks.get(name) else {
                self.say(Sign::Add, thing, describe_stack(stack));
                self.anew.insert(name.clone());
                made.push(Step::AddStack(name.clone(), Box::new(stack.clone())));
                opened.extend((!stack.publish.is_empty()).then(|| publish(&stack.publish)));
                continue;
            };
            let why = match &now.broken {
                Some(why) => Some(why.clone()),
                None if structure(&now.made) != structure(stack) => Some(compare_stacks(&now.made, stack)),
                None => self.lost_switch(now),
            };
            if let Some(why) = why {
                self.say(Sign::Change, thing, format!("made anew: {why}"));
                self.anew.insert(name.clone());
                gone.push(Step::RemoveStack(name.clone()));
                made.push(Step::AddStack(name.clone(), Box::new(stack.clone())));
                opened.extend((!stack.publish.is_empty()).then(|| publish(&stack.publish)));
                continue;
            }
            let mut words = Vec::new();
            for (step, word) in moved_ports(now, stack) {
                words.push(word);
                made.push(step);
            }
            if now.made.filter != stack.filter {
                words.extend(differences(&Rules::of(&now.made), &Rules::of(stack)));
                made.push(Step::SetFilter(name.clone(), stack.filter.clone()));
            }
            let (closed, added) = self.publications(&now.made, stack);
            words.extend(closed.iter().map(|ports| format!("no publish {ports}")));
            gone.extend((!closed.is_empty()).then(|| Step::Unpublish(name.clone(), closed)));
            words.extend(added.iter().map(|ports| format!("publish {ports}")));
            opened.extend((!added.is_empty()).then(|| publish(&added)));
            if !words.is_empty() {
                self.say(Sign::Change, thing, words.join(", "));
            }
            if now.made != *stack {
                made.push(Step::NoteStack(name.clone(), Box::new(stack.clone())));
            }
        }
        for name in current.stacks.keys().filter(|name| !wanted.stacks.contains_key(*name)) {
            self.say(Sign::Remove, Thing::Stack(name.clone()), "");
            gone.push(Step::RemoveStack(name.clone()));
        }
        made.append(&mut opened);
        (gone, made)
    }

    /// Ports that lead to a stack no more, and those that begin to.
    fn publications(&self, now: &Stack, wanted: &Stack) -> (Vec<Publish>, Vec<Publish>) {
        let (is, shall) = (&now.publish, &wanted.publish);
        let mut closed: Vec<Publish> = is.iter().filter(|ports| !shall.contains(ports)).cloned().collect();
        // What comes and goes by itself has no ports by which to close it: everything of the stack is closed.
        if closed.iter().any(|ports| matches!(ports, Publish::Auto(_))) {
            closed.clone_from(is);
        }
        let is_lost = wanted.switches().any(|switch| self.new_gateways.contains(switch));
        let stays = |ports: &&Publish| !is_lost && is.contains(ports) && !closed.contains(ports);
        let added = shall.iter().filter(|ports| !stays(ports)).cloned().collect();
        (closed, added)
    }

    /// Is it plugged into a switch that is to be started?
    fn lost_switch(&self, now: &CurrentStack) -> Option<String> {
        let own = |name: &String| self.wanted.switches.get(name).is_some_and(|switch| !switch.external);
        let mut switches = now.ports.values().map(|(switch, ..)| switch);
        switches
            .find(|name| own(name) && !self.current.switches.contains_key(*name))
            .map(|name| format!("its switch {name} is new"))
    }

    /// What of a program's network is new, without which it is not what it was.
    fn lost_network(&self, program: &Program) -> Option<String> {
        if let Some(stack) = program.stacks().iter().find(|stack| self.anew.contains(*stack)) {
            return Some(format!("its stack {stack} is new"));
        }
        let stack = self.wanted.stacks.get(program.stack.as_ref()?)?;
        let mut switches = stack.switches().filter(|_| !program.publish.is_empty());
        switches
            .find(|switch| self.new_gateways.contains(*switch))
            .map(|switch| format!("the gateway {switch} is new"))
    }

    /// Which programs end, and which start.
    fn programs(&mut self) -> (Vec<String>, Vec<(String, Program)>) {
        let (wanted, current) = (self.wanted, self.current);
        let (mut stops, mut starts) = (Vec::new(), Vec::new());
        // The order is there: it was checked when the file was read.
        for name in wanted.order().unwrap_or_default() {
            let program = &wanted.programs[&name];
            let thing = Thing::Program(name.clone());
            let again = match current.programs.get(&name) {
                None => {
                    self.say(Sign::Add, thing, format!("in {}: {}", program.place(), program.command));
                    starts.push((name, program.clone()));
                    continue;
                }
                Some(now) if now != program => Some(compare_programs(now, program)),
                Some(_) => self.lost_network(program),
            };
            let Some(why) = again else { continue };
            self.say(Sign::Change, thing, format!("started again: {why}"));
            stops.push(name.clone());
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

#[cfg(test)]
mod tests;

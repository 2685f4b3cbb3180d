//! What there is of a topology, asked of the things themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use msocket_proto::line::{Line, sweep};
use stacks::config::Link;
use stacks::remote;
use switch::client::{Client, PortInfo, is_gone};
use switch::vlan::PortVlans;

use super::diff::{Current, CurrentStack};
use super::runner;
use super::schema::{Age, Stack, StackKind, Switch, Topology};
use super::state::{Folder, Made, State};
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;

/// How long something that was begun may take to be there; a switch takes some 10 ms.
const BEGUN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// Looks at everything the topology has made. Entries of `state` whose things are gone, or are another's by now,
/// are taken out.
pub(crate) fn observe(runtime: &Runtime, folder: &Folder, state: &mut State) -> Result<Current, Failure> {
    let mut current = Current::default();
    let mut ports: BTreeMap<String, Vec<PortInfo>> = BTreeMap::new();
    let mut gone = Vec::new();
    for (name, made) in &state.switches {
        let path = runtime.switch(name);
        wait_for_begun(made, &path);
        match Client::connect(&path).ok().filter(|_| made.is_at(&path)) {
            None => gone.push(name.clone()),
            Some(mut client) => {
                let failed = |e| call_failed(&format!("cannot ask the switch `{name}`"), e);
                match look_at_switch(&mut client, &made.config) {
                    Ok((now, list)) => {
                        current.switches.insert(name.clone(), now);
                        ports.insert(name.clone(), list);
                    }
                    // It is just ending.
                    Err(e) if is_gone(&e) => gone.push(name.clone()),
                    Err(e) => return Err(failed(e)),
                }
            }
        }
    }
    gone.drain(..).for_each(|name: String| drop(state.switches.remove(&name)));
    for (name, made) in &state.stacks {
        let path = runtime.stack(name);
        wait_for_begun(made, &path);
        if !made.is_at(&path) || sweep(&path).unwrap_or(false) || Line::connect(&path).is_err() {
            gone.push(name.clone());
            continue;
        }
        let found = look_at_stack(runtime, name, &made.config, &mut ports)?;
        current.stacks.insert(name.clone(), found);
    }
    gone.drain(..).for_each(|name: String| drop(state.stacks.remove(&name)));
    for status in runner::list(folder).unwrap_or_default() {
        current.programs.insert(status.name, status.program);
    }
    Ok(current)
}

/// What an `up` had begun that was killed may come a moment later: it must not be missed.
fn wait_for_begun<T>(made: &Made<T>, path: &Path) {
    let begin = Instant::now();
    while made.id.is_none() && !path.exists() && begin.elapsed() < BEGUN {
        std::thread::sleep(LOOK);
    }
}

/// A switch as it is now: what it says itself, else what it was told; and all its ports.
fn look_at_switch(
    client: &mut Client,
    made: &Switch,
) -> Result<(Switch, Vec<PortInfo>), msocket_proto::line::CallError> {
    let mut now = made.clone();
    let show = client.show()?;
    now.mgmt = show.mgmt;
    let age = Age::try_from(show.age_s).ok();
    if age != Some(now.age.unwrap_or(Age::DEFAULT)) {
        now.age = age;
    }
    let vlans = client.vlans()?;
    let name = |vid| vlans.iter().find(|vlan| vlan.vid == vid).map(|vlan| vlan.name.clone());
    now.vlan = made.vlan.keys().filter_map(|key| Some((*key, name(key.0)?))).collect();
    let ports = client.ports()?;
    let find = |name: &String| ports.iter().find(|port| port.name == *name);
    let port = |(name, port): (&String, &super::schema::Port)| {
        Some((name.clone(), port.with_vlans(&find(name)?.vlans)))
    };
    now.port = made.port.iter().filter_map(port).collect();
    Ok((now, ports))
}

fn look_at_stack(
    runtime: &Runtime,
    name: &str,
    made: &Stack,
    ports: &mut BTreeMap<String, Vec<PortInfo>>,
) -> Result<CurrentStack, Failure> {
    let description = remote::describe(&runtime.stack(name))?;
    let mut found = CurrentStack { made: made.clone(), broken: description.failure, ports: BTreeMap::new() };
    for interface in &made.interfaces {
        let Link::Switch { name: switch, .. } = &interface.link else { continue };
        if !ports.contains_key(switch) {
            let path = runtime.switch(switch);
            let list = Client::connect(&path).ok().and_then(|mut client| client.ports().ok());
            ports.insert(switch.clone(), list.unwrap_or_default());
        }
        let wanted = format!("{name}.{}", interface.name);
        match ports[switch].iter().find(|port| is_port_of(&port.name, &wanted)) {
            Some(port) => {
                let place: (String, String, PortVlans) =
                    (switch.clone(), port.name.clone(), port.vlans.clone());
                found.ports.insert(interface.name.clone(), place);
            }
            None if found.broken.is_none() => {
                found.broken = Some(format!("{} lost its switch {switch}", interface.name));
            }
            None => {}
        }
    }
    Ok(found)
}

/// A port is called as its stack and interface, with a number if that name was not free.
fn is_port_of(port: &str, wanted: &str) -> bool {
    let rest = port.strip_prefix(wanted);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('.').is_some_and(|n| n.parse::<u32>().is_ok())
    })
}

/// What there is, as a file would say it: where to go back to.
pub(crate) fn as_topology(current: &Current) -> Topology {
    let stacks = current.stacks.iter().map(|(name, stack)| (name.clone(), stack.made.clone()));
    Topology {
        name: None,
        switches: current.switches.clone(),
        stacks: stacks.collect(),
        programs: current.programs.clone(),
    }
}

/// Names that a topology wants and that another thing has; each with what to do about it.
pub(crate) fn taken(runtime: &Runtime, topology: &Topology, current: &Current) -> Option<Failure> {
    let taken = |what: &str, name: &String, path: PathBuf| {
        // A switch that is just ending has its path for a moment more; whoever starts another waits for it.
        let ends = || {
            what == "switch"
                && Client::connect(&path).is_ok_and(|mut c| c.hello().is_err_and(|e| is_gone(&e)))
        };
        if sweep(&path).unwrap_or(false) || !path.exists() || ends() {
            return None;
        }
        let owner = owner(runtime, what, name);
        let why = match &owner {
            Some(topology) => format!("topology {topology} has it"),
            None => "it is there already, and not this topology's".to_owned(),
        };
        let mut hint = match owner {
            Some(topology) => format!("choose another name, or end that with `viewnet down {topology}`"),
            None => format!("choose another name, or end it with `viewnet {what} down {name}`"),
        };
        if what == "switch" {
            hint += "; to plug into it as it is, say `external = true`";
        }
        Some(Failure::new(format!("cannot make {what} {name}"), why).hint(hint))
    };
    let new = |name: &String, switch: &Switch| !switch.external && !current.switches.contains_key(name);
    let switches = topology.switches.iter().filter(|(name, switch)| new(name, switch));
    let stacks = topology.stacks.keys().filter(|name| !current.stacks.contains_key(*name));
    switches
        .map(|(name, _)| ("switch", name, runtime.switch(name)))
        .chain(stacks.map(|name| ("stack", name, runtime.stack(name))))
        .find_map(|(what, name, path)| taken(what, name, path))
}

fn owner(runtime: &Runtime, what: &str, name: &str) -> Option<String> {
    let has = |state: &State| match what {
        "switch" => state.switches.get(name).is_some_and(|made| made.is_at(&runtime.switch(name))),
        _ => state.stacks.get(name).is_some_and(|made| made.is_at(&runtime.stack(name))),
    };
    let all = Folder::all(runtime).into_iter();
    all.filter_map(|(owner, folder)| Some((owner, folder.load().ok()??)))
        .find_map(|(owner, state)| has(&state).then_some(owner))
}

/// What the keeper says about a stack's kind.
pub(crate) fn kind_of(stack: &Stack) -> stacks::stack::Kind {
    match stack.kind {
        Some(StackKind::Smol) => stacks::stack::Kind::Smol,
        _ => stacks::stack::Kind::Kernel,
    }
}

//! What there is of a topology, asked of the things themselves.

mod switch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::switch::client::{Client, PortInfo, is_gone};
use ::switch::vlan::PortVlans;
use msocket_proto::line::{Line, sweep};
use msocket_proto::proto::Request;
use stacks::filter::Listing;
use stacks::gateway::serve::Description;
use stacks::remote;

use super::diff::{Current, CurrentStack};
use super::runner;
use super::schema::{Stack, StackKind, Switch, Topology};
use super::state::{Folder, Made, State};
use crate::commands::{gateway, publish};
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
    for (name, made) in &mut state.switches {
        let path = runtime.switch(name);
        wait_for_begun(made, &path);
        match Client::connect(&path).ok().filter(|_| made.is_at(&path)) {
            None => gone.push(name.clone()),
            Some(mut client) => {
                let failed = |e| call_failed(&format!("cannot ask the switch `{name}`"), e);
                match switch::look_at(&mut client, &made.config) {
                    Ok((now, list)) => {
                        // Those of stacks go with them.
                        made.config
                            .port
                            .retain(|name, port| port.leads_to().is_some() || now.port.contains_key(name));
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
    for (name, made) in &state.gateways {
        let path = runtime.gateways().join(name);
        wait_for_begun(made, &path);
        let asked = || gateway::ask_of::<Description>(runtime, name, &gateway::Request::Show).ok();
        match Some(&path).filter(|path| made.is_at(path)).and_then(|_| asked()) {
            None => gone.push(name.clone()),
            Some(found) => {
                current
                    .gateways
                    .insert(name.clone(), made.config.with(found.config.rules, found.config.filter));
            }
        }
    }
    gone.drain(..).for_each(|name: String| drop(state.gateways.remove(&name)));
    let publishes = state.stacks.values().any(|made| !made.config.publish.is_empty());
    let doors = if publishes { gateway::all(runtime)? } else { Vec::new() };
    for (name, made) in &state.stacks {
        let path = runtime.stack(name);
        wait_for_begun(made, &path);
        if !made.is_at(&path) || sweep(&path).unwrap_or(false) || Line::connect(&path).is_err() {
            gone.push(name.clone());
            continue;
        }
        let mut found = look_at_stack(runtime, name, &made.config, &mut ports)?;
        found.made.publish = publish::published(&doors, name, &made.config.publish);
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

fn look_at_stack(
    runtime: &Runtime,
    name: &str,
    made: &Stack,
    ports: &mut BTreeMap<String, Vec<PortInfo>>,
) -> Result<CurrentStack, Failure> {
    let description = remote::describe(&runtime.stack(name))?;
    let mut found = CurrentStack { made: made.clone(), broken: description.failure, ports: BTreeMap::new() };
    // Rules made by hand stay where the file says nothing of them; a stack that failed has none.
    if !made.filter.is_empty() && found.broken.is_none() {
        let asked = remote::ask::<Listing>(&runtime.stack(name), &Request::Filter { change: None })?;
        found.made.filter = asked.ruleset().unwrap_or_default();
    }
    for interface in &made.interfaces {
        let Some(plug) = interface.link.plug() else { continue };
        let switch = plug.switch;
        if !ports.contains_key(switch) {
            let path = runtime.switch(switch);
            let list = Client::connect(&path).ok().and_then(|mut client| client.ports().ok());
            ports.insert(switch.to_owned(), list.unwrap_or_default());
        }
        let wanted = format!("{name}.{}", interface.name);
        match ports[switch].iter().find(|port| is_port_of(&port.name, &wanted)) {
            Some(port) => {
                let place: (String, String, PortVlans) =
                    (switch.to_owned(), port.name.clone(), port.vlans.clone());
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

/// What a switch calls the port of a stack's interface, STACK.INTERFACE.
pub(crate) fn port_of(client: &mut Client, wanted: &str) -> Result<String, Failure> {
    let what = || format!("cannot change port {wanted}");
    let ports = client.ports().map_err(|e| call_failed(&what(), e))?;
    let found = ports.into_iter().find(|port| is_port_of(&port.name, wanted));
    found.map(|port| port.name).ok_or_else(|| {
        Failure::new(what(), "its stack is not plugged in").hint("`viewnet stack show` says why")
    })
}

/// What there is, as a file would say it: where to go back to.
pub(crate) fn as_topology(current: &Current) -> Topology {
    let stacks = current.stacks.iter().map(|(name, stack)| (name.clone(), stack.made.clone()));
    Topology {
        name: None,
        switches: current.switches.clone(),
        gateways: current.gateways.clone(),
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
            Some(topology) if what == "gateway" => format!("end that with `viewnet down {topology}`"),
            Some(topology) => format!("choose another name, or end that with `viewnet down {topology}`"),
            None if what == "gateway" => format!("end it with `viewnet gateway down --switch {name}`"),
            None => format!("choose another name, or end it with `viewnet {what} down {name}`"),
        };
        if what == "switch" {
            hint += "; to plug into it as it is, say `external = true`";
        }
        Some(Failure::new(format!("cannot make {what} {name}"), why).hint(hint))
    };
    let new = |name: &String, switch: &Switch| !switch.external && !current.switches.contains_key(name);
    let switches = topology.switches.iter().filter(|(name, switch)| new(name, switch));
    let gateways = topology.gateways.keys().filter(|name| !current.gateways.contains_key(*name));
    let stacks = topology.stacks.keys().filter(|name| !current.stacks.contains_key(*name));
    switches
        .map(|(name, _)| ("switch", name, runtime.switch(name)))
        .chain(gateways.map(|name| ("gateway", name, runtime.gateways().join(name))))
        .chain(stacks.map(|name| ("stack", name, runtime.stack(name))))
        .find_map(|(what, name, path)| taken(what, name, path))
}

fn owner(runtime: &Runtime, what: &str, name: &str) -> Option<String> {
    let has = |state: &State| match what {
        "switch" => state.switches.get(name).is_some_and(|made| made.is_at(&runtime.switch(name))),
        "gateway" => state.gateways.get(name).is_some_and(|made| made.is_at(&runtime.gateways().join(name))),
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

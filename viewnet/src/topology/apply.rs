//! Does what [`diff`](super::diff) says, step by step, and undoes it if a step fails.
//!
//! The undoing is the same thing once more: the plan from what there is then to what there was before. Should that
//! fail, too, the error names what differs still.

use std::time::Duration;

use msocket_proto::line::CallError;
use msocket_proto::proto::{FilterChange, Request as StackRequest};
use stacks::filter::Listing;
use stacks::remote;
use switch::client::{Client, Request};

use super::diff::{Change, Current, Plan, Step, plan};
use super::schema::{self, Age, Gateway, Mode, Port, PortSettings, Stack, Switch, Topology};
use super::state::{Folder, Identity, Made, State};
use super::{processes, runner, settings, world};
use crate::commands::options::hold_switches;
use crate::commands::switch::{Definition, plug, start_switch};
use crate::commands::{gateway, publish, vpn};
use crate::exit::{Failure, call_failed};
use crate::keeper;
use crate::runtime::Runtime;

/// A topology that is being changed.
pub(crate) struct Applier<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) name: &'a str,
    pub(crate) folder: &'a Folder,
    pub(crate) state: State,
    /// End stacks that programs of others use.
    pub(crate) force: bool,
}

impl Applier<'_> {
    /// What there is now.
    pub(crate) fn observe(&mut self) -> Result<Current, Failure> {
        world::observe(self.runtime, self.folder, &mut self.state)
    }

    /// Goes from `current` to `wanted` by `plan`, or back again and says why.
    pub(crate) fn apply(&mut self, current: &Current, plan: &Plan) -> Result<(), Failure> {
        self.end_orphans()?;
        let Err(failure) = self.run(plan) else { return Ok(()) };
        let before = world::as_topology(current);
        let left = match self.undo(&before) {
            Ok(left) if left.is_empty() => "what it had begun was undone".to_owned(),
            Ok(left) => {
                let left: Vec<String> =
                    left.iter().map(|change| format!("{} {}", change.sign.symbol(), change.thing)).collect();
                format!("it could not be undone: to be as before it takes {}", left.join(", "))
            }
            Err(why) => format!("it could not be undone: {why}"),
        };
        let hint = failure.refusal.hint.clone();
        let failure = failure.complete();
        let hint = hint.or_else(|| failure.refusal.hint.clone()).unwrap_or_default();
        Err(failure.hint(if hint.is_empty() { left } else { format!("{hint}; {left}") }))
    }

    /// Takes everything away. What cannot be taken stays in the state, and is tried again the next time.
    pub(crate) fn take_down(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.end_orphans()?;
        let mut first = None;
        for step in &plan.steps {
            // Whoever uses a stack that stays keeps its switch, too.
            let is_switch =
                matches!(step, Step::RemoveSwitch(_) | Step::RemovePort(..) | Step::RemoveGateway(_));
            let failed = if first.is_some() && is_switch { None } else { self.step(step).err() };
            first = first.or(failed);
        }
        let Some(failure) = first else { return Ok(()) };
        let now = self.observe()?;
        let left = super::diff::plan(&Topology::default(), &now).changes;
        let left: Vec<String> = left.iter().map(|change| change.thing.to_string()).collect();
        let failure = failure.complete();
        let hint = failure.refusal.hint.clone().unwrap_or_default();
        Err(failure.hint(format!("{hint}; left: {}", left.join(", "))))
    }

    /// Goes to what was there before; the answer is what is missing.
    fn undo(&mut self, before: &Topology) -> Result<Vec<Change>, Failure> {
        let now = self.observe()?;
        let back = plan(before, &now);
        let _ = self.run(&back);
        let now = self.observe()?;
        Ok(plan(before, &now).changes)
    }

    /// Processes of a runner that was killed.
    fn end_orphans(&self) -> Result<(), Failure> {
        if runner::list(self.folder).is_none() {
            processes::end(&processes::marker(self.folder, ""));
        }
        Ok(())
    }

    fn run(&mut self, plan: &Plan) -> Result<(), Failure> {
        plan.steps.iter().try_for_each(|step| self.step(step))
    }

    fn save(&self) -> Result<(), Failure> {
        self.folder.save(&self.state)
    }

    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::StopPrograms(names) => runner::stop(self.folder, names),
            Step::StartPrograms(programs) => {
                let home = self.state.file.parent().map(ToOwned::to_owned).unwrap_or_default();
                runner::start(self.runtime, self.name, self.folder, &home, programs)
            }
            Step::AddSwitch(name, switch) => self.add_switch(name, switch),
            Step::ChangeSwitch(name, both) => self.change_switch(name, &both.0, &both.1),
            Step::RemoveSwitch(name) => {
                self.call(name, &Request::Down)?;
                self.state.switches.remove(name);
                self.save()
            }
            Step::AddPort(switch, name, port) => self.add_port(switch, name, port),
            Step::SetVlans(switch, port, vlans) => {
                let (port, vlans) = (port.clone(), Some(vlans.clone()));
                self.call(switch, &Request::PortSet { port, vlans, rename: None, peers: None })
            }
            Step::RemovePort(switch, name) => {
                self.call(switch, &Request::PortRm { port: name.clone() })?;
                self.forget_port(switch, name);
                self.save()
            }
            Step::SetPort(switch, name, both) => self.set_port(switch, name, &both.0, both.1.as_ref()),
            Step::AddGateway(name, gateway) => self.add_gateway(name, gateway),
            Step::ChangeGateway(name, both) => self.change_gateway(name, &both.0, &both.1),
            Step::RemoveGateway(name) => {
                gateway::ask_of::<()>(self.runtime, name, &gateway::Request::Down)?;
                self.state.gateways.remove(name);
                self.save()
            }
            Step::AddStack(name, stack) => self.add_stack(name, stack),
            Step::NoteStack(name, stack) => self.note_stack(name, |made| *made = (**stack).clone()),
            Step::RemoveStack(name) => self.remove_stack(name),
            Step::SetFilter(name, filter) => {
                let change = Some(FilterChange::Set { rules: filter.to_string() });
                remote::ask::<Listing>(&self.runtime.stack(name), &StackRequest::Filter { change })?;
                self.note_stack(name, |stack| stack.filter.clone_from(filter))
            }
            Step::Publish(name, ports) => {
                publish::add(self.runtime, name, ports.clone())?;
                self.note_stack(name, |stack| {
                    let new = ports.iter().filter(|one| !stack.publish.contains(one)).cloned();
                    stack.publish.extend(new.collect::<Vec<_>>());
                })
            }
            Step::Unpublish(name, ports) => {
                publish::close(self.runtime, name, ports)?;
                self.note_stack(name, |stack| stack.publish.retain(|one| !ports.contains(one)))
            }
        }
    }

    fn add_switch(&mut self, name: &str, switch: &Switch) -> Result<(), Failure> {
        // Its ports come one by one.
        let config = Switch { port: Default::default(), ..switch.clone() };
        self.state.switches.insert(name.to_owned(), Made { id: None, config });
        self.save()?;
        let vde = switch.vde.as_ref().map(schema::VdeFolder::told).transpose()?;
        let definition = Definition {
            age: Duration::from_secs(switch.age.unwrap_or(Age::DEFAULT).seconds()),
            mode: switch.mode.unwrap_or(Mode(0o600)).0,
            group: switch.group.clone(),
            mgmt: switch.mgmt.clone(),
            vde,
        };
        if let Err(failure) = start_switch(self.runtime, name, definition) {
            self.state.switches.remove(name);
            self.save()?;
            return Err(failure);
        }
        if let Some(made) = self.state.switches.get_mut(name) {
            made.id = Identity::of(&self.runtime.switch(name));
        }
        self.save()?;
        // It was started with the rest.
        let begun =
            Switch { hub: false, stp: None, metrics: None, vlan: Default::default(), ..switch.clone() };
        settings::change_switch(&mut self.connect(name)?, name, &begun, switch)
    }

    fn change_switch(&mut self, name: &str, now: &Switch, wanted: &Switch) -> Result<(), Failure> {
        settings::change_switch(&mut self.connect(name)?, name, now, wanted)?;
        if let Some(made) = self.state.switches.get_mut(name) {
            let port = std::mem::take(&mut made.config.port);
            made.config = Switch { port, ..wanted.clone() };
        }
        self.save()
    }

    fn add_port(&mut self, switch: &str, name: &str, port: &Port) -> Result<(), Failure> {
        self.note_port(switch, name, port);
        self.save()?;
        plug(self.runtime, switch, name, port).inspect_err(|_| {
            self.forget_port(switch, name);
            let _ = self.save();
        })
    }

    /// Changes a port's settings; it is no longer in the file if there is no `wanted` one.
    fn set_port(
        &mut self,
        switch: &str,
        name: &str,
        now: &Port,
        wanted: Option<&Port>,
    ) -> Result<(), Failure> {
        self.note_port(switch, name, wanted.unwrap_or(now));
        self.save()?;
        let mut client = self.connect(switch)?;
        let plain = now.with_settings(PortSettings::default());
        let is_own = wanted.unwrap_or(now).leads_to().is_some();
        let real = if is_own { name.to_owned() } else { world::port_of(&mut client, name)? };
        settings::change_port(&mut client, &real, now, wanted.unwrap_or(&plain))?;
        if wanted.is_none() {
            self.forget_port(switch, name);
            self.save()?;
        }
        Ok(())
    }

    fn note_port(&mut self, switch: &str, name: &str, port: &Port) {
        if let Some(made) = self.state.switches.get_mut(switch) {
            made.config.port.insert(name.to_owned(), port.clone());
        }
    }

    fn add_gateway(&mut self, name: &str, wanted: &Gateway) -> Result<(), Failure> {
        self.state.gateways.insert(name.to_owned(), Made { id: None, config: wanted.clone() });
        self.save()?;
        let started = gateway::start(self.runtime, name, wanted.told());
        match (&started, self.state.gateways.get_mut(name)) {
            (Ok(()), Some(made)) => made.id = Identity::of(&self.runtime.gateways().join(name)),
            _ => drop(self.state.gateways.remove(name)),
        }
        self.save().and(started)
    }

    fn change_gateway(&mut self, name: &str, now: &Gateway, wanted: &Gateway) -> Result<(), Failure> {
        if now.rules() != wanted.rules() {
            let rules = gateway::Request::Set { rules: wanted.rules() };
            gateway::ask_of::<()>(self.runtime, name, &rules)?;
        }
        // To set a filter begins its counters anew.
        if now.filter != wanted.filter {
            let change = Some(FilterChange::Set { rules: wanted.filter.to_string() });
            gateway::ask_of::<Listing>(self.runtime, name, &gateway::Request::Filter { change })?;
        }
        if let Some(made) = self.state.gateways.get_mut(name) {
            made.config = wanted.clone();
        }
        self.save()
    }

    fn note_stack(&mut self, name: &str, note: impl FnOnce(&mut Stack)) -> Result<(), Failure> {
        if let Some(made) = self.state.stacks.get_mut(name) {
            note(&mut made.config);
        }
        self.save()
    }

    fn forget_port(&mut self, switch: &str, name: &str) {
        if let Some(made) = self.state.switches.get_mut(switch) {
            made.config.port.remove(name);
        }
    }

    fn add_stack(&mut self, name: &str, stack: &Stack) -> Result<(), Failure> {
        self.state.stacks.insert(name.to_owned(), Made { id: None, config: stack.clone() });
        self.save()?;
        let mut up = keeper::Up {
            name: name.to_owned(),
            path: self.runtime.stack(name),
            mode: stack.mode.unwrap_or(Mode(0o600)).0,
            config: stack.config(),
            kind: world::kind_of(stack),
            restart: stack.restart.unwrap_or_default(),
        };
        let is_smol = stack.kind == Some(schema::StackKind::Smol);
        let mut make = || {
            let tunnels =
                vpn::hold_as(self.runtime, &mut up.config, Some(name).filter(|_| stack.vpn.is_some()))?;
            let switches = hold_switches(self.runtime, name, is_smol, &mut up.config)?;
            keeper::up(self.runtime, &up, stack.kind.is_none()).map(|()| drop((tunnels, switches)))
        };
        if let Err(failure) = make() {
            self.state.stacks.remove(name);
            self.save()?;
            return Err(failure);
        }
        if let Some(made) = self.state.stacks.get_mut(name) {
            made.id = Identity::of(&self.runtime.stack(name));
        }
        self.save()
    }

    fn remove_stack(&mut self, name: &str) -> Result<(), Failure> {
        let path = self.runtime.stack(name);
        remote::end(&path, self.force).map_err(|refusal| {
            let users = remote::describe(&path).map(|shown| shown.users).unwrap_or_default();
            let views = users.iter().map(|user| format!("view {} (process {})", user.view, user.pid));
            let views: Vec<String> = views.collect();
            Failure::from(refusal).hint(format!("end {}, or say --force", views.join(", ")))
        })?;
        self.state.stacks.remove(name);
        self.save()
    }

    fn connect(&self, switch: &str) -> Result<Client, Failure> {
        crate::commands::switch::reach(self.runtime, switch)
    }

    fn call(&self, switch: &str, request: &Request) -> Result<(), Failure> {
        let answer: Result<(), CallError> = self.connect(switch)?.call(request);
        answer.map_err(|e| call_failed(&format!("cannot change the switch `{switch}`"), e))
    }
}

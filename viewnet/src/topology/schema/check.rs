//! What serde cannot see: whether the parts of a topology fit together.

mod port;

use std::collections::BTreeSet;
use std::path::Path;

use self::port::PortAt;
use super::{Gateway, MAX_THINGS, Program, Stack, Switch, Topology};
use crate::commands::gateway::{check_addresses, check_dhcp};
use crate::exit::Failure;
use crate::rules::Rules;
use crate::topology::place::{Problem, did_you_mean};
use ::switch::link::Link as PortLink;
use ::switch::stp::config::Config;
use stacks::config::{DEFAULT_SWITCH, Link};
use stacks::gateway::policy::MAX_RULES;

/// What a name may be.
pub(super) const NAME_HINT: &str = "use 1 to 32 letters, digits and `._-`";
/// Stacks that need no making, by name.
const OTHER_STACKS: [&str; 2] = ["host", "none"];

type Checked = Result<(), Problem>;

impl Topology {
    pub(super) fn check(&self, text: &str) -> Checked {
        let counts =
            [("switch", self.switches.len()), ("stack", self.stacks.len()), ("program", self.programs.len())];
        for (what, count) in counts {
            if count > MAX_THINGS {
                let why = format!("{count} of them; at most {MAX_THINGS}");
                return Err(Problem::of(text, &[what], why, "split the topology"));
            }
        }
        for (name, switch) in &self.switches {
            check_name(text, "switch", name)?;
            switch.check(text, &["switch", name])?;
            switch.port.keys().try_for_each(|port| self.check_port(text, name, port))?;
        }
        self.gateways.iter().try_for_each(|(name, gateway)| self.check_gateway(text, name, gateway))?;
        self.stacks.keys().try_for_each(|name| check_name(text, "stack", name))?;
        self.stacks.keys().try_for_each(|name| self.check_stack(text, name))?;
        self.programs.keys().try_for_each(|name| check_name(text, "program", name))?;
        self.programs.keys().try_for_each(|name| self.check_program(text, name))?;
        self.check_tunnels(text)?;
        self.order().map(|_| ()).map_err(|name| {
            let why = "it waits for itself, by way of others";
            Problem::of(text, &["program", &name, "after"], why, "take one of them out of the circle")
        })
    }

    fn check_stack(&self, text: &str, name: &str) -> Checked {
        let stack = &self.stacks[name];
        if let Err(why) = stack.config().checked() {
            return Err(Problem::of(
                text,
                &["stack", name],
                why.to_string(),
                "`viewnet run --help` shows how a stack is described",
            ));
        }
        if stack.restart == Some(crate::keeper::Restart::OnFailure)
            && stack.kind != Some(super::StackKind::Smol)
        {
            let hint = "leave it out, or add kind = \"smol\"";
            return Err(Problem::of(text, &["stack", name, "restart"], "a kernel stack does not fail", hint));
        }
        for (at, interface) in stack.interfaces.iter().enumerate() {
            let Some(plug) = interface.link.plug() else { continue };
            self.check_switch(text, plug.switch, &["stack", name, "interface", &at.to_string(), "link"])?;
        }
        if stack.publish.is_empty() { Ok(()) } else { self.check_published(text, stack, &["stack", name]) }
    }

    /// Is there a gateway that can publish ports of the stack, for whoever says so at `path`?
    fn check_published(&self, text: &str, stack: &Stack, path: &[&str; 2]) -> Checked {
        let own = |name: &str| self.switches.get(name).is_some_and(|switch| !switch.external);
        let may = |name: &str| self.gateways.contains_key(name) || !own(name);
        // That of a proxy has one.
        let goes_by_proxy = stack.interfaces.iter().any(|interface| matches!(interface.link, Link::Via(_)));
        if goes_by_proxy || stack.switches().any(may) {
            return Ok(());
        }
        let (why, hint) = match stack.switches().next() {
            None => ("it is plugged into no switch".to_owned(), "plug it into one that has a gateway".into()),
            Some(switch) => {
                (format!("the switch `{switch}` has no gateway"), format!("add [gateway.{switch}]"))
            }
        };
        Err(Problem::of(text, &[path[0], path[1], "publish"], why, hint))
    }

    /// Two tunnels of one file would take the peer from each other.
    fn check_tunnels(&self, text: &str) -> Checked {
        let mut seen: BTreeSet<&Path> = BTreeSet::new();
        let mut check = |file, path: &[&str]| {
            if seen.insert(file) {
                return Ok(());
            }
            let why = format!("`{}` is another's tunnel already", file.display());
            let hint = "make one stack of it, and say `stack = …` of all who use it";
            Err(Problem::of(text, path, why, hint))
        };
        for (name, stack) in &self.stacks {
            if let Some(file) = &stack.vpn {
                check(file.as_path(), &["stack", name, "vpn"])?;
            }
            for (at, interface) in stack.interfaces.iter().enumerate() {
                if let Link::Wg { path } = &interface.link {
                    check(Path::new(path), &["stack", name, "interface", &at.to_string(), "link"])?;
                }
            }
        }
        let of_programs = self.programs.iter().filter_map(|(name, it)| Some((name, it.vpn.as_ref()?)));
        of_programs.into_iter().try_for_each(|(name, file)| check(file.as_path(), &["program", name, "vpn"]))
    }

    /// Is there such a switch, for whoever names it at `path`?
    fn check_switch(&self, text: &str, switch: &str, path: &[&str]) -> Checked {
        if switch.contains('/') || switch == DEFAULT_SWITCH || self.switches.contains_key(switch) {
            return Ok(());
        }
        let why = format!("there is no switch `{switch}` in this file");
        let switches: Vec<&String> = self.switches.keys().collect();
        let mut hint = did_you_mean(switch, &switches);
        if !hint.starts_with("did") {
            hint = format!("add [switch.{switch}], with `external = true` if it is not this topology's own");
        }
        Err(Problem::of(text, path, why, hint))
    }

    /// What a port has to do with the rest of the file.
    fn check_port(&self, text: &str, switch: &str, name: &str) -> Checked {
        let port = &self.switches[switch].port[name];
        let at = |rest: &[&str], why: String, hint: String| {
            let path: Vec<&str> =
                ["switch", switch, "port", name].into_iter().chain(rest.iter().copied()).collect();
            Err(Problem::of(text, &path, why, hint))
        };
        match port.leads_to() {
            Some(PortLink::Switch { name: other, .. }) if other == switch => {
                let why = "it leads to its own switch".to_owned();
                return at(&["link"], why, "that would be a loop: name another".to_owned());
            }
            Some(PortLink::Switch { name: other, .. }) => {
                self.check_switch(text, &other, &["switch", switch, "port", name, "link"])?;
            }
            Some(_) => {}
            None if self.behind(switch, name).is_none() => {
                let hint =
                    "give one of `tap`, `nic` and `link`, or name it as a stack's interface, STACK.INTERFACE";
                return at(&[], "what is it?".into(), hint.into());
            }
            None if port.given_vlans().is_some() => {
                let why = "VLANs of a stack's port stand in the stack's link".to_owned();
                return at(&[], why, format!("write link = \"switch:{switch}[vlan 10]\" there"));
            }
            None => {}
        }
        if let Some(plug) = self.behind(switch, name).and_then(|(_, interface)| interface.link.plug()) {
            let path = ["switch", switch, "port", name];
            PortAt { text, path: &path, port }.check_pins(&plug.vlans())?;
        }
        let watched = port.mirror.iter().flat_map(|mirror| mirror.from.iter().flatten());
        let ports = &self.switches[switch].port;
        for from in watched {
            if !ports.contains_key(from) && self.behind(switch, from).is_none() {
                let known: Vec<&String> = ports.keys().collect();
                let hint = did_you_mean(from, &known);
                return at(&["mirror"], format!("there is no port `{from}` of {switch} in this file"), hint);
            }
        }
        Ok(())
    }

    fn check_gateway(&self, text: &str, name: &str, gateway: &Gateway) -> Checked {
        if name.contains('/') {
            let hint = "give the switch a name of its own, or start it with `viewnet gateway up`";
            return Err(Problem::of(text, &["gateway", name], "a path names no gateway", hint));
        }
        self.check_switch(text, name, &["gateway", name])?;
        let wrong = |failure: Failure, field| {
            let hint = failure.refusal.hint.unwrap_or_default();
            Problem::of(text, &["gateway", name, field], failure.refusal.why, hint)
        };
        if gateway.allow.len() + gateway.deny.len() > MAX_RULES {
            let why = format!("more than {MAX_RULES} destinations are allowed or denied");
            return Err(Problem::of(text, &["gateway", name], why, "write them as larger networks"));
        }
        check_addresses(&gateway.ip).map_err(|failure| wrong(failure, "ip"))?;
        check_dhcp(&gateway.dhcp.told(), &gateway.ip).map_err(|failure| wrong(failure, "dhcp"))
    }

    fn check_program(&self, text: &str, name: &str) -> Checked {
        let program = &self.programs[name];
        let at =
            |field, why: String, hint: String| Err(Problem::of(text, &["program", name, field], why, hint));
        self.check_place(text, name, program)?;
        if let Some(other) = program.after.iter().find(|other| !self.programs.contains_key(*other)) {
            let known: Vec<&String> = self.programs.keys().filter(|known| *known != name).collect();
            return at("after", format!("there is no program `{other}`"), did_you_mean(other, &known));
        }
        let bad = |text: &str| text.contains('\0');
        if program.command.words().iter().any(|word| bad(word)) {
            return at("command", "it has a NUL in it".into(), "take it out".into());
        }
        let variable =
            |(key, value): (&String, &String)| key.is_empty() || key.contains('=') || bad(key) || bad(value);
        if let Some((key, _)) = program.environment.iter().find(|pair| variable(*pair)) {
            return at("environment", format!("`{key}` is no variable"), "a name has no `=` in it".into());
        }
        match Rules::try_from(program.rules.clone()) {
            Err(error) => at("rules", format!("`{}`: {}", error.rule, error.why), error.hint),
            Ok(_) => Ok(()),
        }
    }

    /// Where a program runs, and what leads there.
    fn check_place(&self, text: &str, name: &str, program: &Program) -> Checked {
        let at = |field, why: String, hint: &str| {
            Err(Problem::of(text, &["program", name, field], why, hint.to_owned()))
        };
        let Some(stack) = &program.stack else {
            return match &program.vpn {
                None => {
                    Err(Problem::of(text, &["program", name], "where does it run?", "add `stack`, or `vpn`"))
                }
                Some(_) if self.stacks.contains_key(name) => {
                    let why = format!("its own stack would be called `{name}`, as another one is");
                    at("vpn", why, "give the program another name, or say `stack`")
                }
                Some(_) if !program.publish.is_empty() => {
                    at("publish", "it is plugged into no switch".into(), "leave it out")
                }
                Some(_) => Ok(()),
            };
        };
        if program.vpn.is_some() {
            let hint = "leave out one of them; `vpn` may stand in a stack, too";
            return at("vpn", "it has a stack already".into(), hint);
        }
        let known = self.stacks.get(stack);
        if !stack.contains('/') && !OTHER_STACKS.contains(&stack.as_str()) && known.is_none() {
            let known: Vec<&str> = self.stacks.keys().map(String::as_str).chain(OTHER_STACKS).collect();
            let why = format!("there is no stack `{stack}` in this file");
            return at("stack", why, &did_you_mean(stack, &known));
        }
        match known {
            _ if program.publish.is_empty() => Ok(()),
            Some(stack) => self.check_published(text, stack, &["program", name]),
            None if OTHER_STACKS.contains(&stack.as_str()) => {
                at("publish", format!("`{stack}` is no stack that ports could lead to"), "leave it out")
            }
            None => Ok(()),
        }
    }

    /// The programs in an order in which each comes after those it waits for; the error is one that waits for itself.
    pub(crate) fn order(&self) -> Result<Vec<String>, String> {
        let mut order: Vec<String> = Vec::new();
        let mut left: Vec<&String> = self.programs.keys().collect();
        while !left.is_empty() {
            let before = left.len();
            left.retain(|name| {
                // Those that are not in the topology are waited for by nobody.
                let after =
                    self.programs[*name].after.iter().filter(|other| self.programs.contains_key(*other));
                let ready = after.into_iter().all(|other| order.contains(other));
                if ready {
                    order.push((*name).clone());
                }
                !ready
            });
            if left.len() == before {
                return Err(left[0].clone());
            }
        }
        Ok(order)
    }
}

impl Switch {
    pub(super) fn check(&self, text: &str, path: &[&str]) -> Checked {
        let at = |rest: &[&str], why: String, hint: &str| {
            let path: Vec<&str> = path.iter().chain(rest).copied().collect();
            Err(Problem::of(text, &path, why, hint))
        };
        if self.external && *self != (Self { external: true, ..Self::default() }) {
            return at(
                &["external"],
                "nothing else is said about an external switch".into(),
                "leave out the rest",
            );
        }
        for (name, port) in &self.port {
            if !::switch::port::is_valid_name(name) {
                return at(
                    &["port", name],
                    format!("`{name}` is no name for a port"),
                    "use 1 to 64 printable characters without space",
                );
            }
            let path: Vec<&str> = path.iter().copied().chain(["port", name.as_str()]).collect();
            PortAt { text, path: &path, port }.check()?;
        }
        for (vid, vlan) in &self.vlan {
            if vlan.name.len() > 64 || vlan.name.chars().any(char::is_control) {
                let why = "that is no name for a VLAN".into();
                return at(&["vlan", &vid.0.to_string()], why, "a name is up to 64 printable bytes");
            }
            if vlan.rate.is_none() && (vlan.burst.is_some() || vlan.exceed.is_some()) {
                return at(&["vlan", &vid.0.to_string()], "it has no rate".into(), "add `rate`");
            }
        }
        if self.hub && self.tree().enabled == Some(true) {
            return at(&["hub"], "a hub has no spanning tree".into(), "leave out one of them");
        }
        let tree = self.stp.unwrap_or_default().told().apply(Config::default());
        match tree {
            Err(why) => at(&["stp"], why.to_string(), "change it, or leave it out"),
            Ok(_) => Ok(()),
        }
    }
}

fn check_name(text: &str, what: &str, name: &str) -> Checked {
    crate::runtime::check_name(what, name).map_err(|failure| {
        let why = format!("`{name}` is no name for a {what}: {}", failure.refusal.why);
        Problem::of(text, &[what, name], why, NAME_HINT)
    })
}

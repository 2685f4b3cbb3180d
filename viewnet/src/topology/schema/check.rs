//! What serde cannot see: whether the parts of a topology fit together.

use super::{MAX_THINGS, Switch, Topology};
use crate::rules::Rules;
use crate::topology::place::{Problem, did_you_mean};
use stacks::config::{DEFAULT_SWITCH, Link};

/// What a name may be.
pub(super) const NAME_HINT: &str = "use 1 to 32 letters, digits and `._-`";
/// Stacks that need no making, by name.
const OTHER_STACKS: [&str; 2] = ["host", "none"];

type Checked = Result<(), Problem>;

const ONE_KIND: &str = "give one of `access`, `trunk`, `hybrid`, `tunnel` and `service`";

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
        }
        self.stacks.keys().try_for_each(|name| check_name(text, "stack", name))?;
        self.stacks.keys().try_for_each(|name| self.check_stack(text, name))?;
        self.programs.keys().try_for_each(|name| check_name(text, "program", name))?;
        self.programs.keys().try_for_each(|name| self.check_program(text, name))?;
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
        let switches: Vec<&String> = self.switches.keys().collect();
        for (at, interface) in stack.interfaces.iter().enumerate() {
            let Link::Switch { name: switch, .. } = &interface.link else { continue };
            if switch.contains('/') || switch == DEFAULT_SWITCH || self.switches.contains_key(switch) {
                continue;
            }
            let why = format!("there is no switch `{switch}` in this file");
            let mut hint = did_you_mean(switch, &switches);
            if !hint.starts_with("did") {
                hint =
                    format!("add [switch.{switch}], with `external = true` if it is not this topology's own");
            }
            return Err(Problem::of(text, &["stack", name, "interface", &at.to_string(), "link"], why, hint));
        }
        Ok(())
    }

    fn check_program(&self, text: &str, name: &str) -> Checked {
        let program = &self.programs[name];
        let at =
            |field, why: String, hint: String| Err(Problem::of(text, &["program", name, field], why, hint));
        let stack = &program.stack;
        if !stack.contains('/') && !OTHER_STACKS.contains(&stack.as_str()) && !self.stacks.contains_key(stack)
        {
            let known: Vec<&str> = self.stacks.keys().map(String::as_str).chain(OTHER_STACKS).collect();
            return at(
                "stack",
                format!("there is no stack `{stack}` in this file"),
                did_you_mean(stack, &known),
            );
        }
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
            if !switch::port::is_valid_name(name) {
                return at(
                    &["port", name],
                    format!("`{name}` is no name for a port"),
                    "use 1 to 64 printable characters without space",
                );
            }
            if port.tap.is_some() == port.nic.is_some() {
                return at(&["port", name], "what is it?".into(), "give either `tap` or `nic`");
            }
            if port.access.is_some() && port.trunk.is_some() {
                return at(
                    &["port", name, "trunk"],
                    "it is an access port".into(),
                    "give either `access` or `trunk`",
                );
            }
            if port.modes() > 1 {
                return at(&["port", name], "it cannot be two kinds of port".into(), ONE_KIND);
            }
            if port.native.is_some() && port.trunk.is_none() && port.service.is_none() {
                return at(
                    &["port", name, "native"],
                    "only a trunk has a native VLAN".into(),
                    "add `trunk`, or say `access` in place of `native`",
                );
            }
            let (untagged, pvid) = (port.untagged.is_some(), port.pvid.is_some());
            if (untagged || pvid) && port.hybrid.is_none() {
                let key = if untagged { "untagged" } else { "pvid" };
                return at(&["port", name, key], "only a hybrid port has it".into(), "add `hybrid`");
            }
            if port.plain && port.tap.is_none() {
                return at(&["port", name, "plain"], "only a TAP can be plain".into(), "leave it out");
            }
        }
        if let Some((vid, _)) =
            self.vlan.iter().find(|(_, name)| name.len() > 64 || name.chars().any(char::is_control))
        {
            return at(
                &["vlan", &vid.0.to_string()],
                "that is no name for a VLAN".into(),
                "a name is up to 64 printable bytes",
            );
        }
        Ok(())
    }
}

fn check_name(text: &str, what: &str, name: &str) -> Checked {
    crate::runtime::check_name(what, name).map_err(|failure| {
        let why = format!("`{name}` is no name for a {what}: {}", failure.refusal.why);
        Problem::of(text, &[what, name], why, NAME_HINT)
    })
}

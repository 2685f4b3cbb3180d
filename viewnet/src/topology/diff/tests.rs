//! Differences between small topologies, and that doing them arrives where it should.

use proptest::prelude::*;

use super::*;

fn topology(text: &str) -> Topology {
    Topology::parse(text, "lab").unwrap_or_else(|problem| panic!("{problem} in {text}")).1
}

const LAB: &str = "
[switch.lan]
age = 60
vlan.10 = 'office'
port.up0 = { nic = 'veth1', trunk = '10,20' }
[switch.core]
external = true
[stack.web]
kind = 'smol'
interface = [{ name = 'eth0', link = 'switch:lan[vlan 10]' }, { name = 'eth1', link = 'switch:core' }]
[program.httpd]
stack = 'web'
command = ['httpd']
[program.check]
stack = 'host'
command = 'curl x'
after = ['httpd']
";

/// A machine in memory: does steps as the real one would.
fn perform(current: &mut Current, steps: &[Step]) {
    for step in steps {
        match step.clone() {
            Step::StopPrograms(names) => {
                for name in names {
                    assert!(current.programs.remove(&name).is_some(), "{name} does not run");
                }
            }
            Step::StartPrograms(programs) => {
                for (name, program) in programs {
                    let stack = program.stack.as_deref().unwrap_or("none");
                    let other = ["host", "none"].contains(&stack);
                    assert!(other || current.stacks.contains_key(stack), "{name} has no stack");
                    for before in &program.after {
                        assert!(current.programs.contains_key(before), "{name} starts before {before}");
                    }
                    assert!(current.programs.insert(name, program).is_none());
                }
            }
            Step::AddSwitch(name, switch) => {
                let bare = Switch { port: BTreeMap::new(), ..*switch };
                assert!(current.switches.insert(name, bare).is_none());
            }
            Step::ChangeSwitch(name, both) => {
                let now = current.switches.get_mut(&name).expect("a switch to change");
                *now = Switch { port: std::mem::take(&mut now.port), ..both.1 };
            }
            Step::RemoveSwitch(name) => {
                assert!(current.switches.remove(&name).is_some());
                let plugged = |stack: &CurrentStack| stack.ports.values().any(|(switch, ..)| *switch == name);
                for stack in current.stacks.values_mut().filter(|stack| plugged(stack)) {
                    stack.broken = Some("it lost a link".into());
                }
            }
            Step::AddPort(switch, name, port) => {
                let ports = &mut current.switches.get_mut(&switch).expect("a switch").port;
                assert!(ports.insert(name, *port).is_none());
            }
            Step::RemovePort(switch, name) => {
                let ports = &mut current.switches.get_mut(&switch).expect("a switch").port;
                assert!(ports.remove(&name).is_some());
            }
            Step::SetVlans(switch, port, vlans) => set_vlans(current, &switch, &port, &vlans),
            Step::SetPort(switch, name, both) => set_port(current, &switch, name, both.1),
            step => perform_networks(current, step),
        }
    }
}

/// Steps about gateways and stacks.
fn perform_networks(current: &mut Current, step: Step) {
    match step {
        Step::AddGateway(name, gateway) => {
            assert!(current.switches.contains_key(&name) || name == "core");
            assert!(current.gateways.insert(name, *gateway).is_none());
        }
        Step::ChangeGateway(name, both) => {
            assert!(current.gateways.insert(name, both.1).is_some());
        }
        Step::RemoveGateway(name) => {
            assert!(current.gateways.remove(&name).is_some());
            let inside = |stack: &CurrentStack| stack.made.switches().any(|switch| switch == name);
            let stacks = current.stacks.values_mut().filter(|stack| inside(stack));
            stacks.for_each(|stack| stack.made.publish.clear());
        }
        Step::AddStack(name, mut stack) => {
            // It is published by a step of its own.
            stack.publish.clear();
            assert!(current.stacks.insert(name.clone(), made(&name, &stack)).is_none());
        }
        Step::SetFilter(name, filter) => current.stacks.get_mut(&name).expect("a stack").made.filter = filter,
        Step::Publish(name, ports) => {
            let stack = current.stacks.get_mut(&name).expect("a stack to publish");
            let published = stack.made.switches().any(|switch| current.gateways.contains_key(switch));
            assert!(published, "{name} has no gateway");
            let open = &mut stack.made.publish;
            assert!(!ports.iter().any(|one| open.contains(one)), "{name} has them already");
            open.extend(ports);
            open.sort_by_key(ToString::to_string);
        }
        Step::Unpublish(name, ports) => {
            let stack = current.stacks.get_mut(&name).expect("a stack to publish no more");
            stack.made.publish.retain(|one| !ports.contains(one));
        }
        Step::NoteStack(name, stack) => {
            let made = &mut current.stacks.get_mut(&name).expect("a stack").made;
            *made = Stack { publish: std::mem::take(&mut made.publish), ..*stack };
        }
        Step::RemoveStack(name) => {
            let users = current.programs.values().filter(|program| program.stack.as_ref() == Some(&name));
            assert_eq!(users.count(), 0, "{name} is in use");
            let stack = current.stacks.remove(&name).expect("a stack");
            for (switch, port, _) in stack.ports.values() {
                current.switches.get_mut(switch).map(|switch| switch.port.remove(port));
            }
        }
        other => panic!("{other:?} is not about them"),
    }
}

fn set_vlans(current: &mut Current, switch: &str, port: &str, vlans: &PortVlans) {
    if let Some(own) = current.switches.get_mut(switch).and_then(|switch| switch.port.get_mut(port)) {
        *own = own.with_vlans(vlans);
    }
    let places = current.stacks.values_mut().flat_map(|stack| stack.ports.values_mut());
    places
        .filter(|place| (place.0.as_str(), place.1.as_str()) == (switch, port))
        .for_each(|place| place.2 = vlans.clone());
}

/// Settings of a port, which goes from the books if it is not in the file.
fn set_port(current: &mut Current, switch: &str, name: String, wanted: Option<Port>) {
    let ports = &mut current.switches.get_mut(switch).expect("a switch").port;
    match wanted {
        Some(wanted) if wanted.leads_to().is_some() => {
            let port = ports.get_mut(&name).expect("a port to change");
            *port = port.with_settings(wanted.settings());
        }
        Some(wanted) => {
            let mut plugged = current.stacks.values().flat_map(|stack| stack.ports.values());
            assert!(plugged.any(|place| place.1 == name), "{name} is not plugged in");
            ports.insert(name, wanted);
        }
        None => assert!(ports.remove(&name).is_some()),
    }
}

fn go(current: &mut Current, wanted: &Topology) {
    let plan = plan(wanted, current);
    perform(current, &plan.steps);
}

fn made(name: &str, stack: &Stack) -> CurrentStack {
    let mut ports = BTreeMap::new();
    for interface in &stack.interfaces {
        if let Some(plug) = interface.link.plug() {
            let port = format!("{name}.{}", interface.name);
            ports.insert(interface.name.clone(), (plug.switch.to_owned(), port, plug.vlans()));
        }
    }
    CurrentStack { made: stack.clone(), broken: None, ports }
}

fn lines(plan: &Plan) -> Vec<String> {
    let line = |change: &Change| format!("{} {}: {}", change.sign.symbol(), change.thing, change.detail);
    plan.changes.iter().map(line).collect()
}

/// The machine after LAB.
fn lab() -> (Topology, Current) {
    let (wanted, mut current) = (topology(LAB), Current::default());
    go(&mut current, &wanted);
    (wanted, current)
}

#[test]
fn from_nothing_and_again() {
    let wanted = topology(LAB);
    let expected = [
        "+ switch lan: age 60 s, VLAN 10 office",
        "+ port lan/up0: nic veth1, trunk 10,20",
        "+ stack web: smol, eth0 switch:lan[vlan 10], eth1 switch:core",
        "+ program httpd: in web: httpd",
        "+ program check: in host: curl x",
    ];
    assert_eq!(lines(&plan(&wanted, &Current::default())), expected);
    assert_eq!(plan(&wanted, &lab().1), Plan::default());
}

#[test]
fn only_what_changed() {
    let (_, current) = lab();
    let table: [(&str, &str, &[&str]); 7] = [
        ("age = 60", "age = 61", &["~ switch lan: age 61 s"]),
        ("'office'", "'lab'", &["~ switch lan: VLAN 10 lab"]),
        ("'10,20'", "'10,30'", &["~ port lan/up0: trunk 10,20 → trunk 10,30"]),
        ("'veth1'", "'veth2'", &["~ port lan/up0: now nic veth2, trunk 10,20"]),
        ("[vlan 10]", "[vlan 20]", &["~ stack web: eth0: access 10 → access 20"]),
        (
            "'smol'",
            "'kernel'",
            &["~ stack web: made anew: other kind", "~ program httpd: started again: its stack web is new"],
        ),
        ("'curl x'", "'curl y'", &["~ program check: started again: other command"]),
    ];
    for (from, to, expected) in table {
        let text = LAB.replace(from, to);
        assert_eq!(lines(&plan(&topology(&text), &current)), expected);
    }
}

#[test]
fn what_was_lost_is_made_again() {
    let (wanted, mut current) = lab();
    current.switches.clear();
    let expected = [
        "+ switch lan: age 60 s, VLAN 10 office",
        "+ port lan/up0: nic veth1, trunk 10,20",
        "~ stack web: made anew: its switch lan is new",
        "~ program httpd: started again: its stack web is new",
    ];
    let plan = plan(&wanted, &current);
    assert_eq!(lines(&plan), expected);
    perform(&mut current, &plan.steps);
}

#[test]
fn down_is_up_to_nothing() {
    let (_, mut current) = lab();
    let plan = plan(&Topology::default(), &current);
    assert_eq!(plan.steps[0], Step::StopPrograms(vec!["check".into(), "httpd".into()]));
    perform(&mut current, &plan.steps);
    assert_eq!(current, Current::default());
}

/// A file with a few of a few things.
fn any_topology() -> impl Strategy<Value = Topology> {
    let switch = (any::<bool>(), 1u64..3, 0u16..3, 0u16..3).prop_map(|(there, age, vlan, port)| {
        let vlan = if vlan == 0 { String::new() } else { format!("vlan.{vlan} = 'v'\n") };
        let port = if port == 0 {
            String::new()
        } else {
            let promise = format!(", qos.rate = '1M', reserve.{port} = '100k'");
            let more = ["", ", guard.macs = 2", &promise][age as usize];
            format!("port.p = {{ tap = 't{}', access = {port}{more} }}\n", port / 2)
        };
        (there, format!("age = {age}\n{vlan}{port}"))
    });
    let stack = (any::<bool>(), 0usize..3, 0u16..3, any::<bool>());
    let program = (any::<bool>(), 0usize..3, 0u8..2);
    (prop::array::uniform2(switch), prop::array::uniform2(stack), prop::array::uniform3(program)).prop_map(
        |(switches, stacks, programs)| {
            let mut text = String::new();
            for (at, (_, body)) in switches.iter().enumerate().filter(|(_, (there, _))| *there) {
                text += &format!("[switch.s{at}]\n{body}");
            }
            for (at, (_, switch, vlan, smol)) in stacks.iter().enumerate().filter(|(_, stack)| stack.0) {
                let mut more = "";
                if *smol && switches.get(*switch).is_some_and(|(there, _)| *there) {
                    text += &format!("[switch.s{switch}.port.'n{at}.eth0']\nimpair.in = 'loss {vlan}%'\n");
                    if at == 0 {
                        let dns64 = ["auto", "always", "never"][usize::from(*vlan)];
                        text += &format!("[gateway.s{switch}]\nisolate = {}\ndns64 = '{dns64}'\n", *vlan == 1);
                        more = ["", "publish = ['8000:80']\n", "publish = ['8000:80', '9000:90', 'auto']\n"]
                            [usize::from(*vlan)];
                    }
                }
                let kind = if *smol { "smol" } else { "kernel" };
                let link = match switches.get(*switch) {
                    Some((true, _)) => format!("switch:s{switch}[vlan {}]", vlan + 1),
                    _ => "none".into(),
                };
                text += &format!(
                    "[stack.n{at}]\nkind = '{kind}'\n{more}interface = [{{ name = 'eth0', link = '{link}' }}]\n"
                );
            }
            for (at, (_, stack, command)) in programs.iter().enumerate().filter(|(_, program)| program.0) {
                let stack = match stacks.get(*stack) {
                    Some((true, ..)) => format!("n{stack}"),
                    _ => "host".into(),
                };
                let after = if at > 0 && programs[at - 1].0 {
                    format!("after = ['p{}']\n", at - 1)
                } else {
                    String::new()
                };
                text += &format!("[program.p{at}]\nstack = '{stack}'\ncommand = ['c{command}']\n{after}");
            }
            topology(&text)
        },
    )
}

proptest! {
    #[test]
    fn every_way_leads_there(ways in prop::collection::vec(any_topology(), 1..6)) {
        let mut current = Current::default();
        for wanted in &ways {
            go(&mut current, wanted);
            prop_assert_eq!(plan(wanted, &current), Plan::default());
        }
        go(&mut current, &Topology::default());
        prop_assert_eq!(current, Current::default());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]a-z=.'{} 0-9\n]{0,80}") {
        let _ = Topology::parse(&text, "lab");
    }
}

//! Takes a switch, and its ports, from what they are to what they shall be, request by request.
//!
//! Nothing is asked for that is so already. Of a port's settings those that others lean on go first: promises are
//! taken back before a rate is changed, and given again after it.

use msocket_proto::line::CallError;
use switch::client::traffic::{GuardSet, MacAdd, MacRm, PortOpen, QosSet, ReserveAdd, ReserveRm, VlanSet};
use switch::client::{self, Client, Request, Settings, StpPortChange};
use switch::control::Vde;
use switch::impair::Spec;
use switch::stp::config::PortConfig;
use switch::vlan::Vid;

use super::schema::settings::{Impair, Pin};
use super::schema::{Age, Mode, Port, Switch, Vlan};
use crate::exit::{Failure, call_failed};

/// Changes all of a switch but its ports. `name` is for messages.
pub(crate) fn change_switch(
    client: &mut Client,
    name: &str,
    now: &Switch,
    wanted: &Switch,
) -> Result<(), Failure> {
    let what = format!("cannot change the switch `{name}`");
    let mut ask = |request: &Request| -> Result<(), Failure> {
        let answer: Result<(), CallError> = client.call(request);
        answer.map_err(|e| call_failed(&what, e))
    };
    let settings = settings(now, wanted)?;
    let settings = (settings != Settings::default()).then_some(Request::Set(settings));
    let tree = (now.tree() != wanted.tree()).then(|| Request::StpSet(wanted.tree().told()));
    // A hub has no spanning tree: whichever goes, goes first.
    let steps = if wanted.hub { [tree, settings] } else { [settings, tree] };
    steps.iter().flatten().try_for_each(&mut ask)?;
    let plain = Vlan::default();
    let gone = now.vlan.keys().filter(|key| !wanted.vlan.contains_key(key)).map(|key| (key, &plain));
    for (key, shall) in wanted.vlan.iter().chain(gone) {
        let is = now.vlan.get(key);
        // One that goes loses its name only: ports may be in it.
        if is.is_none_or(|is| is.name != shall.name) {
            ask(&Request::VlanAdd { vid: key.0, name: shall.name.clone() })?;
        }
        if is.and_then(Vlan::police) != shall.police() {
            ask(&Request::VlanSet(VlanSet { vid: key.0, police: shall.police() }))?;
        }
    }
    Ok(())
}

fn settings(now: &Switch, wanted: &Switch) -> Result<Settings, Failure> {
    let (is, shall) = (now.age.unwrap_or(Age::DEFAULT), wanted.age.unwrap_or(Age::DEFAULT));
    let nowhere = Vde { path: None, mode: 0o600, group: None };
    Ok(Settings {
        age_s: (is != shall).then_some(shall.seconds()),
        hub: (now.hub != wanted.hub).then_some(wanted.hub),
        metrics: (now.metrics != wanted.metrics)
            .then(|| wanted.metrics.clone().unwrap_or_else(|| "off".into())),
        vde: match &wanted.vde {
            _ if now.vde == wanted.vde => None,
            Some(vde) => Some(vde.told()?),
            None => Some(nowhere),
        },
        mode: (now.mode != wanted.mode).then_some(wanted.mode.unwrap_or(Mode(0o600)).0),
        group: (now.group != wanted.group).then(|| wanted.group.clone().unwrap_or_default()),
        mgmt: (now.mgmt != wanted.mgmt).then(|| wanted.mgmt.clone().unwrap_or_default()),
    })
}

/// Changes the settings of the port that the switch calls `name`.
pub(crate) fn change_port(client: &mut Client, name: &str, now: &Port, wanted: &Port) -> Result<(), Failure> {
    let what = format!("cannot change port {name}");
    for request in requests(name, now, wanted) {
        let answer: Result<(), CallError> = client.call(&request);
        answer.map_err(|e| call_failed(&what, e))?;
    }
    Ok(())
}

fn requests(name: &str, now: &Port, wanted: &Port) -> Vec<Request> {
    let (is, shall) = (now.settings(), wanted.settings());
    let port = || name.to_owned();
    let mut list = Vec::new();
    let kept = |vlan| is.reserve.get(vlan) == shall.reserve.get(vlan);
    let back = is.reserve.keys().filter(|vlan| !kept(vlan));
    list.extend(back.map(|vlan| Request::ReserveRm(ReserveRm { port: port(), vid: vlan.0 })));
    if is.qos != shall.qos {
        list.push(Request::QosSet(QosSet { port: port(), qos: shall.qos.told() }));
    }
    for (vlan, reserve) in shall.reserve.iter().filter(|(vlan, _)| !kept(vlan)) {
        let reservation = reserve.told(vlan.0);
        list.push(Request::ReserveAdd(ReserveAdd { port: port(), reservation }));
    }
    let gone = is.pin.iter().filter(|pin| !shall.pin.contains(pin));
    list.extend(gone.map(|pin| Request::MacRm(MacRm { vid: vid(now, pin), mac: pin.mac })));
    if is.guard != shall.guard {
        list.push(Request::GuardSet(GuardSet { port: port(), guard: shall.guard.told() }));
    }
    let come = shall.pin.iter().filter(|pin| !is.pin.contains(pin));
    list.extend(
        come.map(|pin| Request::MacAdd(MacAdd { vid: vid(wanted, pin), mac: pin.mac, port: port() })),
    );
    let usual = wanted.usual_tree();
    let change = tree_change(is.stp.told(usual), shall.stp.told(usual));
    if change != StpPortChange::default() {
        list.push(Request::StpPortSet { port: port(), change });
    }
    if is.impair != shall.impair {
        list.push(Request::Impair(impair_change(port(), &is.impair, &shall.impair)));
    }
    match &shall.mirror {
        mirror if *mirror == is.mirror => {}
        Some(mirror) => list.push(Request::MirrorAdd(mirror.told(name))),
        None => list.push(Request::MirrorRm { to: port() }),
    }
    if is.shut != shall.shut {
        list.push(Request::PortOpen(PortOpen { port: port(), open: !shall.shut }));
    }
    list
}

/// The VLAN of a pinned station.
fn vid(port: &Port, pin: &Pin) -> Vid {
    pin.vid.or_else(|| port.usual_vid()).unwrap_or(Vid::DEFAULT)
}

/// Only what differs: to set the guard opens a port that it has shut.
fn tree_change(is: PortConfig, shall: PortConfig) -> StpPortChange {
    StpPortChange {
        cost: (is.cost != shall.cost).then_some(shall.cost.unwrap_or(0)),
        priority: (is.priority != shall.priority).then_some(shall.priority),
        edge: (is.edge != shall.edge).then_some(shall.edge),
        point_to_point: (is.point_to_point != shall.point_to_point).then_some(shall.point_to_point),
        bpdu_guard: (is.bpdu_guard != shall.bpdu_guard).then_some(shall.bpdu_guard),
        root_guard: (is.root_guard != shall.root_guard).then_some(shall.root_guard),
        migrate: false,
    }
}

fn impair_change(port: String, is: &Impair, shall: &Impair) -> client::Impair {
    let way =
        |is: &Option<Spec>, shall: &Option<Spec>| (is != shall).then(|| shall.clone().unwrap_or_default());
    client::Impair {
        port,
        ingress: way(&is.ingress, &shall.ingress),
        egress: way(&is.egress, &shall.egress),
        seed: if is.seed == shall.seed { None } else { shall.seed },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::schema::Topology;

    fn port(words: &str) -> Port {
        let text =
            format!("[switch.lan]\nport.up = {{ tap = 'tap0', trunk = '10,20', native = 10, {words} }}");
        let (_, topology) = Topology::parse(&text, "lab").unwrap_or_else(|problem| panic!("{problem}"));
        topology.switches["lan"].port["up"].clone()
    }

    fn ops(now: &str, wanted: &str) -> Vec<String> {
        let op = |request: &Request| {
            let value = serde_json::to_value(request).unwrap();
            value["op"].as_str().unwrap().to_owned()
        };
        requests("up", &port(now), &port(wanted)).iter().map(op).collect()
    }

    #[test]
    fn promises_make_way_for_rates() {
        let (slow, fast) = ("qos.rate = '10M', reserve.10 = '5M'", "qos.rate = '100M', reserve.10 = '50M'");
        assert_eq!(ops("", slow), ["qos_set", "reserve_add"]);
        assert_eq!(ops(slow, fast), ["reserve_rm", "qos_set", "reserve_add"]);
        assert_eq!(ops(fast, ""), ["reserve_rm", "qos_set"]);
        assert!(ops(fast, fast).is_empty());
    }

    #[test]
    fn only_what_differs_is_asked_for() {
        let all = "shut = true, pin = ['02:00:00:00:00:01'], guard.macs = 4, stp.cost = 7, impair.in = 'loss 1%', \
                   mirror = 'all'";
        let expected = ["guard_set", "mac_add", "stp_port_set", "impair", "mirror_add", "port_open"];
        assert_eq!(ops("", all), expected);
        assert_eq!(ops(all, ""), ["mac_rm", "guard_set", "stp_port_set", "impair", "mirror_rm", "port_open"]);
        // As by default, and so said at length.
        assert!(
            ops("", "stp.edge = 'auto', qos.trust = true, impair.in = 'none', guard.violation = 'drop'")
                .is_empty()
        );
        assert!(ops("pin = ['02:00:00:00:00:01']", "pin = ['02:00:00:00:00:01 vlan 10']").is_empty());
    }
}

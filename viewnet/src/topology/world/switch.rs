//! A switch as it is now, in the words of its file: what it says itself, else what it was told.

use msocket_proto::line::CallError;
use switch::client::traffic::{GuardInfo, PortQos, QosInfo, ReserveInfo};
use switch::client::{
    Client, Impairment, LineInfo, MacFilter, MirrorInfo, PortInfo, Show, StpTree, VlanInfo,
};
use switch::guard::{GuardRules, Shut};
use switch::link::Link;
use switch::stp::config::PortConfig;

use crate::topology::schema::settings::{Guard, Impair, Mirror, Pin, PortTree, Qos, Reserve};
use crate::topology::schema::{Age, Place, Port, PortSettings, Switch, Tree, Vlan, VlanKey};

/// All that a switch says of its ports.
struct Told {
    ports: Vec<PortInfo>,
    qos: Vec<QosInfo>,
    guards: Vec<GuardInfo>,
    reservations: Vec<ReserveInfo>,
    impairments: Vec<Impairment>,
    mirrors: Vec<MirrorInfo>,
    tree: StpTree,
}

/// The switch, of which `made` is what it was told; and all its ports.
pub(super) fn look_at(client: &mut Client, made: &Switch) -> Result<(Switch, Vec<PortInfo>), CallError> {
    let told = Told {
        ports: client.ports()?,
        qos: client.qos()?,
        guards: client.guards()?,
        reservations: client.reservations()?,
        impairments: client.impairments()?,
        mirrors: client.mirrors()?,
        tree: client.stp()?,
    };
    let (show, vlans) = (client.show()?, client.vlans()?);
    let mut now = settings(&show, &vlans, &told.tree, made);
    for (name, port) in &made.port {
        if let Some((info, found)) = told.find(name, port) {
            let mut found = found.with_settings(told.settings(info, &found));
            // Stations pinned by hand stay as they are.
            if !port.pin.is_empty() {
                let filter = MacFilter { vid: None, port: Some(info.name.clone()) };
                let stations = client.stations(filter)?;
                let pinned = stations.iter().filter(|station| station.pinned);
                found.pin = pinned.map(|station| Pin { mac: station.mac, vid: Some(station.vid) }).collect();
            }
            now.port.insert(name.clone(), found);
        }
    }
    Ok((now, told.ports))
}

/// All but the ports.
fn settings(show: &Show, vlans: &[VlanInfo], tree: &StpTree, made: &Switch) -> Switch {
    let mut now = Switch { port: Default::default(), ..made.clone() };
    now.mgmt = show.mgmt.clone();
    now.hub = show.hub;
    now.metrics = show.metrics.clone();
    now.vde = made.vde.clone().filter(|vde| show.vde.as_ref() == Some(&vde.path));
    now.stp = Some(Tree::of(tree));
    let age = Age::try_from(show.age_s).ok();
    if age != Some(now.age.unwrap_or(Age::DEFAULT)) {
        now.age = age;
    }
    let vlan = |key: &VlanKey| {
        let info = vlans.iter().find(|vlan| vlan.vid == key.0)?;
        Some((*key, Vlan::of(info.name.clone(), info.police)))
    };
    now.vlan = made.vlan.keys().filter_map(vlan).collect();
    now
}

impl Told {
    /// The port that the file calls `name`, with its VLANs as they are.
    fn find(&self, name: &str, made: &Port) -> Option<(&PortInfo, Port)> {
        if made.leads_to().is_none() {
            let info = self.ports.iter().find(|port| super::is_port_of(&port.name, name))?;
            return Some((info, made.clone()));
        }
        let info = self.ports.iter().find(|port| port.name == name)?;
        let mut found = made.with_vlans(&info.vlans);
        // The flood list may have been changed since.
        if let (Some(Place(Link::Vxlan { config, .. })), Some(now)) = (&mut found.link, &info.vxlan) {
            config.peers.clone_from(&now.peers);
        }
        Some((info, found))
    }

    fn settings(&self, info: &PortInfo, made: &Port) -> PortSettings {
        let name = &info.name;
        let qos = self.qos.iter().find(|qos| qos.port == *name).map(|qos| qos.qos.clone());
        let guard = self.guards.iter().find(|guard| guard.port == *name).map(|guard| guard.guard);
        let reserved = self.reservations.iter().filter(|reserved| reserved.port == *name);
        let mirror = self.mirrors.iter().find(|mirror| mirror.rule.to == *name);
        let usual = made.usual_tree();
        let tree = self.tree.ports.iter().find(|port| port.name == *name).map_or(usual, |port| PortConfig {
            cost: port.told_cost,
            priority: port.priority,
            edge: port.edge,
            point_to_point: port.point_to_point,
            bpdu_guard: port.bpdu_guard,
            root_guard: port.root_guard,
        });
        PortSettings {
            // What shut itself is for its owner to look at.
            shut: info.shut == Some(Shut::Admin),
            pin: Vec::new(),
            qos: Qos::of(&qos.unwrap_or_else(PortQos::default)),
            reserve: reserved
                .map(|info| (VlanKey(info.reservation.vid), Reserve::of(&info.reservation)))
                .collect(),
            guard: Guard::of(&guard.unwrap_or_else(GuardRules::default)),
            stp: PortTree::of(tree, usual),
            impair: self.impair(name, &made.impair),
            mirror: mirror.map(|mirror| Mirror::of(&mirror.rule)),
        }
    }

    fn impair(&self, name: &str, made: &Impair) -> Impair {
        let Some(found) = self.impairments.iter().find(|found| found.port == name) else {
            return Impair::default();
        };
        let spec = |line: &Option<LineInfo>| line.as_ref().map(|line| line.spec.clone());
        // Where nobody said where chance begins, the switch did.
        let seed = made.seed.map(|_| found.seed);
        Impair { ingress: spec(&found.ingress), egress: spec(&found.egress), seed }
    }
}

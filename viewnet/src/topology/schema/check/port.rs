//! Whether what is said of a port fits together; what the switch would refuse is refused here, by the same code.

use switch::fdb::MAX_ENTRIES_PER_PORT;
use switch::impair::Spec;
use switch::link::Link;
use switch::qos::priority::PCPS;
use switch::qos::queues::PortQueues;
use switch::stp::config::PortChange;
use switch::vlan::PortVlans;

use super::Checked;
use crate::topology::place::Problem;
use crate::topology::schema::Port;

const ONE_KIND: &str = "give one of `access`, `trunk`, `hybrid`, `tunnel` and `service`";

/// A port in the text of its file.
pub(super) struct PortAt<'a> {
    pub(super) text: &'a str,
    /// Keys that lead to it.
    pub(super) path: &'a [&'a str],
    pub(super) port: &'a Port,
}

impl PortAt<'_> {
    fn at(&self, rest: &[&str], why: impl Into<String>, hint: impl Into<String>) -> Checked {
        let path: Vec<&str> = self.path.iter().chain(rest).copied().collect();
        Err(Problem::of(self.text, &path, why, hint))
    }

    /// What it is, apart from whether it is that of a stack.
    pub(super) fn check(&self) -> Checked {
        let Port { tap, nic, link, plain, .. } = self.port;
        if [tap.is_some(), nic.is_some(), link.is_some()].into_iter().filter(|given| *given).count() > 1 {
            return self.at(&[], "it leads to two places", "give one of `tap`, `nic` and `link`");
        }
        let is_tap = matches!(self.port.leads_to(), Some(Link::Tap(_)));
        if *plain && !is_tap {
            return self.at(&["plain"], "only a TAP can be plain", "leave it out");
        }
        self.check_vlans()?;
        self.check_qos()?;
        self.check_limits()?;
        if self.port.leads_to().is_some() {
            self.check_pins(&self.port.vlans())?;
        }
        self.check_rest()
    }

    fn check_vlans(&self) -> Checked {
        let port = self.port;
        if port.access.is_some() && port.trunk.is_some() {
            return self.at(&["trunk"], "it is an access port", "give either `access` or `trunk`");
        }
        if port.modes() > 1 {
            return self.at(&[], "it cannot be two kinds of port", ONE_KIND);
        }
        if port.native.is_some() && port.trunk.is_none() && port.service.is_none() {
            let hint = "add `trunk`, or say `access` in place of `native`";
            return self.at(&["native"], "only a trunk has a native VLAN", hint);
        }
        let (untagged, pvid) = (port.untagged.is_some(), port.pvid.is_some());
        if (untagged || pvid) && port.hybrid.is_none() {
            let key = if untagged { "untagged" } else { "pvid" };
            return self.at(&[key], "only a hybrid port has it", "add `hybrid`");
        }
        Ok(())
    }

    fn check_qos(&self) -> Checked {
        let (qos, told) = (&self.port.qos, self.port.qos.told());
        if usize::from(told.priority.default_pcp) >= PCPS {
            return self.at(&["qos", "default-pcp"], "that is no priority", "a priority is 0 to 7");
        }
        if qos.police.is_none() && (qos.police_burst.is_some() || qos.exceed.is_some()) {
            let key = if qos.exceed.is_some() { "exceed" } else { "police-burst" };
            return self.at(&["qos", key], "arriving frames have no rate", "add `police`");
        }
        let leaving =
            [qos.burst.is_some(), qos.map.is_some(), qos.queue_bytes.is_some(), qos.reservable.is_some()];
        let Some(shape) = told.shape else {
            if leaving.contains(&true) {
                return self.at(&["qos"], "it has neither a rate nor classes", "add `rate` or `classes`");
            }
            let Some(vlan) = self.port.reserve.keys().next() else { return Ok(()) };
            let why = "the port has no rate of which a part could be reserved";
            return self.at(&["reserve", &String::from(*vlan)], why, "add `qos.rate`");
        };
        let mut queues = match PortQueues::new(shape) {
            Ok(queues) => queues,
            Err(why) => return self.at(&["qos"], why.to_string(), "change what it names"),
        };
        for (vlan, reserve) in &self.port.reserve {
            if let Err(why) = queues.reserve(reserve.told(vlan.0)) {
                let hint = "promise less, or raise `qos.rate` or `qos.reservable`";
                return self.at(&["reserve", &String::from(*vlan)], why.to_string(), hint);
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Checked {
        if self.port.guard.macs.is_some_and(|limit| !(1..=MAX_ENTRIES_PER_PORT).contains(&limit)) {
            let hint = format!("the limit is 1 to {MAX_ENTRIES_PER_PORT}");
            return self.at(&["guard", "macs"], "that is no number of stations", hint);
        }
        let tree = self.port.stp;
        let change = PortChange { cost: tree.cost, priority: tree.priority, ..PortChange::default() };
        if let Err(why) = change.apply(self.port.usual_tree()) {
            let key =
                if tree.priority.is_some_and(|priority| priority % 16 != 0) { "priority" } else { "cost" };
            return self.at(&["stp", key], why.to_string(), "change it, or leave it out");
        }
        Ok(())
    }

    /// Whether pinned stations are in VLANs of the port, which are these.
    pub(super) fn check_pins(&self, vlans: &PortVlans) -> Checked {
        for (at, pin) in self.port.pin.iter().enumerate() {
            let vid = pin.vid.or_else(|| self.port.usual_vid());
            let why = match vid {
                Some(vid) if vlans.carries(vid) => continue,
                Some(vid) => format!("the port does not carry VLAN {vid}"),
                None => "frames without tag have no VLAN there".to_owned(),
            };
            let hint = format!("write `{} vlan N` with one of its VLANs", pin.mac);
            return self.at(&["pin", &at.to_string()], why, hint);
        }
        Ok(())
    }

    fn check_rest(&self) -> Checked {
        let port = self.port;
        let does = |spec: &Option<Spec>| spec.as_ref().is_some_and(|spec| !spec.is_nothing());
        if port.impair.seed.is_some() && !does(&port.impair.ingress) && !does(&port.impair.egress) {
            return self.at(&["impair", "seed"], "nothing there is left to chance", "add `in` or `out`");
        }
        Ok(())
    }
}

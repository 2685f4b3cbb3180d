//! A switch's counters in Prometheus' text exposition format.
//!
//! # Theory of operation
//! [`text`] is a pure function of what the control protocol tells. All samples of a metric stand together below its
//! `HELP` and `TYPE`, as the format wants it, so several switches are told in one go. Counters end in `_total`, units are
//! seconds and bytes. Names of metrics and labels, once given, stay.
//!
//! Read: "Exposition formats" of prometheus.io, version 0.0.4.

use std::fmt::{Display, Write as _};

use crate::control::{MirrorInfo, PortInfo, Show, VlanInfo};

/// The Content-Type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is told of a switch.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Itself.
    pub show: Show,
    /// Its ports.
    pub ports: Vec<PortInfo>,
    /// Its VLANs.
    pub vlans: Vec<VlanInfo>,
    /// Its mirrors.
    pub mirrors: Vec<MirrorInfo>,
}

/// A text in the making.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Exposition {
    /// Begins a metric.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) {
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.name = name;
        // Writing to a String does not fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Adds a sample of the metric.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        let mut before = '{';
        for (name, value) in labels {
            let _ = write!(self.text, "{before}{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            before = ',';
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Tells the counters of switches.
pub fn expose(out: &mut Exposition, switches: &[Snapshot]) {
    of_switches(out, switches);
    of_ports(out, switches);
    of_vlans(out, switches);
    let mirrors = [
        ("viewnet_mirror_frames_total", "Copies that a mirror made."),
        ("viewnet_mirror_bytes_total", "Bytes of the frames a mirror copied."),
    ];
    for (at, (name, help)) in mirrors.into_iter().enumerate() {
        out.family(Kind::Counter, name, help);
        for switch in switches {
            for mirror in &switch.mirrors {
                let labels = [("switch", &switch.show.name[..]), ("to", &mirror.rule.to)];
                out.sample(&labels, [mirror.frames, mirror.bytes][at]);
            }
        }
    }
}

/// The counters of one switch as a whole text.
pub fn text(switch: Snapshot) -> String {
    let mut out = Exposition::default();
    expose(&mut out, &[switch]);
    out.finish()
}

fn of_switches(out: &mut Exposition, switches: &[Snapshot]) {
    type Value = fn(&Show) -> u64;
    use Kind::{Counter, Gauge};
    let families: [(Kind, &str, &str, Value); 9] = [
        (Gauge, "viewnet_switch_uptime_seconds", "Since when the switch runs.", |s| s.uptime_s),
        (Gauge, "viewnet_switch_age_seconds", "After how long a silent station is forgotten.", |s| s.age_s),
        (Gauge, "viewnet_switch_ports", "Ports.", |s| s.ports as u64),
        (Gauge, "viewnet_switch_connections", "Open control connections.", |s| s.connections as u64),
        (Gauge, "viewnet_switch_stations", "Known stations.", |s| s.stations as u64),
        (Counter, "viewnet_switch_stations_learned_total", "Stations learned.", |s| s.stations_learned),
        (Counter, "viewnet_switch_stations_moved_total", "Moves of stations between ports.", |s| {
            s.stations_moved
        }),
        (Counter, "viewnet_switch_stations_aged_total", "Stations forgotten for being silent.", |s| {
            s.stations_aged
        }),
        (Counter, "viewnet_switch_stations_refused_total", "Stations not learned for want of room.", |s| {
            s.stations_refused
        }),
    ];
    for (kind, name, help, value) in families {
        out.family(kind, name, help);
        for Snapshot { show, .. } in switches {
            out.sample(&[("switch", &show.name)], value(show));
        }
    }
}

fn of_ports(out: &mut Exposition, switches: &[Snapshot]) {
    type Value = fn(&PortInfo) -> u64;
    use Kind::{Counter, Gauge};
    let each = |tell: &mut dyn FnMut(&str, &PortInfo)| {
        for switch in switches {
            switch.ports.iter().for_each(|port| tell(&switch.show.name, port));
        }
    };
    out.family(Gauge, "viewnet_port_info", "A port, its kind and its VLANs; always 1.");
    each(&mut |switch, port| {
        let kind = port.kind.name();
        let vlans = port.vlans.to_string();
        out.sample(&[("switch", switch), ("port", &port.name), ("kind", kind), ("vlans", &vlans)], 1);
    });
    let families: [(Kind, &str, &str, Value); 5] = [
        (Gauge, "viewnet_port_stations", "Stations known behind the port.", |p| u64::from(p.stations)),
        (Counter, "viewnet_port_receive_frames_total", "Frames that arrived; a super-segment is one.", |p| {
            p.rx_frames
        }),
        (Counter, "viewnet_port_receive_bytes_total", "Bytes that arrived.", |p| p.rx_bytes),
        (Counter, "viewnet_port_transmit_frames_total", "Frames sent; a super-segment is one.", |p| {
            p.tx_frames
        }),
        (Counter, "viewnet_port_transmit_bytes_total", "Bytes sent.", |p| p.tx_bytes),
    ];
    for (kind, name, help, value) in families {
        out.family(kind, name, help);
        each(&mut |switch, port| out.sample(&[("switch", switch), ("port", &port.name)], value(port)));
    }
    out.family(Counter, "viewnet_port_drops_total", "Frames dropped, by reason.");
    each(&mut |switch, port| {
        for (reason, count) in &port.drops {
            out.sample(&[("switch", switch), ("port", &port.name), ("reason", reason.name())], count);
        }
    });
}

fn of_vlans(out: &mut Exposition, switches: &[Snapshot]) {
    type Value = fn(&VlanInfo) -> u64;
    let families: [(&str, &str, Value); 3] = [
        ("viewnet_vlan_receive_frames_total", "Frames let in.", |v| v.rx_frames),
        ("viewnet_vlan_receive_bytes_total", "Bytes let in.", |v| v.rx_bytes),
        ("viewnet_vlan_flooded_frames_total", "Frames that went to every member.", |v| v.flooded),
    ];
    for (name, help, value) in families {
        out.family(Kind::Counter, name, help);
        for switch in switches {
            for vlan in &switch.vlans {
                let vid = vlan.vid.to_string();
                out.sample(&[("switch", &switch.show.name), ("vlan", &vid)], value(vlan));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = Exposition::default();
        out.family(Kind::Gauge, "x", "one\nline \\");
        out.sample(&[], 1);
        out.sample(&[("a", "q\"b\\n\n"), ("b", "ä")], 2);
        assert_eq!(
            out.finish(),
            "# HELP x one\\nline \\\\\n# TYPE x gauge\nx 1\nx{a=\"q\\\"b\\\\n\\n\",b=\"ä\"} 2\n"
        );
    }
}

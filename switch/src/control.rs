//! The control protocol: what a switch is asked and what it answers.
//!
//! # Theory of operation
//! A client connects to the switch's socket and takes turns with it: one [`Request`] per line of JSON, one
//! [`Reply`](msocket_proto::line::Reply) back, `{"ok":…}` or `{"error":{"what":…,"why":…}}`. `hello` first is polite,
//! not needed; it tells the [`VERSION`], which grows when an answer or a request changes its meaning. Unknown
//! fields are ignored, unknown requests refused. The file mode of the socket decides who may connect; those
//! who are neither the switch's user nor root may look, and plug ports into the default VLAN, no more.
//!
//! A port that was added without `linger` lives as long as the connection it was added by.

mod seeing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::seeing::{CaptureInfo, CaptureRule, MirrorInfo, MirrorRule};
use self::traffic::{
    GuardInfo, GuardSet, MacAdd, MacRm, PortOpen, QosInfo, QosSet, ReserveAdd, ReserveInfo, ReserveRm,
    VlanSet,
};
use crate::frame::Mac;
use crate::guard::{Police, Shut};
use crate::impair::{Counters, Spec};
use crate::port::{DropReason, Offloads};
use crate::ports::Kind;
use crate::stp::bpdu::Role;
use crate::stp::config::{Change, PortChange, State, Tree};
use crate::vlan::{PortVlans, Vid};
use crate::vxlan;

pub mod traffic;
pub mod vde;

/// Version of the protocol.
pub const VERSION: u32 = 1;

/// What a switch is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Who are you? Answer: [`Hello`].
    Hello,
    /// How are you? Answer: [`Show`].
    Show,
    /// Changes the switch. Answer: `null`.
    Set(Settings),
    /// The ports. Answer: a list of [`PortInfo`].
    PortLs,
    /// A new port over the descriptor that comes with the request, or the three of a ring (memory, the
    /// doorbell that wakes the switch, the one that wakes the other end: `ports::ring`). With a TAP or a packet socket
    /// a second one may come, which tells of its link (`ports::watch`). Answer: [`PortAdded`].
    PortAdd(Attach),
    /// Takes a port away. Answer: `null`.
    PortRm {
        /// Its name.
        port: String,
    },
    /// Changes a port; what is absent stays. Answer: `null`.
    PortSet {
        /// Its name.
        port: String,
        /// Its new VLAN rules.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlans: Option<PortVlans>,
        /// Its new name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rename: Option<String>,
        /// The flood list of a `vxlan` port.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peers: Option<Vec<SocketAddr>>,
    },
    /// The VLANs that have a name, a port whose frames have no tag, or traffic. Answer: a list of [`VlanInfo`].
    VlanLs,
    /// Names a VLAN. Answer: `null`.
    VlanAdd {
        /// Its number.
        vid: Vid,
        /// Its name, at most 64 bytes; may be empty.
        #[serde(default)]
        name: String,
    },
    /// Forgets a VLAN and takes it off every trunk. Answer: `null`.
    VlanRm {
        /// Its number.
        vid: Vid,
    },
    /// The known stations, by VLAN and address. Answer: a list of [`Station`].
    MacLs(MacFilter),
    /// Forgets stations. Answer: how many.
    MacFlush(MacFilter),
    /// Pins a station to a port. Answer: `null`.
    MacAdd(MacAdd),
    /// Forgets a pinned station. Answer: `null`.
    MacRm(MacRm),
    /// Changes a VLAN. Answer: `null`.
    VlanSet(VlanSet),
    /// Opens or shuts a port. Answer: `null`.
    PortOpen(PortOpen),
    /// Sets what a port does to priorities and which rates it keeps. Answer: `null`.
    QosSet(QosSet),
    /// The ports that were told such things. Answer: a list of [`QosInfo`].
    QosLs,
    /// Sets a port's limits on storms and stations. Answer: `null`.
    GuardSet(GuardSet),
    /// The ports that have such limits or are shut. Answer: a list of [`GuardInfo`].
    GuardLs,
    /// Promises a VLAN a rate on a port. Answer: `null`.
    ReserveAdd(ReserveAdd),
    /// Takes a promise back. Answer: `null`.
    ReserveRm(ReserveRm),
    /// The promises. Answer: a list of [`ReserveInfo`].
    ReserveLs,
    /// The spanning tree. Answer: [`Tree`].
    Stp,
    /// Changes the spanning tree, turns it on or off. Answer: `null`.
    StpSet(Change),
    /// Changes what a port is to the spanning tree. Answer: `null`.
    StpPortSet {
        /// Its name.
        port: String,
        /// What is to change.
        #[serde(flatten)]
        change: PortChange,
    },
    /// The mirrors. Answer: a list of [`MirrorInfo`].
    MirrorLs,
    /// Adds a mirror, or changes the one with this target. Answer: `null`.
    MirrorAdd(MirrorRule),
    /// Takes a mirror away. Answer: `null`.
    MirrorRm {
        /// The port that got its copies.
        to: String,
    },
    /// Tells frames through the ring whose three descriptors come with the request ([`crate::capture`]), as long
    /// as this connection lives. Answer: `null`.
    Capture(CaptureRule),
    /// The captures. Answer: a list of [`CaptureInfo`].
    CaptureLs,
    /// Changes what a port's link does to frames on purpose. Answer: `null`.
    Impair(Impair),
    /// The ports whose links do something to frames on purpose. Answer: a list of [`Impairment`].
    ImpairLs,
    /// The numbers that are kept for VDE's programs, and the programs. Answer: a list of [`vde::VdeInfo`].
    VdeLs,
    /// Keeps a number for VDE's programs. Answer: `null`.
    VdeKeep(vde::VdeKeep),
    /// Keeps a number no more. Answer: `null`.
    VdeRelease {
        /// The number.
        number: u32,
    },
    /// Has somebody live in the switch's thread, at the far end of a ring port. Answer: [`PortAdded`]; EOPNOTSUPP: not
    /// here, but perhaps in a process of its own.
    Host {
        /// The port, which goes with whoever lives there.
        attach: Attach,
        /// Who it is to be, for whoever runs the switch to read ([`crate::serve::Maker`]).
        what: String,
    },
    /// From now on tells what happens: after the answer, `null`, each line of this connection may be an event
    /// ([`crate::events::Told`]). One who does not read them is told so, and hung up.
    Events,
    /// Ends the switch. Answer: `null`, once the socket's file is gone.
    Down,
}

/// The folder in which VDE's programs find the switch, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vde {
    /// The folder, as an absolute path; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The mode of the sockets in it, in octal; the folder's follows from it.
    #[serde(default = "vde_mode", with = "octal")]
    pub mode: u32,
    /// The group of folder and sockets, if it is not the switch's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

impl Vde {
    /// For the switch's user alone.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), mode: vde_mode(), group: None }
    }
}

fn vde_mode() -> u32 {
    0o600
}

/// A file mode as text.
mod octal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(mode: &u32, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.ok_or_else(|| D::Error::custom(format!("`{text}` is no file mode, such as 0660")))
    }
}

/// What may be changed of a switch; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// After how many seconds a silent station is forgotten, 1 to 1,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    /// Where it gives its counters to Prometheus: `unix:PATH`, `127.0.0.1:PORT`, `[::1]:PORT`, or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Where VDE's programs plug in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vde: Option<Vde>,
    /// Mode of the socket's file, at most 0777.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Group of the socket's file, by name or number; empty: the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where the console is served, absolute; empty: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mgmt: Option<PathBuf>,
    /// Does it give every frame to every port?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<bool>,
}

/// A port to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Its name, unique in the switch; absent: `p1`, `p2` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the descriptor is, or the descriptors are.
    pub kind: Kind,
    /// Its VLAN rules.
    #[serde(default)]
    pub vlans: PortVlans,
    /// What the other side takes; absent: what the kernel takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offloads: Option<Offloads>,
    /// The port stays when this connection ends.
    #[serde(default)]
    pub linger: bool,
    /// The TAP's namespace dies with this port: it need not be taken apart, which takes 30 ms.
    #[serde(default)]
    pub dying: bool,
    /// It serves the others: this port and its connection do not keep a switch that ends when unused.
    #[serde(default)]
    pub guest: bool,
    /// What is at the other end, for people to read: at most 128 printable characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// A ring's end that made it, between two switches; a fourth descriptor hangs up when the other switch goes.
    #[serde(default)]
    pub mirrored: bool,
    /// The network of a `vxlan` port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<vxlan::Config>,
}

impl Attach {
    /// A port of VLAN 1 with a name of the switch's choice, gone with its connection.
    pub fn new(kind: Kind) -> Self {
        Self {
            name: None,
            kind,
            vlans: PortVlans::default(),
            offloads: None,
            linger: false,
            dying: false,
            guest: false,
            peer: String::new(),
            mirrored: false,
            vxlan: None,
        }
    }
}

/// Answer to [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the switch.
    pub version: u32,
    /// The switch's name.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

/// Answer to [`Request::Show`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Show {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// For how many seconds it runs.
    pub uptime_s: u64,
    /// After how many seconds without ports and connections it ends; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<u64>,
    /// After how many seconds a silent station is forgotten.
    pub age_s: u64,
    /// Where its console is; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mgmt: Option<PathBuf>,
    /// It gives every frame to every port.
    #[serde(default)]
    pub hub: bool,
    /// How many ports it has.
    pub ports: usize,
    /// How many VLANs [`Request::VlanLs`] lists.
    pub vlans: usize,
    /// How many stations it knows.
    pub stations: usize,
    /// How many more it did not learn, for want of room.
    pub stations_refused: u64,
    /// How many stations it has learned.
    #[serde(default)]
    pub stations_learned: u64,
    /// How often a station was heard on another port.
    #[serde(default)]
    pub stations_moved: u64,
    /// How many stations it has forgotten because they were silent.
    #[serde(default)]
    pub stations_aged: u64,
    /// Where it gives its counters to Prometheus; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// How many control connections are open, this one included.
    pub connections: usize,
    /// The folder in which VDE's programs find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vde: Option<PathBuf>,
}

/// Answer to [`Request::PortAdd`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortAdded {
    /// The port's name.
    pub name: String,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// What its descriptor is.
    pub kind: Kind,
    /// Its VLAN rules.
    pub vlans: PortVlans,
    /// What it takes.
    pub offloads: Offloads,
    /// Its link is up: of an interface the carrier, of all else that it is there.
    pub link: bool,
    /// What it is to the spanning tree; absent while that is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stp: Option<PortStp>,
    /// Does it stay when the connection it was added by ends?
    pub linger: bool,
    /// What is at the other end, if somebody said so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// The network of a `vxlan` port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<vxlan::Config>,
    /// Frames that arrived, dropped ones included; a super-segment is one.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Stations known behind it.
    #[serde(default)]
    pub stations: u32,
    /// Frames dropped, by reason; reasons that did not occur are absent.
    pub drops: BTreeMap<DropReason, u64>,
    /// Why it is shut, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shut: Option<Shut>,
}

/// A port of the spanning tree, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStp {
    /// What it is to its link.
    pub role: Role,
    /// What it does with frames.
    pub state: State,
}

/// A VLAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanInfo {
    /// Its number.
    pub vid: Vid,
    /// Its name, or nothing.
    pub name: String,
    /// Member ports whose frames leave without tag.
    pub untagged: Vec<String>,
    /// Member ports whose frames leave with a tag.
    pub tagged: Vec<String>,
    /// Frames let in.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Those that went to every member.
    pub flooded: u64,
    /// Frames sent, on all ports.
    #[serde(default)]
    pub tx_frames: u64,
    /// Their bytes.
    #[serde(default)]
    pub tx_bytes: u64,
    /// Frames not let in, for the VLAN's rate.
    #[serde(default)]
    pub limited: u64,
    /// The rate its frames keep, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub police: Option<Police>,
}

/// Which stations are meant; absent fields mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacFilter {
    /// Those of this VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vid: Option<Vid>,
    /// Those of the port of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// A known station.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// Its VLAN.
    pub vid: Vid,
    /// Its address.
    pub mac: Mac,
    /// Its port's name.
    pub port: String,
    /// How many milliseconds ago it was last heard.
    pub age_ms: u64,
    /// It is pinned to its port.
    #[serde(rename = "static", default)]
    pub pinned: bool,
}

/// What a port's link is to do to frames; absent fields stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impair {
    /// The port's name.
    pub port: String,
    /// To frames that come in; `none` ends it.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Spec>,
    /// To frames that go out; `none` ends it.
    #[serde(default, rename = "out", skip_serializing_if = "Option::is_none")]
    pub egress: Option<Spec>,
    /// Where chance begins; with it both directions begin anew, empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// What a port's link does to frames on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impairment {
    /// The port's name.
    pub port: String,
    /// Where chance began.
    pub seed: u64,
    /// To frames that come in; absent: nothing.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub ingress: Option<LineInfo>,
    /// To frames that go out; absent: nothing.
    #[serde(default, rename = "out", skip_serializing_if = "Option::is_none")]
    pub egress: Option<LineInfo>,
}

/// One direction of an impaired link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineInfo {
    /// What it does.
    pub spec: Spec,
    /// The state it is in; empty if it has only one.
    pub state: String,
    /// Bytes in flight.
    pub in_flight: usize,
    /// What it counted.
    #[serde(flatten)]
    pub counters: Counters,
}

/// Any answer, as the switch writes it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    Done(()),
    Hello(Hello),
    Show(Show),
    Ports(Vec<PortInfo>),
    Added(PortAdded),
    Vlans(Vec<VlanInfo>),
    Stations(Vec<Station>),
    Qos(Vec<QosInfo>),
    Guards(Vec<GuardInfo>),
    Reservations(Vec<ReserveInfo>),
    Count(usize),
    Tree(Tree),
    Mirrors(Vec<MirrorInfo>),
    Captures(Vec<CaptureInfo>),
    Impaired(Vec<Impairment>),
    Vde(Vec<vde::VdeInfo>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_text() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"op":"hello"}"#).unwrap(), Request::Hello);
        assert_eq!(read(r#"{"op":"mac_ls"}"#).unwrap(), Request::MacLs(MacFilter::default()));
        assert_eq!(
            read(r#"{"op":"port_add","kind":"tap"}"#).unwrap(),
            Request::PortAdd(Attach::new(Kind::Tap))
        );
        let set = read(r#"{"op":"set","vde":{"path":"/tmp/v","mode":"0660"}}"#).unwrap();
        let vde = Vde { mode: 0o660, ..Vde::at("/tmp/v") };
        assert_eq!(set, Request::Set(Settings { vde: Some(vde), ..Settings::default() }));
        assert!(read(r#"{"op":"set","vde":{"mode":"9"}}"#).is_err());
        assert!(read(r#"{"op":"vlan_rm","vid":0}"#).is_err());
        let qos = r#"{"op":"qos_set","port":"a","police":{"rate_bps":1000000}}"#;
        let Request::QosSet(QosSet { port, qos }) = read(qos).unwrap() else { panic!("it is a qos_set") };
        assert_eq!((port.as_str(), qos.shape, qos.police.unwrap().rate.bps()), ("a", None, 1_000_000));
        assert!(read(r#"{"op":"reserve_add","port":"a","vid":10,"rate_bps":1}"#).is_err());
        assert!(read(r#"{"op":"reboot"}"#).is_err());
    }
}

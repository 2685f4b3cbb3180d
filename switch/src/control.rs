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

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::frame::Mac;
use crate::port::{DropReason, Offloads};
use crate::ports::Kind;
use crate::vlan::{PortVlans, Vid};

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
    /// doorbell that wakes the switch, the one that wakes the other end: `ports::ring`). Answer: [`PortAdded`].
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
    /// Ends the switch. Answer: `null`, once the socket's file is gone.
    Down,
}

/// What of a switch can be changed; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// After how many seconds a silent station is forgotten, 1 to 1,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    /// Mode of the socket's file, at most 0777.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Group of the socket's file, by name or number; empty: the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where the console is served, absolute; empty: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mgmt: Option<PathBuf>,
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
}

impl Attach {
    /// A port of VLAN 1 with a name of the switch's choice, gone with its connection.
    pub fn new(kind: Kind) -> Self {
        Self { name: None, kind, vlans: PortVlans::default(), offloads: None, linger: false, dying: false }
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
    /// How many ports it has.
    pub ports: usize,
    /// How many VLANs [`Request::VlanLs`] lists.
    pub vlans: usize,
    /// How many stations it knows.
    pub stations: usize,
    /// How many more it did not learn, for want of room.
    pub stations_refused: u64,
    /// How many control connections are open, this one included.
    pub connections: usize,
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
    /// Does it stay when the connection it was added by ends?
    pub linger: bool,
    /// Frames that arrived, dropped ones included; a super-segment is one.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames dropped, by reason; reasons that did not occur are absent.
    pub drops: BTreeMap<DropReason, u64>,
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
    Count(usize),
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
        assert!(read(r#"{"op":"vlan_rm","vid":0}"#).is_err());
        assert!(read(r#"{"op":"reboot"}"#).is_err());
    }
}

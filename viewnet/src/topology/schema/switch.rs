//! A switch, as a topology describes it; also the whole file of `viewnet switch up --config`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use switch::client::{StpChange, StpTree};
use switch::control::Vde;
use switch::guard::{Exceed, Police};
use switch::qos::rate::Rate;
use switch::stp::config::{Config, Protocol};
use switch::vlan::Vid;

use super::port::Port;
use super::settings::police;
use super::word::{Short, Word, short_or_table};
use crate::exit::Failure;

/// A switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Switch {
    /// It is somebody else's and only plugged into: neither made nor changed nor ended.
    pub(crate) external: bool,
    /// After how many seconds a silent station is forgotten; absent: 300.
    pub(crate) age: Option<Age>,
    /// Who may use it: the mode of its socket's file; absent: 0600.
    pub(crate) mode: Option<Mode>,
    /// The group of its sockets' files; absent: its user's.
    pub(crate) group: Option<String>,
    /// Where it serves the console of vde_switch; absent: nowhere.
    pub(crate) mgmt: Option<PathBuf>,
    /// Where VDE's programs plug in; absent: nowhere.
    pub(crate) vde: Option<VdeFolder>,
    /// Where it gives its counters to Prometheus; absent: nowhere.
    pub(crate) metrics: Option<String>,
    /// Every frame goes to every port, as with a hub.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hub: bool,
    /// The spanning tree; absent: off.
    pub(crate) stp: Option<Tree>,
    /// VLANs that have a name or a rate.
    pub(crate) vlan: BTreeMap<VlanKey, Vlan>,
    /// Ports.
    pub(crate) port: BTreeMap<String, Port>,
}

impl Switch {
    /// Paths that are relative are so to `folder`.
    pub(crate) fn root(&mut self, folder: &Path) {
        self.mgmt = self.mgmt.take().map(|mgmt| folder.join(mgmt));
        if let Some(vde) = &mut self.vde {
            vde.path = folder.join(&vde.path);
        }
        if let Some(path) = self.metrics.as_deref().and_then(|place| place.strip_prefix("unix:")) {
            self.metrics = Some(format!("unix:{}", folder.join(path).display()));
        }
        self.port.values_mut().for_each(|port| port.root(folder));
    }

    /// The spanning tree as it is to be.
    pub(crate) fn tree(&self) -> Tree {
        self.stp.unwrap_or_else(|| Tree { enabled: Some(false), ..Tree::default() }).canonical()
    }
}

/// A VLAN: its name, or a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub(crate) struct Vlan {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    pub(crate) rate: Option<Word<Rate>>,
    pub(crate) burst: Option<Word<u32>>,
    pub(crate) exceed: Option<Exceed>,
}

impl Vlan {
    /// The rate that its frames keep.
    pub(crate) fn police(&self) -> Option<Police> {
        police(self.rate, self.burst, self.exceed)
    }

    /// What a switch tells.
    pub(crate) fn of(name: String, police: Option<Police>) -> Self {
        let exceed = police.map(|police| police.exceed).filter(|exceed| *exceed != Exceed::default());
        let burst = police.and_then(|police| police.burst_bytes).map(Word);
        Self { name, rate: police.map(|police| Word(police.rate)), burst, exceed }
    }

    /// Without what is as by default.
    pub(crate) fn canonical(&self) -> Self {
        Self::of(self.name.clone(), self.police())
    }
}

impl Short for Vlan {
    const EXPECTED: &'static str = "a name";

    fn of_text(text: &str) -> Option<Self> {
        Some(Self { name: text.to_owned(), ..Self::default() })
    }

    fn of_table<'de, D: serde::Deserializer<'de>>(table: D) -> Result<Self, D::Error> {
        Self::deserialize(table)
    }
}
short_or_table!(Vlan);

/// Where VDE's programs plug in: a folder, or a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct VdeFolder {
    pub(crate) path: PathBuf,
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    #[serde(default)]
    pub(crate) group: Option<String>,
}

impl VdeFolder {
    /// What the switch is told.
    pub(crate) fn told(&self) -> Result<Vde, Failure> {
        let group = self.group.as_deref().map(crate::commands::switch::group_id).transpose()?;
        Ok(Vde { path: Some(self.path.clone()), mode: self.mode.unwrap_or(Mode(0o600)).0, group })
    }
}

impl Short for VdeFolder {
    const EXPECTED: &'static str = "a folder";

    fn of_text(text: &str) -> Option<Self> {
        Some(Self { path: text.into(), mode: None, group: None })
    }

    fn of_table<'de, D: serde::Deserializer<'de>>(table: D) -> Result<Self, D::Error> {
        Self::deserialize(table)
    }
}
short_or_table!(VdeFolder);

/// The spanning tree: `true`, or a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Tree {
    pub(crate) enabled: Option<bool>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) priority: Option<u16>,
    pub(crate) hello: Option<u8>,
    pub(crate) max_age: Option<u8>,
    pub(crate) forward_delay: Option<u8>,
}

impl Tree {
    /// What the switch is told: everything.
    pub(crate) fn told(self) -> StpChange {
        let usual = Config::default();
        StpChange {
            enabled: Some(self.enabled.unwrap_or(true)),
            protocol: Some(self.protocol.unwrap_or(usual.protocol)),
            priority: Some(self.priority.unwrap_or(usual.priority)),
            hello_s: Some(self.hello.unwrap_or(usual.hello_s)),
            max_age_s: Some(self.max_age.unwrap_or(usual.max_age_s)),
            forward_delay_s: Some(self.forward_delay.unwrap_or(usual.forward_delay_s)),
            tx_hold: None,
        }
    }

    /// What a switch tells.
    pub(crate) fn of(tree: &StpTree) -> Self {
        Self::new(tree.enabled, tree.config)
    }

    fn new(enabled: bool, config: Config) -> Self {
        let usual = Config::default();
        Self {
            enabled: Some(enabled),
            protocol: Some(config.protocol).filter(|value| *value != usual.protocol),
            priority: Some(config.priority).filter(|value| *value != usual.priority),
            hello: Some(config.hello_s).filter(|value| *value != usual.hello_s),
            max_age: Some(config.max_age_s).filter(|value| *value != usual.max_age_s),
            forward_delay: Some(config.forward_delay_s).filter(|value| *value != usual.forward_delay_s),
        }
    }

    /// Without what is as by default, but for whether it is on.
    fn canonical(self) -> Self {
        // What the standard forbids was refused when the file was read.
        let config = self.told().apply(Config::default()).unwrap_or_default();
        Self::new(self.enabled.unwrap_or(true), config)
    }
}

impl Short for Tree {
    const EXPECTED: &'static str = "true, false";

    fn of_bool(enabled: bool) -> Option<Self> {
        Some(Self { enabled: Some(enabled), ..Self::default() })
    }

    fn of_table<'de, D: serde::Deserializer<'de>>(table: D) -> Result<Self, D::Error> {
        Self::deserialize(table)
    }
}
short_or_table!(Tree);

/// Seconds after which a silent station is forgotten, 1 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub(crate) struct Age(u64);

impl Age {
    /// What a switch does that was told nothing.
    pub(crate) const DEFAULT: Self = Self(switch::fdb::DEFAULT_AGE.as_secs());

    /// In seconds.
    pub(crate) fn seconds(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Age {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, String> {
        match seconds {
            1..=1_000_000 => Ok(Self(seconds)),
            _ => Err(format!("`{seconds}` is no age; 1 to 1,000,000 seconds")),
        }
    }
}

impl From<Age> for u64 {
    fn from(age: Age) -> Self {
        age.0
    }
}

/// A file mode, written in octal: "0660".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Mode(pub(crate) u32);

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        crate::commands::options::file_mode(&text).map(Self).map_err(|why| format!("`{text}`: {why}"))
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        format!("{:04o}", mode.0)
    }
}

/// A VLAN's number as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct VlanKey(pub(crate) Vid);

impl TryFrom<String> for VlanKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e: switch::vlan::BadVid| e.to_string())
    }
}

impl From<VlanKey> for String {
    fn from(key: VlanKey) -> Self {
        key.0.to_string()
    }
}

//! What an interface is plugged into, and where its frames are recorded, as text.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, DEFAULT_SWITCH, check_name};

/// Recorded bytes of a frame: the least is its headers.
const SNAP: std::ops::RangeInclusive<u32> = 64..=65_549;

/// What an interface is plugged into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Link {
    /// Nothing.
    #[default]
    None,
    /// A port of a switch.
    Switch {
        /// Name or path of the switch.
        name: String,
        /// How the switch sees the port.
        vlan: PortVlan,
    },
    /// A port of a vde_switch.
    Vde {
        /// The folder of its control socket.
        path: String,
    },
    /// A TAP of the network in which the stack runs.
    Tap {
        /// The interface's name there.
        name: String,
    },
    /// A TAP, or a packet socket, that is open already.
    Fd {
        /// The descriptor's number.
        number: u16,
    },
    /// A WireGuard tunnel.
    Wg {
        /// A file of wg-quick(8), or the control socket of the tunnel that was made of it.
        path: String,
    },
    /// The other end of a cable with two ends, both in stacks of one process.
    Pair {
        /// The cable's name.
        name: String,
    },
}

/// How a switch treats the frames of a port (802.1Q).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PortVlan {
    /// As the switch is set up for new ports.
    #[default]
    Default,
    /// Untagged frames of one VLAN.
    Access(u16),
    /// Tagged frames of several VLANs.
    Trunk {
        /// Ranges of VLAN ids, both ends included.
        allowed: Vec<(u16, u16)>,
        /// The VLAN of untagged frames.
        native: Option<u16>,
    },
}

/// Where the frames of an interface are recorded: `FILE`, `FILE[cut]`, `FILE[snap 128]`, `FILE[cut snap 128]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pcap {
    /// The file, which is made anew.
    pub file: PathBuf,
    /// Super-segments are recorded as the frames they would be on a wire, with their checksums.
    pub cut: bool,
    /// Bytes recorded of each frame, at most; absent: all.
    pub snap: Option<u32>,
}

impl FromStr for Link {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        let named = |name: &str, what: &str| match name {
            "" => Err(ConfigError::new(text, format!("nothing after the colon; {what}"))),
            name => Ok(name.to_owned()),
        };
        match text.split_once(':') {
            Some(("vde", path)) => {
                Ok(Self::Vde { path: named(path, "give the folder of the vde_switch's socket")? })
            }
            Some(("wg", path)) => Ok(Self::Wg { path: named(path, "give a file of wg-quick(8)")? }),
            Some(("pair", name)) => Ok(Self::Pair { name: named(name, "give the cable's name")? }),
            Some(("tap", name)) => {
                check_name(name)?;
                Ok(Self::Tap { name: name.into() })
            }
            Some(("fd", number)) => match number.parse() {
                Ok(number) => Ok(Self::Fd { number }),
                Err(_) => Err(ConfigError::new(text, "no number of a descriptor, such as fd:3")),
            },
            _ => switch_link(text),
        }
    }
}

/// `none`, or a link to a switch.
fn switch_link(text: &str) -> Result<Link, ConfigError> {
    let (plug, vlan) = match text.split_once('[') {
        None => (text, PortVlan::Default),
        Some((plug, rest)) => match rest.strip_suffix(']') {
            Some(vlan) => (plug, vlan.parse()?),
            None => return Err(ConfigError::new(text, "`[` without `]`")),
        },
    };
    match plug.split_once(':').unwrap_or((plug, "")) {
        ("none", "") if vlan == PortVlan::Default => Ok(Link::None),
        ("switch", "") => Ok(Link::Switch { name: DEFAULT_SWITCH.into(), vlan }),
        ("switch", name) => Ok(Link::Switch { name: name.into(), vlan }),
        _ => Err(ConfigError::new(
            text,
            "unknown link; known are switch, switch:NAME, wg:FILE, vde:PATH, tap:NAME, fd:N, pair:NAME and none",
        )),
    }
}

impl FromStr for PortVlan {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::new(text, "expected `vlan 10` or `trunk 10,20-29 [native 1]`");
        let vid = |word: &str| match word.trim().parse() {
            Ok(vid) if (1..=4094).contains(&vid) => Ok(vid),
            _ => Err(ConfigError::new(word, "no VLAN id; 1 to 4094")),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["vlan", id] => Ok(Self::Access(vid(id)?)),
            ["trunk", list] | ["trunk", list, "native", _] => {
                let mut allowed = Vec::new();
                for range in list.split(',') {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let (first, last) = (vid(first)?, vid(last)?);
                    if first > last {
                        return Err(ConfigError::new(range, "the range is empty"));
                    }
                    allowed.push((first, last));
                }
                let native = words.get(3).map(|id| vid(id)).transpose()?;
                Ok(Self::Trunk { allowed, native })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Switch { name, vlan } => write!(f, "switch:{name}{vlan}"),
            Self::Vde { path } => write!(f, "vde:{path}"),
            Self::Tap { name } => write!(f, "tap:{name}"),
            Self::Fd { number } => write!(f, "fd:{number}"),
            Self::Wg { path } => write!(f, "wg:{path}"),
            Self::Pair { name } => write!(f, "pair:{name}"),
        }
    }
}

impl fmt::Display for PortVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => Ok(()),
            Self::Access(vid) => write!(f, "[vlan {vid}]"),
            Self::Trunk { allowed, native } => {
                f.write_str("[trunk ")?;
                for (i, (first, last)) in allowed.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    if first == last {
                        write!(f, "{comma}{first}")?
                    } else {
                        write!(f, "{comma}{first}-{last}")?
                    }
                }
                native.map_or(Ok(()), |vid| write!(f, " native {vid}"))?;
                f.write_str("]")
            }
        }
    }
}

impl FromStr for Pcap {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        let (file, words) = match text.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) {
            Some((file, words)) => (file, words),
            None => (text, ""),
        };
        if file.is_empty() {
            return Err(ConfigError::new(text, "no file to record into"));
        }
        let mut pcap = Self { file: file.into(), cut: false, snap: None };
        let mut words = words.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "cut" => pcap.cut = true,
                "snap" => {
                    let number = words.next().unwrap_or_default();
                    let snap = number.parse().ok().filter(|snap| SNAP.contains(snap));
                    let wrong = || ConfigError::new(number, "no snap length; 64 to 65549 bytes");
                    pcap.snap = Some(snap.ok_or_else(wrong)?);
                }
                _ => return Err(ConfigError::new(text, "expected `FILE[cut]` or `FILE[cut snap 128]`")),
            }
        }
        Ok(pcap)
    }
}

impl fmt::Display for Pcap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The brackets are always there, as the file's name may end in some.
        write!(f, "{}[{}", self.file.display(), if self.cut { "cut" } else { "" })?;
        match self.snap {
            Some(snap) if self.cut => write!(f, " snap {snap}]"),
            Some(snap) => write!(f, "snap {snap}]"),
            None => f.write_str("]"),
        }
    }
}

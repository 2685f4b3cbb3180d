//! What an interface is plugged into, and where its frames are recorded, as text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use switch::link::{BadLink, Impaired};
use switch::vlan::PortVlans;

use super::{ConfigError, check_name};
use crate::gateway::proxy::Via;

/// Recorded bytes of a frame: the least is its headers.
const SNAP: std::ops::RangeInclusive<u32> = 64..=65_549;

/// What an interface is plugged into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Link {
    /// Nothing.
    #[default]
    None,
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
    /// A network of its own, whose gateway goes by a proxy.
    Via(Via),
    /// Whatever a port of a switch may lead to, too: another switch first of all.
    To(switch::link::Link),
}

/// A port of a switch, as a link says that it is to be.
#[derive(Debug, Clone, Copy)]
pub struct Plug<'a> {
    /// Name or path of the switch.
    pub switch: &'a str,
    /// How the switch sees the port; absent: as it sees all that it was told nothing about.
    pub vlans: Option<&'a PortVlans>,
    /// What happens on the way.
    pub impaired: Option<&'a Impaired>,
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

impl Link {
    /// A port of the switch that the user calls `name`, or that has this path.
    pub fn switch(name: &str, vlans: Option<PortVlans>) -> Self {
        Self::To(switch::link::Link::Switch { name: name.to_owned(), vlans })
    }

    /// The port of a switch that it leads to, if it is one.
    pub fn plug(&self) -> Option<Plug<'_>> {
        let Self::To(link) = self else { return None };
        match link.plain() {
            switch::link::Link::Switch { name, vlans } => {
                Some(Plug { switch: name, vlans: vlans.as_ref(), impaired: link.impaired() })
            }
            _ => None,
        }
    }

    /// The plug of the tunnel that it leads to, if it is one.
    pub fn tunnel(&self) -> Option<Plug<'_>> {
        match self {
            Self::Wg { path } => Some(Plug { switch: path, vlans: None, impaired: None }),
            _ => None,
        }
    }

    /// The same link, with relative paths in it made ones in `folder`.
    pub fn rooted(self, folder: &Path) -> Self {
        match self {
            Self::To(link) => Self::To(link.rooted(folder)),
            Self::Via(via) => Self::Via(via.rooted(folder)),
            Self::Wg { path } => Self::Wg { path: folder.join(path).to_string_lossy().into_owned() },
            other => other,
        }
    }

    /// The same link with these rules at its switch's port.
    pub fn with_vlans(self, new: Option<PortVlans>) -> Self {
        use switch::link::Link::{Impaired, Switch};
        match self {
            Self::To(Switch { name, .. }) => Self::To(Switch { name, vlans: new }),
            Self::To(Impaired(mut impaired)) => {
                if let Switch { vlans, .. } = &mut impaired.link {
                    *vlans = new;
                }
                Self::To(Impaired(impaired))
            }
            other => other,
        }
    }
}

impl Plug<'_> {
    /// How the switch is to see the port.
    pub fn vlans(&self) -> PortVlans {
        self.vlans.cloned().unwrap_or_default()
    }
}

impl FromStr for Link {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        match text.split_once(':').unwrap_or((text, "")) {
            ("none", "") => Ok(Self::None),
            ("wg", "") => Err(ConfigError::new(text, "nothing after the colon; give a file of wg-quick(8)")),
            ("wg", path) => Ok(Self::Wg { path: path.to_owned() }),
            ("pair", "") => Err(ConfigError::new(text, "nothing after the colon; give the cable's name")),
            ("pair", name) => Ok(Self::Pair { name: name.to_owned() }),
            ("fd", number) => match number.parse() {
                Ok(number) => Ok(Self::Fd { number }),
                Err(_) => Err(ConfigError::new(text, "no number of a descriptor, such as fd:3")),
            },
            _ if Via::is_meant(text) => {
                text.parse().map(Self::Via).map_err(|why| ConfigError::new(text, why))
            }
            _ => {
                let link: switch::link::Link = text.parse().map_err(|e: BadLink| ConfigError::of_link(&e))?;
                if let switch::link::Link::Tap(name) | switch::link::Link::Nic(name) = link.plain() {
                    check_name(name)?;
                }
                Ok(Self::To(link))
            }
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Fd { number } => write!(f, "fd:{number}"),
            Self::Wg { path } => write!(f, "wg:{path}"),
            Self::Pair { name } => write!(f, "pair:{name}"),
            Self::Via(via) => via.fmt(f),
            Self::To(link) => link.fmt(f),
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

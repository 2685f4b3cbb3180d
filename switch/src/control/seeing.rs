//! Messages about mirrors and captures.

use serde::{Deserialize, Serialize};

use crate::mirror::Direction;
use crate::vlan::VidSet;

/// A mirror to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRule {
    /// The port that gets the copies, and from now on nothing else. It is the mirror's name, too.
    pub to: String,
    /// The ports whose frames are copied; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<String>>,
    /// Which of their frames.
    #[serde(default)]
    pub direction: Direction,
    /// Of which VLANs.
    #[serde(default = "VidSet::all")]
    pub vlans: VidSet,
}

/// A mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorInfo {
    /// What it does.
    #[serde(flatten)]
    pub rule: MirrorRule,
    /// Copies made; what the port had no room for is among its drops.
    pub frames: u64,
    /// Their bytes, as the frames arrived at the switch.
    pub bytes: u64,
}

/// A capture to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRule {
    /// The ports whose frames are told; absent: all, those too that are yet to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<String>>,
    /// Which of their frames.
    #[serde(default)]
    pub direction: Direction,
    /// Bytes of each frame at most; 0: all.
    #[serde(default)]
    pub snap: u32,
    /// Which frames, in the words of [`crate::capture::filter`].
    #[serde(default)]
    pub filter: String,
}

/// A capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureInfo {
    /// What it wants.
    #[serde(flatten)]
    pub rule: CaptureRule,
    /// Is it that of the connection that asks?
    pub own: bool,
    /// Frames told.
    pub frames: u64,
    /// Frames and names that its ring had no room for.
    pub lost: u64,
}

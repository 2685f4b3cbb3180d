//! What the switch decides about a frame, for whoever writes it.

use crate::frame::{PackedEdit, Priority, TagEdit};
use crate::port::{DropReason, PortId};
use crate::vlan::Vid;

/// Where a frame goes, and what it is there.
#[derive(Debug)]
pub struct Egress {
    pub(super) list: Vec<Transmit>,
    pub(super) vid: Vid,
    pub(super) priority: Priority,
    pub(super) dropped: Option<DropReason>,
}

impl Default for Egress {
    fn default() -> Self {
        Self { list: Vec::new(), vid: Vid::DEFAULT, priority: Priority::default(), dropped: None }
    }
}

/// One port a frame leaves by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// The port.
    pub port: PortId,
    pub(super) edit: PackedEdit,
}

impl Transmit {
    /// A frame leaves by `port`, changed so.
    #[inline]
    pub fn new(port: PortId, edit: TagEdit) -> Self {
        Self { port, edit: edit.pack() }
    }

    /// What happens to its tag there.
    #[inline]
    pub fn edit(&self) -> TagEdit {
        self.edit.unpack()
    }
}

impl Egress {
    /// An empty list, to be used again and again.
    pub fn new() -> Self {
        Self::default()
    }

    /// The ports of the last frame.
    pub fn as_slice(&self) -> &[Transmit] {
        &self.list
    }

    /// Its VLAN.
    pub fn vid(&self) -> Vid {
        self.vid
    }

    /// Its priority.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Why the last frame was not let in, if it was not.
    pub fn dropped(&self) -> Option<DropReason> {
        self.dropped
    }
}

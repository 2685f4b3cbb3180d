//! The differences on a smol stack.

use super::{Difference, When, known};

/// The table of smol stacks.
pub(super) const DIFFERENCES: &[Difference] = &[known(
    When::Always,
    "descriptors",
    "mmap on socket",
    "ok",
    "ENODEV",
    "the descriptor is an AF_UNIX socket, which cannot be mapped; TCP's zero-copy receive needs it",
)];

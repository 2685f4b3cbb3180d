//! The differences on a smol stack.

use super::{Difference, When, known};

/// The table of smol stacks.
pub const DIFFERENCES: &[Difference] = &[known(
    When::Maybe,
    "uring",
    "io_uring_setup*",
    "ok",
    "EPERM",
    "a ring makes sockets that seccomp never sees; EPERM is what kernel.io_uring_disabled=2 answers",
)];

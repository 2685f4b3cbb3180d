//! No network at all: every socket of an internet family is refused.
//!
//! EAFNOSUPPORT is what a kernel built without the family says, so programs have a path for it.

use std::os::fd::{BorrowedFd, OwnedFd};

use msocket_proto::line::Refusal;
use nix::errno::Errno;

use crate::stack::{InterfaceInfo, Kind, SocketSpec, Stack};

/// The stack that refuses.
#[derive(Debug, Default)]
pub struct NoStack;

impl Stack for NoStack {
    fn kind(&self) -> Kind {
        Kind::None
    }

    fn socket(&mut self, _spec: SocketSpec) -> Result<OwnedFd, Errno> {
        Err(Errno::EAFNOSUPPORT)
    }

    fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, Refusal> {
        Ok(Vec::new())
    }

    fn namespace(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

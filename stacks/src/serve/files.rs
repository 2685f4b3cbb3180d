//! The files about a kernel stack's network, for a view that has not its namespace.

use std::os::fd::OwnedFd;

use msocket_proto::proto::{File, FilePlace};
use nix::errno::Errno;
use rustix::fs::{FileType, Mode, fstat};

use crate::kernel::KernelStack;
use crate::stack::Stack;

/// Opens one. We have rights over the stack that a guest has not: it gets what everybody may read, and no folder, from
/// which it could look further. What is looked up in a folder of /proc is that of the network in which we are then, and
/// we are in many: nobody gets these.
pub(super) fn of(stack: &mut KernelStack, asked: &File, owner: bool) -> Result<OwnedFd, Errno> {
    let file = stack.file(asked)?;
    let status = fstat(&file).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    let is_folder = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    if is_folder && (!owner || asked.place == FilePlace::Proc) {
        return Err(Errno::EOPNOTSUPP);
    }
    if !owner && !Mode::from_raw_mode(status.st_mode).contains(Mode::ROTH) {
        return Err(Errno::EACCES);
    }
    Ok(file)
}

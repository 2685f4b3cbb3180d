//! The program whose call is being answered: the only way handlers touch its memory and descriptors.
//!
//! The supervisor sees it through the eye ([`crate::eye`]); unit tests see a `Pretend`.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use stacks::stack::SocketSpec;

use crate::eye::Copies;

/// Who and where the calling thread is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Inspection {
    /// Its process.
    pub(crate) pid: i32,
    /// It is in the network namespace that viewnet was started in. True also if nobody may look.
    pub(crate) home_network: bool,
    /// It is in the user namespace that viewnet was started in, so that the owner's rights hold for it.
    pub(crate) home_user: bool,
    /// Effective user id.
    pub(crate) euid: u32,
    /// CAP_NET_RAW is effective.
    pub(crate) net_raw: bool,
    /// The nested view named in the environment that it, or its nearest ancestor with one, was started with.
    pub(crate) marker: Option<u64>,
    /// Its process and that process's ancestors, nearest first; only read when nested views exist.
    pub(crate) ancestors: Vec<i32>,
}

impl Inspection {
    /// Whether the thread has the capabilities of `owner` over stacks of that user: their owner does, from
    /// the user namespace they hang under, unless it is root and gave the capability up.
    pub(crate) fn has_rights(&self, owner: u32) -> bool {
        self.home_user && self.euid == owner && (self.euid != 0 || self.net_raw)
    }
}

/// The calling program.
pub(crate) trait Target {
    /// Who and where the calling thread is.
    fn inspect(&mut self) -> Result<Inspection, Errno>;
    /// Copies ranges of its memory, one behind the other; EFAULT unless all of it can be read.
    fn gather(&mut self, ranges: &[(u64, usize)]) -> Result<Vec<u8>, Errno>;
    /// Copies as much of a range as can be read; EFAULT if that is nothing.
    fn read_partly(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno>;
    /// Writes pieces into its memory; EFAULT unless all of it can be written.
    fn scatter(&mut self, pieces: &[(u64, &[u8])]) -> Result<(), Errno>;
    /// A copy of one of its AF_UNIX sockets, EPROTOTYPE for another; for as short as may be: the program's
    /// close() is not the last one while we have it.
    fn duplicate(&mut self, fd: i32) -> Result<OwnedFd, Errno>;

    /// Copies one range of its memory.
    fn read(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        self.gather(&[(address, length)])
    }

    /// Writes one piece into its memory.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.scatter(&[(address, bytes)])
    }

    /// A copy of any of its descriptors; as [`Target::duplicate`], for as short as may be.
    fn take(&mut self, fd: i32) -> Result<OwnedFd, Errno>;
    /// Where it holds the socket that it has as `fd`.
    fn copies(&mut self, fd: i32) -> Result<Copies, Errno>;
    /// A socket of the network that viewnet was started in.
    fn host_socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno>;

    /// AF_* of one of its sockets; ENOTSOCK and EBADF as they come.
    fn domain(&mut self, fd: i32) -> Result<i32, Errno>;
    /// Whether it has a number for one more descriptor. True also if nobody may look.
    fn has_room(&mut self) -> bool;
    /// Whether a Unix socket path, as this program sees it, is one through which the host resolves names.
    fn is_host_resolver(&mut self, path: &[u8]) -> Result<bool, Errno>;
}

#[cfg(test)]
pub(crate) use pretend::{BASE, Pretend};

#[cfg(test)]
mod pretend {
    use super::*;

    /// A program that exists only in a test.
    #[derive(Debug)]
    pub(crate) struct Pretend {
        pub(crate) inspection: Inspection,
        /// Memory from address 0x1000 on.
        pub(crate) memory: Vec<u8>,
        /// AF_* by descriptor.
        pub(crate) sockets: Vec<i32>,
        pub(crate) resolvers: Vec<&'static str>,
        /// All numbers of descriptors are taken.
        pub(crate) full: bool,
    }

    /// Where [`Pretend::memory`] begins.
    pub(crate) const BASE: u64 = 0x1000;

    impl Default for Pretend {
        fn default() -> Self {
            let inspection = Inspection {
                pid: 77,
                home_network: true,
                home_user: true,
                euid: 1000,
                net_raw: false,
                marker: None,
                ancestors: Vec::new(),
            };
            let resolvers = vec!["/run/nscd/socket"];
            Self { inspection, memory: Vec::new(), sockets: Vec::new(), resolvers, full: false }
        }
    }

    impl Pretend {
        fn range(&self, address: u64, length: usize) -> Result<std::ops::Range<usize>, Errno> {
            let start = address.checked_sub(BASE).ok_or(Errno::EFAULT)? as usize;
            let end = start.checked_add(length).filter(|end| *end <= self.memory.len());
            Ok(start..end.ok_or(Errno::EFAULT)?)
        }
    }

    impl Target for Pretend {
        fn inspect(&mut self) -> Result<Inspection, Errno> {
            Ok(self.inspection.clone())
        }

        fn gather(&mut self, ranges: &[(u64, usize)]) -> Result<Vec<u8>, Errno> {
            let mut all = Vec::new();
            for &(address, length) in ranges.iter().filter(|(_, length)| *length > 0) {
                all.extend(&self.memory[self.range(address, length)?]);
            }
            Ok(all)
        }

        fn read_partly(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
            let start = self.range(address, 0)?.start;
            match self.memory.len().min(start + length) - start {
                0 if length > 0 => Err(Errno::EFAULT),
                there => self.read(address, there),
            }
        }

        fn scatter(&mut self, pieces: &[(u64, &[u8])]) -> Result<(), Errno> {
            for (address, bytes) in pieces.iter().filter(|(_, bytes)| !bytes.is_empty()) {
                let range = self.range(*address, bytes.len())?;
                self.memory[range].copy_from_slice(bytes);
            }
            Ok(())
        }

        fn duplicate(&mut self, fd: i32) -> Result<OwnedFd, Errno> {
            if self.domain(fd)? != libc::AF_UNIX {
                return Err(Errno::EPROTOTYPE);
            }
            Ok(std::fs::File::open("/dev/null").expect("/dev/null").into())
        }

        fn take(&mut self, fd: i32) -> Result<OwnedFd, Errno> {
            self.domain(fd)?;
            Ok(std::fs::File::open("/dev/null").expect("/dev/null").into())
        }

        fn copies(&mut self, _fd: i32) -> Result<Copies, Errno> {
            Ok(Copies::default())
        }

        fn host_socket(&mut self, _spec: SocketSpec) -> Result<OwnedFd, Errno> {
            Err(Errno::ENETDOWN)
        }

        fn domain(&mut self, fd: i32) -> Result<i32, Errno> {
            self.sockets.get(fd as usize).copied().ok_or(Errno::EBADF)
        }

        fn has_room(&mut self) -> bool {
            !self.full
        }

        fn is_host_resolver(&mut self, path: &[u8]) -> Result<bool, Errno> {
            Ok(self.resolvers.iter().any(|r| r.as_bytes() == path))
        }
    }
}

//! The program whose call is being answered: the only way handlers touch its memory and descriptors.
//!
//! The supervisor sees it through the eye ([`crate::eye`]); unit tests see a `Pretend`.

use nix::errno::Errno;

/// Who and where the calling thread is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Inspection {
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

/// The calling program.
pub(crate) trait Target {
    /// Who and where the calling thread is.
    fn inspect(&mut self) -> Result<Inspection, Errno>;
    /// Copies its memory; EFAULT unless all of it can be read.
    fn read(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno>;
    /// Writes its memory; EFAULT unless all of it can be written.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// AF_* of one of its sockets; ENOTSOCK and EBADF as they come.
    fn domain(&mut self, fd: i32) -> Result<i32, Errno>;
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
    }

    /// Where [`Pretend::memory`] begins.
    pub(crate) const BASE: u64 = 0x1000;

    impl Default for Pretend {
        fn default() -> Self {
            let inspection = Inspection {
                home_network: true,
                home_user: true,
                euid: 1000,
                net_raw: false,
                marker: None,
                ancestors: Vec::new(),
            };
            let resolvers = vec!["/run/nscd/socket"];
            Self { inspection, memory: Vec::new(), sockets: Vec::new(), resolvers }
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

        fn read(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
            Ok(self.memory[self.range(address, length)?].to_vec())
        }

        fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
            let range = self.range(address, bytes.len())?;
            self.memory[range].copy_from_slice(bytes);
            Ok(())
        }

        fn domain(&mut self, fd: i32) -> Result<i32, Errno> {
            self.sockets.get(fd as usize).copied().ok_or(Errno::EBADF)
        }

        fn is_host_resolver(&mut self, path: &[u8]) -> Result<bool, Errno> {
            Ok(self.resolvers.iter().any(|r| r.as_bytes() == path))
        }
    }
}

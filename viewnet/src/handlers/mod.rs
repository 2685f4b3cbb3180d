//! The one table of system calls that a view traps, and what answers them.
//!
//! # Theory of operation
//! [`TABLE`] says, per call, its numbers, when it is trapped (conditions on its registers, for the filter
//! to judge) and which handler answers it. [`crate::filter`] builds the BPF program from this table, so the
//! two cannot disagree. Everything that is not here runs natively at full speed, the whole data path
//! included; [`REFUSED`] fails in the kernel without asking us.
//!
//! Handlers are safe code and never block; they see the program through [`Target`] only and say what
//! should happen with an [`Answer`].

mod connect;
mod interface;
mod namespace;
mod socket;

use nix::errno::Errno;
use stacks::stack::Stack;

use crate::answer::{Answer, Stop};
use crate::target::{Inspection, Target};

/// How a call's number and arguments are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    /// The machine's own.
    Native,
    /// 32-bit x86 on an x86-64 kernel (int 0x80).
    I386,
}

/// AUDIT_ARCH_I386, linux/audit.h.
pub(crate) const ARCH_I386: u32 = 0x4000_0003;

/// A condition on the low 32 bits of one argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cond {
    /// Equal.
    Is(u8, u32),
    /// Not equal.
    Not(u8, u32),
    /// Between, both ends included.
    Between(u8, u32, u32),
    /// All these bits are set.
    Has(u8, u32),
}

/// A trapped call.
pub(crate) struct Row {
    /// Its name, as strace prints it.
    pub(crate) name: &'static str,
    /// Its number on this machine.
    pub(crate) native: i64,
    /// Its number for 32-bit x86 programs.
    pub(crate) i386: Option<i64>,
    /// When it is trapped: any of these, each being all of its conditions. None at all: always.
    pub(crate) when: &'static [&'static [Cond]],
    /// What answers it.
    pub(crate) handler: fn(&mut Call<'_>) -> Answer,
}

/// A call that fails in the kernel, in a view.
pub(crate) struct Refused {
    /// Its number on this machine.
    pub(crate) native: i64,
    /// Its number for 32-bit x86 programs.
    pub(crate) i386: Option<i64>,
    /// What the program sees.
    pub(crate) errno: Errno,
}

const UNIX: u32 = libc::AF_UNIX as u32;
const ALG: u32 = libc::AF_ALG as u32;
const NETLINK: u32 = libc::AF_NETLINK as u32;

/// The calls that viewnet answers. AF_UNIX and AF_ALG sockets are no network; of netlink, the protocols
/// in [`socket::HOST_NETLINK`] speak of the machine rather than of a network.
pub(crate) const TABLE: &[Row] = &[
    Row {
        name: "socket",
        native: libc::SYS_socket,
        i386: Some(359),
        when: &[
            &[Cond::Not(0, UNIX), Cond::Not(0, ALG), Cond::Not(0, NETLINK)],
            &[
                Cond::Is(0, NETLINK),
                Cond::Not(2, socket::HOST_NETLINK[0] as u32),
                Cond::Not(2, socket::HOST_NETLINK[1] as u32),
                Cond::Not(2, socket::HOST_NETLINK[2] as u32),
                Cond::Not(2, socket::HOST_NETLINK[3] as u32),
            ],
        ],
        handler: socket::socket,
    },
    Row {
        name: "socketpair",
        native: libc::SYS_socketpair,
        i386: Some(360),
        when: &[&[Cond::Not(0, UNIX)]],
        handler: socket::socketpair,
    },
    Row {
        name: "connect",
        native: libc::SYS_connect,
        i386: Some(362),
        // A path of a host resolver has none of the lengths of sockaddr_nl, sockaddr_in and sockaddr_in6.
        when: &[&[Cond::Not(2, 12), Cond::Not(2, 16), Cond::Not(2, 28)]],
        handler: connect::connect,
    },
    Row {
        name: "ioctl",
        native: libc::SYS_ioctl,
        i386: Some(54),
        // Interface requests, for libc asks them on AF_UNIX sockets. Left out: SIOCOUTQNSD,
        // SIOCGSKNS, and SIOCPROTOPRIVATE, which AF_UNIX uses for itself.
        when: &[
            &[Cond::Between(1, 0x8910, 0x894a)],
            &[Cond::Between(1, 0x8953, 0x89df)],
            &[Cond::Between(1, 0x89f0, 0x89ff)],
            &[Cond::Between(1, 0x8b00, 0x8bff)],
        ],
        handler: interface::ioctl,
    },
    Row {
        name: "unshare",
        native: libc::SYS_unshare,
        i386: Some(310),
        when: &[&[Cond::Has(0, libc::CLONE_NEWNET as u32)]],
        handler: namespace::leave,
    },
    Row { name: "setns", native: libc::SYS_setns, i386: Some(346), when: &[], handler: namespace::leave },
    Row {
        name: "socketcall",
        native: -1,
        i386: Some(102),
        // SYS_SOCKET, SYS_CONNECT, SYS_SOCKETPAIR of linux/net.h.
        when: &[&[Cond::Is(0, 1)], &[Cond::Is(0, 3)], &[Cond::Is(0, 8)]],
        handler: socket::socketcall,
    },
];

/// The calls that fail. A ring could make sockets that no filter sees (IORING_OP_SOCKET); EPERM is what
/// kernel.io_uring_disabled=2 says, so programs have a way without.
pub(crate) const REFUSED: &[Refused] =
    &[Refused { native: libc::SYS_io_uring_setup, i386: Some(425), errno: Errno::EPERM }];

/// A call to be answered.
pub(crate) struct Call<'a> {
    /// How to read it.
    pub(crate) abi: Abi,
    /// Arguments as they were in the registers.
    pub(crate) args: [u64; 6],
    /// The program.
    pub(crate) target: &'a mut dyn Target,
    /// What the supervisor knows of the calling thread.
    pub(crate) caller: &'a mut dyn Caller,
}

/// What the supervisor knows of a calling thread.
pub(crate) trait Caller {
    /// The stack its view answers with, or `None` if it has gone to a network namespace of its own.
    fn stack(&mut self, target: &mut dyn Target) -> Result<Option<&mut dyn Stack>, Errno>;
    /// Forget what is known: it is about to change.
    fn forget(&mut self);
    /// The owner of the view's stacks, as a user id of the host.
    fn owner(&self) -> u32;
    /// A control line to the supervisor: the program's end.
    fn control(&mut self) -> Result<std::os::fd::OwnedFd, Errno>;
}

impl Call<'_> {
    /// Argument `n` as the C type int.
    pub(crate) fn int(&self, n: usize) -> i32 {
        self.args[n] as i32
    }

    /// Argument `n` as an address.
    pub(crate) fn address(&self, n: usize) -> u64 {
        match self.abi {
            Abi::Native => self.args[n],
            Abi::I386 => self.args[n] & 0xffff_ffff,
        }
    }

    /// Who the calling thread is.
    pub(crate) fn inspect(&mut self) -> Result<Inspection, Stop> {
        Ok(self.target.inspect()?)
    }
}

/// The row of a trapped call.
pub(crate) fn find(abi: Abi, nr: i64) -> Option<&'static Row> {
    TABLE.iter().find(|row| match abi {
        Abi::Native => row.native == nr,
        Abi::I386 => row.i386 == Some(nr),
    })
}

#[cfg(test)]
mod tests;

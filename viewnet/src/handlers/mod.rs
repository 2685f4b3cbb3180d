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
pub(crate) mod smol;
mod socket;
pub(crate) mod steer;

pub(crate) use socket::{is_of_the_machine, refusal};

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use stacks::smol::call::Caller as Who;
use stacks::stack::{Kind, SocketSpec};

use crate::answer::{Answer, Stop};
use crate::ask::Ask;
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

/// A condition on one argument: on its low 32 bits, if nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cond {
    /// Equal.
    Is(u8, u32),
    /// Not equal.
    Not(u8, u32),
    /// Between, both ends included.
    Between(u8, u32, u32),
    /// All these bits are set.
    Has(u8, u32),
    /// Of these bits, those are set and no others.
    Masked(u8, u32, u32),
    /// Not zero in any of its 64 bits: a pointer that is not null.
    Given(u8),
}

/// Says what to ask the stack of the socket that a call is made on.
pub(crate) type Marshal = fn(&mut Call<'_>) -> Result<Ask, Stop>;

/// A trapped call.
#[derive(Debug)]
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
    /// The call is made on a descriptor ([`Row::descriptor`]): if that is a socket of a stack in a library,
    /// this asks the stack, and [`Row::handler`] answers for all others.
    pub(crate) asks: Option<Marshal>,
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

/// When socket(2) is trapped. AF_UNIX and AF_ALG sockets are no network; of netlink, the protocols in
/// [`socket::HOST_NETLINK`] speak of the machine rather than of a network.
const SOCKETS: &[&[Cond]] = &[
    &[Cond::Not(0, UNIX), Cond::Not(0, ALG), Cond::Not(0, NETLINK)],
    &[
        Cond::Is(0, NETLINK),
        Cond::Not(2, socket::HOST_NETLINK[0] as u32),
        Cond::Not(2, socket::HOST_NETLINK[1] as u32),
        Cond::Not(2, socket::HOST_NETLINK[2] as u32),
        Cond::Not(2, socket::HOST_NETLINK[3] as u32),
    ],
];

/// When ioctl(2) is an interface request; libc makes them on AF_UNIX sockets. Left out: SIOCOUTQNSD,
/// SIOCGSKNS, and SIOCPROTOPRIVATE, which AF_UNIX uses for itself.
const INTERFACES: &[&[Cond]] = &[
    &[Cond::Between(1, 0x8910, 0x894a)],
    &[Cond::Between(1, 0x8953, 0x89df)],
    &[Cond::Between(1, 0x89f0, 0x89ff)],
    &[Cond::Between(1, 0x8b00, 0x8bff)],
];

/// The calls that viewnet answers in a view whose sockets are the kernel's.
pub(crate) const TABLE: &[Row] = &[
    Row {
        name: "socket",
        native: libc::SYS_socket,
        i386: Some(359),
        when: SOCKETS,
        handler: socket::socket,
        asks: None,
    },
    Row {
        name: "socketpair",
        native: libc::SYS_socketpair,
        i386: Some(360),
        when: &[&[Cond::Not(0, UNIX)]],
        handler: socket::socketpair,
        asks: None,
    },
    Row {
        name: "connect",
        native: libc::SYS_connect,
        i386: Some(362),
        // A path of a host resolver has none of the lengths of sockaddr_nl, sockaddr_in and sockaddr_in6.
        when: &[&[Cond::Not(2, 12), Cond::Not(2, 16), Cond::Not(2, 28)]],
        handler: connect::connect,
        asks: None,
    },
    Row {
        name: "ioctl",
        native: libc::SYS_ioctl,
        i386: Some(54),
        when: INTERFACES,
        handler: interface::ioctl,
        asks: None,
    },
    Row {
        name: "unshare",
        native: libc::SYS_unshare,
        i386: Some(310),
        when: &[&[Cond::Has(0, libc::CLONE_NEWNET as u32)]],
        handler: namespace::leave,
        asks: None,
    },
    Row {
        name: "setns",
        native: libc::SYS_setns,
        i386: Some(346),
        when: &[],
        handler: namespace::leave,
        asks: None,
    },
    Row {
        name: "socketcall",
        native: -1,
        i386: Some(102),
        // SYS_SOCKET, SYS_CONNECT, SYS_SOCKETPAIR of linux/net.h.
        when: &[&[Cond::Is(0, 1)], &[Cond::Is(0, 3)], &[Cond::Is(0, 8)]],
        handler: socket::socketcall,
        asks: None,
    },
];

/// The calls that viewnet answers, besides those of [`TABLE`] or in their place, in a view whose sockets are the
/// kernel's and whose rules look at destinations. They are judged ([`steer`]) and then the kernel's.
const STEERED: &[Row] = &[
    Row {
        name: "bind",
        native: libc::SYS_bind,
        i386: Some(361),
        when: &[],
        handler: steer::native,
        asks: None,
    },
    Row {
        name: "connect",
        native: libc::SYS_connect,
        i386: Some(362),
        when: &[],
        handler: connect::connect,
        asks: None,
    },
    Row {
        name: "sendto",
        native: libc::SYS_sendto,
        i386: Some(369),
        when: &[&[Cond::Given(4)]],
        handler: steer::native,
        asks: None,
    },
    Row {
        name: "sendmsg",
        native: libc::SYS_sendmsg,
        i386: Some(370),
        when: &[],
        handler: steer::native,
        asks: None,
    },
    Row {
        name: "sendmmsg",
        native: libc::SYS_sendmmsg,
        i386: Some(345),
        when: &[],
        handler: steer::native,
        asks: None,
    },
    Row {
        name: "socketcall",
        native: -1,
        i386: Some(102),
        // SYS_SOCKET, SYS_BIND, SYS_CONNECT, SYS_SOCKETPAIR, SYS_SENDTO, SYS_SENDMSG, SYS_SENDMMSG of linux/net.h.
        when: &[
            &[Cond::Between(0, 1, 3)],
            &[Cond::Is(0, 8)],
            &[Cond::Is(0, 11)],
            &[Cond::Is(0, 16)],
            &[Cond::Is(0, 20)],
        ],
        handler: socket::socketcall,
        asks: None,
    },
];

/// The calls that a view traps: those of its table.
pub(crate) type Table = Vec<&'static Row>;

/// The table of a view: `library` if a stack of it is one, `steered` if its rules look at destinations.
pub(crate) fn table(library: bool, steered: bool) -> Table {
    match (library, steered) {
        // All that rules need is there.
        (true, _) => smol::TABLE.iter().collect(),
        (false, false) => TABLE.iter().collect(),
        (false, true) => {
            let replaced = |row: &&Row| !STEERED.iter().any(|other| other.name == row.name);
            TABLE.iter().filter(replaced).chain(STEERED).collect()
        }
    }
}

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
    /// The kind of stack that makes its sockets of a family (AF_*), or `None` if those are the kernel's: on the host's
    /// network, or because it has gone to a network namespace of its own.
    fn stack(&mut self, family: i32, target: &mut dyn Target) -> Result<Option<Kind>, Errno>;
    /// A socket of that stack.
    fn socket(&mut self, spec: SocketSpec, target: &mut dyn Target) -> Result<OwnedFd, Errno>;
    /// Whether its view has the host's internet, so that the host may resolve its names.
    fn is_on_host(&mut self, target: &mut dyn Target) -> Result<bool, Errno>;
    /// Who it is, for a stack that judges by itself.
    fn identity(&mut self, target: &mut dyn Target) -> Result<Who, Errno>;
    /// Forget what is known: it is about to change.
    fn forget(&mut self);
    /// The owner of the view's stacks, as a user id of the host.
    fn owner(&self) -> u32;
    /// A control line to the supervisor: the program's end.
    fn control(&mut self) -> Result<OwnedFd, Errno>;
}

impl Call<'_> {
    /// Argument `n` as the C type int.
    pub(crate) fn int(&self, n: usize) -> i32 {
        self.args[n] as i32
    }

    /// Argument `n` as the C type size_t, cut to what the kernel transfers at once.
    pub(crate) fn size(&self, n: usize) -> usize {
        // MAX_RW_COUNT, linux/fs.h.
        usize::try_from(self.address(n)).map_or(0x7fff_f000, |size| size.min(0x7fff_f000))
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

impl Cond {
    /// Whether it holds for a call: what the filter says, for calls that come through socketcall(2).
    fn holds(self, args: &[u64; 6]) -> bool {
        let low = |arg: u8| args[usize::from(arg)] as u32;
        match self {
            Self::Is(arg, value) => low(arg) == value,
            Self::Not(arg, value) => low(arg) != value,
            Self::Between(arg, least, most) => (least..=most).contains(&low(arg)),
            Self::Has(arg, bits) => low(arg) & bits == bits,
            Self::Masked(arg, mask, bits) => low(arg) & mask == bits,
            Self::Given(arg) => args[usize::from(arg)] != 0,
        }
    }
}

impl Row {
    /// Which argument of a call that [`Row::asks`] is its descriptor.
    pub(crate) fn descriptor(&self) -> usize {
        if self.native == libc::SYS_mmap { 4 } else { 0 }
    }

    /// Whether its first argument is a descriptor that can be marked as exempt ([`smol::EXEMPT`]).
    pub(crate) fn can_be_exempt(&self) -> bool {
        let same = |row: &Self| row.name == self.name && row.when == self.when && row.native >= 0;
        self.asks.is_some() && self.descriptor() == 0 || STEERED.iter().any(same)
    }

    /// Whether a call with these arguments is trapped.
    pub(crate) fn applies(&self, args: &[u64; 6]) -> bool {
        self.when.is_empty() || any_holds(self.when, args)
    }
}

/// Whether any of these holds, each being all of its conditions.
fn any_holds(when: &[&[Cond]], args: &[u64; 6]) -> bool {
    when.iter().any(|all| all.iter().all(|cond| cond.holds(args)))
}

/// The row of a trapped call.
pub(crate) fn find(table: &[&'static Row], abi: Abi, nr: i64) -> Option<&'static Row> {
    table.iter().copied().find(|row| match abi {
        Abi::Native => row.native == nr,
        Abi::I386 => row.i386 == Some(nr),
    })
}

#[cfg(test)]
pub(crate) mod tests;

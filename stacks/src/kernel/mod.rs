//! The kernel stack: a Linux network namespace in the user's own user namespace.
//!
//! # Theory of operation
//! A process that has become a maker ([`namespace::enter_new`] or [`namespace::enter`]) creates stacks and
//! makes sockets in them; a program that is given such a socket uses the real kernel TCP/IP from then on,
//! and nothing of ours stands in its data path. An interface of the stack is a TAP whose descriptor is
//! handed to a switch, or, where /dev/net/tun is closed, a veth whose far end waits in a namespace of its
//! own (the closet) with a packet socket on it that is handed to the switch instead.
//!
//! The namespace lives as long as somebody holds it: this process, or any socket made in it. The plugs die
//! with the [`KernelStack`]: its connection to the switch closes, and the switch lets go of the port.

mod files;
pub(crate) mod interfaces;
pub mod namespace;
pub mod netlink;
mod nftables;
pub mod orphans;
mod plug;
pub(crate) mod sys;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use msocket_proto::line::Refusal;
use msocket_proto::proto::{File, FilterChange};
use nix::errno::Errno;

use crate::attach;
use crate::config::{Link, StackConfig};
use crate::filter::Listing;
use crate::smol::host::now;
use crate::stack::{InterfaceInfo, Kind, SocketSpec, Stack};
use crate::steward::kernel::KernelSteward;
use interfaces::Interfaces;
use namespace::{NetNamespace, Step};
use nftables::Nftables;
use orphans::Unfinished;
use plug::Plug;

/// Why a stack could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetUpError {
    /// The machine does not let us; the caller knows better words than an errno.
    #[error("{0:?}: {1}")]
    Step(Step, Errno),
    /// Something about the configuration.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<(Step, Errno)> for SetUpError {
    fn from((step, errno): (Step, Errno)) -> Self {
        Self::Step(step, errno)
    }
}

impl From<SetUpError> for Refusal {
    fn from(error: SetUpError) -> Self {
        match error {
            SetUpError::Step(step, errno) => step.refusal(errno),
            SetUpError::Refused(refusal) => refusal,
        }
    }
}

/// A network namespace with its plugs.
#[derive(Debug)]
pub struct KernelStack {
    namespace: NetNamespace,
    /// What each of our interfaces is plugged into, for people.
    links: HashMap<String, String>,
    /// Connections to switches; dropping one unplugs the interface.
    plugs: Vec<Plug>,
    /// Who keeps its leases, and the nameserver on its loopback.
    steward: Option<Box<KernelSteward>>,
    /// Its view of /sys, once somebody has asked for it.
    sysfs: Option<OwnedFd>,
    filter: Box<Nftables>,
}

/// Has the namespace that the thread is in pass on packets of others.
fn become_router() -> Result<(), Refusal> {
    for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        match namespace::sysctl(name, "1") {
            // A machine without IPv6.
            Err(Errno::ENOENT) => {}
            other => other.map_err(|e| Refusal::system(format!("cannot set {name}"), e))?,
        }
    }
    Ok(())
}

impl KernelStack {
    /// Makes a stack as `config` says. The process must be a maker; afterwards it is in the new namespace.
    /// `name` marks the stack's ports on its switches, which have their sockets in `switches`.
    ///
    /// # Errors
    /// The step that failed, or what is wrong with the configuration. Nothing is left behind.
    pub fn create(name: &str, config: &StackConfig, switches: &std::path::Path) -> Result<Self, SetUpError> {
        if !config.limits.is_default() {
            return Err(Refusal::new(
                format!("cannot limit stack {name}"),
                "a kernel stack is the kernel's, which counts by control group",
            )
            .hint("use a smol stack, or limit the program: `systemd-run --scope -p MemoryMax=64M`")
            .into());
        }
        let namespace = NetNamespace::create()?;
        let mut stack = Self {
            namespace,
            links: HashMap::new(),
            plugs: Vec::new(),
            steward: None,
            sysfs: None,
            filter: Box::default(),
        };
        if !config.filter.is_empty() {
            // Before anything can come in.
            stack.filter.set(&config.filter)?;
        }
        if config.forward {
            become_router()?;
        }
        let mut interfaces = Interfaces::open()?;
        interfaces.up(interfaces::LOOPBACK)?;
        for interface in &config.interfaces {
            if interface.pcap.is_some() {
                return Err(Refusal::new(
                    format!("cannot record the frames of {}", interface.name),
                    "a kernel stack moves them without us",
                )
                .hint("run `tcpdump -w FILE` in the view, or use a smol stack")
                .into());
            }
            match (&interface.link, interface.link.plug().or_else(|| interface.link.tunnel())) {
                (Link::None, _) => plug::unplugged(&stack.namespace, &interface.name)?,
                (_, Some(to)) => {
                    let path = attach::path(switches, to.switch);
                    stack.plugs.push(plug::plug(&stack.namespace, name, &interface.name, &path, &to)?);
                    if interface.link.tunnel().is_some() {
                        interfaces.become_tunnel(&interface.name)?;
                    }
                }
                (link, None) => {
                    return Err(Refusal::new(
                        format!("cannot plug {} into {link}", interface.name),
                        "a kernel stack plugs into viewnet's switches and tunnels only",
                    )
                    .hint("use a smol stack, or a switch in between: `viewnet switch port add`")
                    .into());
                }
            }
            stack.links.insert(interface.name.clone(), interface.link.to_string());
            interfaces.configure(interface)?;
        }
        for route in &config.routes {
            interfaces.add_route(route)?;
        }
        let steward = KernelSteward::new(now(), config);
        let steward = steward.map_err(|e| Refusal::system("cannot make the view's steward", e))?;
        stack.steward = steward.map(Box::new);
        Ok(stack)
    }

    /// A stack that somebody else keeps; its plugs are theirs.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn from_namespace(fd: OwnedFd) -> Result<Self, Errno> {
        Ok(Self {
            namespace: NetNamespace::from_fd(fd)?,
            links: HashMap::new(),
            plugs: Vec::new(),
            steward: None,
            sysfs: None,
            filter: Box::default(),
        })
    }

    /// The namespace, to be joined by another maker of the same user.
    pub fn net_namespace(&self) -> &NetNamespace {
        &self.namespace
    }

    /// Readable when [`Self::turn`] has something to do.
    pub fn steward(&self) -> Option<BorrowedFd<'_>> {
        self.steward.as_ref().map(|steward| steward.as_fd())
    }

    /// Does what is to be done for the stack itself.
    pub fn turn(&mut self) {
        if let Some(steward) = self.steward.as_mut().filter(|_| self.namespace.enter().is_ok()) {
            steward.turn(now());
        }
    }

    /// Gives back what it has from its networks.
    fn leave(&mut self) {
        if let Some(mut steward) = self.steward.take().filter(|_| self.namespace.enter().is_ok()) {
            steward.end(now());
        }
    }

    /// Changes the packet filter, if so said, and shows it.
    ///
    /// # Errors
    /// The change makes no sense, or the kernel does not do it.
    pub fn filter(&mut self, change: Option<&FilterChange>) -> Result<Listing, Refusal> {
        self.namespace.enter().map_err(|e| Refusal::system("cannot enter the stack", e))?;
        self.filter.ask(change)
    }

    /// What its sockets without a program still have to do for peers beyond its plugs.
    pub fn unfinished(&self) -> Unfinished {
        if self.plugs.is_empty() || self.namespace.enter().is_err() {
            return Unfinished::Nothing;
        }
        orphans::unfinished()
    }

    /// Sets every interface down and unplugs them: programs that still use the stack get errors.
    ///
    /// # Errors
    /// Why an interface stays up.
    pub fn shut(&mut self) -> Result<(), Refusal> {
        self.leave();
        self.plugs.clear();
        self.namespace.enter().map_err(|e| Refusal::system("cannot enter the stack", e))?;
        let mut interfaces = Interfaces::open()?;
        interfaces.down(interfaces::LOOPBACK)?;
        for name in self.links.keys() {
            // A TAP goes away with its plug.
            if let Ok(index) = interfaces::index_of(name) {
                interfaces.down(index)?;
            }
        }
        Ok(())
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Stack for KernelStack {
    fn kind(&self) -> Kind {
        Kind::Kernel
    }

    fn socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        self.namespace.enter()?;
        sys::socket(spec.domain, spec.kind | libc::SOCK_CLOEXEC, spec.protocol)
    }

    fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, Refusal> {
        self.namespace.enter().map_err(|e| Refusal::system("cannot enter the stack", e))?;
        let links = &self.links;
        let mut listed = Interfaces::open()?.list(|name| links.get(name).cloned().unwrap_or_default())?;
        for interface in &mut listed {
            let steward = self.steward.as_ref();
            interface.lease_s = steward.and_then(|it| it.left(now(), &interface.name));
            interface.lease_v6_s = steward.and_then(|it| it.left_v6(now(), &interface.name));
        }
        Ok(listed)
    }

    fn file(&mut self, file: &File) -> Result<OwnedFd, Errno> {
        self.namespace.enter()?;
        files::open(file, &mut self.sysfs)
    }

    fn namespace(&self) -> Option<BorrowedFd<'_>> {
        Some(self.namespace.as_fd())
    }
}

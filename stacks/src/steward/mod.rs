//! The steward: what is done for a stack as long as it lives, beside moving its packets.
//!
//! # Theory of operation
//! It keeps the leases of the stack's interfaces ([`renewal`]), listens to their IPv6 routers for what those say of DHCPv6 and of
//! names ([`routers`]), and answers for the nameserver on its loopback
//! ([`nameserver`]). Whoever has the stack has its steward: the supervisor of a view, the keeper of a kept stack. It works
//! on sockets of the stack, of the kernel ([`kernel`]) or of an engine ([`smol`]), and is a core otherwise: it is to be called
//! when something happened to one of them, or when [`Steward::poll_timeout`] has passed.
//!
//! What IPv6 routers say of networks and of themselves the stack hears itself: a kernel (net.ipv6.conf.*.accept_ra), and an
//! engine (`tables/advertised.rs`).

pub mod kernel;
pub mod nameserver;
pub mod renewal;
mod routers;
pub(crate) mod smol;

use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use nix::errno::Errno;

use crate::config::StackConfig;
use crate::dhcp6;
use crate::gateway::advertise::Heard;
use nameserver::Stub;
use renewal::{Change, Message, Renewal};
use routers::Listener;

/// Longest message of DHCP that is taken: a frame.
const LONGEST: usize = 1500;
/// Messages taken from one interface in a row.
const TURN: usize = 16;

/// A stack's sockets. Nothing waits: what would is EAGAIN.
pub trait Sockets {
    /// A socket.
    type Id: Copy + PartialEq + Debug;

    /// A UDP socket, at an address, or at any for speaking to `like`.
    fn datagrams(&mut self, at: Option<SocketAddr>, like: SocketAddr) -> Result<Self::Id, Errno>;
    /// A TCP socket that listens.
    fn listener(&mut self, at: SocketAddr) -> Result<Self::Id, Errno>;
    /// A TCP connection that is being made.
    fn connection(&mut self, to: SocketAddr) -> Result<Self::Id, Errno>;
    /// The next connection of a listener.
    fn accept(&mut self, listener: Self::Id) -> Option<Self::Id>;
    /// The next datagram, into `buffer`: its length, and who sent it.
    fn receive(&mut self, socket: Self::Id, buffer: &mut [u8]) -> Option<(usize, SocketAddr)>;
    /// Sends a datagram; where there is no room it is lost, as anywhere.
    fn send(&mut self, socket: Self::Id, to: SocketAddr, data: &[u8]);
    /// Bytes of a connection; 0: no more will come.
    fn read(&mut self, socket: Self::Id, buffer: &mut [u8]) -> Result<usize, Errno>;
    /// Bytes for a connection; how many were taken.
    fn write(&mut self, socket: Self::Id, data: &[u8]) -> Result<usize, Errno>;
    /// No more will be written.
    fn finish(&mut self, socket: Self::Id);
    /// A UDP socket of a DHCP client on an interface, port 68, which may send to everybody.
    fn client(&mut self, interface: &str) -> Result<Self::Id, Errno>;
    /// Makes a change to an interface's addresses and routes.
    fn change(&mut self, interface: &str, change: &Change);
    /// A UDP socket of a DHCPv6 client on an interface, port 546.
    fn client_v6(&mut self, interface: &str) -> Result<Self::Id, Errno>;
    /// A raw socket to which IPv6 routers advertise on an interface.
    fn routers(&mut self, interface: &str) -> Result<Self::Id, Errno>;
    /// The next advertisement of a router of the link, into `buffer`: its length, and the router.
    fn advertisement(&mut self, socket: Self::Id, buffer: &mut [u8]) -> Option<(usize, Ipv6Addr)>;
    /// The router that was heard before there was a stack has advertised again, as the stack may have heard itself.
    fn heard(&mut self, interface: &str, heard: &Heard);
    /// Makes a change to an interface's address by DHCPv6.
    fn change_v6(&mut self, now: Instant, interface: &str, change: &dhcp6::client::Change);
    /// It is over.
    fn close(&mut self, socket: Self::Id);
}

/// The steward of a stack.
#[derive(Debug)]
pub struct Steward<I> {
    stub: Option<Stub<I>>,
    tenants: Vec<Tenant<I>>,
    listeners: Vec<Listener<I>>,
}

/// An interface with a lease.
#[derive(Debug)]
struct Tenant<I> {
    interface: String,
    renewal: Renewal,
    /// Open only while an answer is waited for: at other times the port is a program's.
    socket: Option<I>,
}

impl<I: Copy + PartialEq + Debug> Steward<I> {
    /// A steward for a stack that was made as `config` says; none, if there is nothing to do. `seed` makes its numbers
    /// hard to guess.
    ///
    /// # Errors
    /// Why it cannot ask the nameserver.
    pub fn new<S: Sockets<Id = I>>(
        now: Instant,
        sockets: &mut S,
        config: &StackConfig,
        seed: u64,
    ) -> Result<Option<Self>, Errno> {
        let stub = config.nameserver.as_ref().map(|it| Stub::new(sockets, it, seed)).transpose()?;
        let leased = config.interfaces.iter().zip(0u32..).filter_map(|(interface, place)| {
            let (mac, lease) = (interface.mac?, interface.lease.clone()?);
            let renewal = Renewal::new(now, mac, (seed as u32).wrapping_add(place << 16), lease);
            Some(Tenant { interface: interface.name.clone(), renewal, socket: None })
        });
        let tenants: Vec<_> = leased.collect();
        let listening = config.interfaces.iter().zip(0u32..);
        let listeners: Vec<_> = listening
            .filter_map(|(it, place)| {
                Listener::new(now, sockets, it, (seed as u32).wrapping_add(place << 16))
            })
            .collect();
        let any = stub.is_some() || !tenants.is_empty() || !listeners.is_empty();
        Ok(any.then_some(Self { stub, tenants, listeners }))
    }

    /// Whether a socket is one of its own.
    pub fn owns(&self, id: I) -> bool {
        self.stub.as_ref().is_some_and(|stub| stub.owns(id))
            || self.tenants.iter().any(|tenant| tenant.socket == Some(id))
            || self.listeners.iter().any(|listener| listener.owns(id))
    }

    /// When to call [`Self::turn`], if nothing happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tenants = self.tenants.iter().map(|tenant| tenant.renewal.poll_timeout());
        tenants.chain(self.listeners.iter().filter_map(Listener::poll_timeout)).min()
    }

    /// For how many seconds an interface has its lease of DHCPv6.
    pub fn left_v6(&self, now: Instant, interface: &str) -> Option<u64> {
        let listener = self.listeners.iter().find(|listener| listener.interface == interface)?;
        listener.left(now).map(|left| left.as_secs())
    }

    /// For how many seconds an interface has its lease.
    pub fn left(&self, now: Instant, interface: &str) -> Option<u64> {
        let tenant = self.tenants.iter().find(|tenant| tenant.interface == interface)?;
        tenant.renewal.left(now).map(|left| left.as_secs())
    }

    /// Something happened, or time has passed.
    pub fn turn<S: Sockets<Id = I>>(&mut self, now: Instant, sockets: &mut S) {
        if let Some(stub) = &mut self.stub {
            stub.turn(now, sockets);
        }
        for tenant in &mut self.tenants {
            tenant.turn(now, sockets);
        }
        for listener in &mut self.listeners {
            listener.turn(now, sockets);
        }
        self.follow_names(now, sockets);
    }

    /// The stack ends: what it had by DHCPv6 is given back.
    pub fn end<S: Sockets<Id = I>>(&mut self, now: Instant, sockets: &mut S) {
        for listener in &mut self.listeners {
            listener.end(now, sockets);
        }
    }

    /// The nameserver of IPv6 that is asked is one that is known now, if any is.
    fn follow_names<S: Sockets<Id = I>>(&mut self, now: Instant, sockets: &mut S) {
        let Some(stub) = &mut self.stub else { return };
        let IpAddr::V6(asked) = stub.server().ip() else { return };
        let mut known = self.listeners.iter().flat_map(|listener| listener.nameservers(now)).peekable();
        let Some(first) = known.peek().copied() else { return };
        if !known.any(|known| known == asked)
            && let Err(errno) = stub.ask_another(sockets, first.into())
        {
            log::warn!("the nameserver {first} cannot be asked: {errno}");
        }
    }
}

impl<I: Copy> Tenant<I> {
    fn turn<S: Sockets<Id = I>>(&mut self, now: Instant, sockets: &mut S) {
        let told = self.renewal.handle_timeout(now);
        if told.1.is_some() && self.socket.is_none() {
            // A program has the port: next time, perhaps.
            self.socket = sockets.client(&self.interface).ok();
        }
        self.tell(told, sockets);
        let mut buffer = [0; LONGEST];
        for _ in 0..TURN {
            let Some(socket) = self.socket else { return };
            let Some((length, from)) = sockets.receive(socket, &mut buffer) else { break };
            if from.port() == renewal::SERVER {
                let told = self.renewal.handle_message(now, &buffer[..length]);
                self.tell(told, sockets);
            }
        }
        if !self.renewal.asks()
            && let Some(socket) = self.socket.take()
        {
            sockets.close(socket);
        }
    }

    fn tell<S: Sockets<Id = I>>(
        &self,
        (change, message): (Option<Change>, Option<Message>),
        sockets: &mut S,
    ) {
        if let Some(change) = change {
            log::info!("{}: {change:?}", self.interface);
            sockets.change(&self.interface, &change);
        }
        if let (Some(message), Some(socket)) = (message, self.socket) {
            sockets.send(socket, message.to, &message.bytes);
        }
    }
}

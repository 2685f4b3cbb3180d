//! The other end of a switch's control socket.
//!
//! # Theory of operation
//! A [`Client`] is a blocking connection with one method per request; no call waits longer than [`PATIENCE`].
//! A port attached without `linger` lives as long as the connection: [`Attached`] owns both, and dropping it,
//! or the death of the process, unplugs them. The connection is a mere descriptor: [`Client::into_line`] gives
//! it away, to another process for example.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use msocket_proto::line::{CallError, Line, LineError};
use serde::de::DeserializeOwned;

use crate::capture::Record;
pub use crate::control::traffic;
pub use crate::control::{
    Attach, CaptureInfo, CaptureRule, Hello, Impair, Impairment, LineInfo, MacFilter, MirrorInfo, MirrorRule,
    PortAdded, PortInfo, PortStp, Request, Settings, Show, Station, VlanInfo,
};
use crate::offload::VnetHdr;
pub use crate::ports::Kind;
use crate::ports::ring::{Broken, Handover, Ring};
pub use crate::stp::config::{Change as StpChange, PortChange as StpPortChange, Tree as StpTree};

/// How long a switch may take to answer; it answers at once unless its machine stands still.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a capture's ring: what comes while its reader writes to a disk that is busy for some milliseconds.
const CAPTURE_RING: u32 = 8 << 20;

/// A connection to a switch.
#[derive(Debug)]
pub struct Client {
    line: Line,
}

impl Client {
    /// Connects to the control socket `path`.
    ///
    /// # Errors
    /// Those of connect(2): ENOENT and ECONNREFUSED mean that no switch runs there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::from_line(Line::connect(path)?)
    }

    /// Takes over a connection.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn from_line(line: Line) -> io::Result<Self> {
        line.stream().set_read_timeout(Some(PATIENCE))?;
        line.stream().set_write_timeout(Some(PATIENCE))?;
        Ok(Self { line })
    }

    /// The connection, to be watched: nothing comes over it unasked, but it hangs up when the switch ends.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Gives the connection away; ports attached by it live on with it.
    pub fn into_line(self) -> Line {
        self.line
    }

    /// Plugs `fd` in as a port; the switch has a descriptor of its own then. Several ports may share one
    /// connection.
    ///
    /// # Errors
    /// The connection's, or the switch's refusal.
    pub fn add_port(&mut self, fd: impl AsFd, attach: &Attach) -> Result<PortAdded, CallError> {
        Ok(self.line.call(&Request::PortAdd(attach.clone()), &[fd.as_fd()])?.0)
    }

    /// As [`Client::add_port`], for a port of several descriptors, in [`Kind`]'s order.
    ///
    /// # Errors
    /// The connection's, or the switch's refusal.
    pub fn add_port_of(&mut self, fds: &[OwnedFd], attach: &Attach) -> Result<PortAdded, CallError> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        Ok(self.line.call(&Request::PortAdd(attach.clone()), &fds)?.0)
    }

    /// Plugs the other end of a ring in as a port; `attach.kind` must be [`Kind::Ring`].
    ///
    /// # Errors
    /// The connection's, or the switch's refusal.
    pub fn add_ring(&mut self, ends: &Handover, attach: &Attach) -> Result<PortAdded, CallError> {
        let [memory, bell, peer] = ends.each_ref().map(AsFd::as_fd);
        Ok(self.line.call(&Request::PortAdd(attach.clone()), &[memory, bell, peer])?.0)
    }

    /// As [`Client::add_port`], with the port and the connection in one value.
    ///
    /// # Errors
    /// The connection's, or the switch's refusal.
    pub fn attach(mut self, fd: impl AsFd, attach: &Attach) -> Result<Attached, CallError> {
        let port = self.add_port(fd, attach)?;
        Ok(Attached { client: self, ports: vec![port.name] })
    }

    /// Who is it?
    ///
    /// # Errors
    /// The connection's.
    pub fn hello(&mut self) -> Result<Hello, CallError> {
        self.call(&Request::Hello)
    }

    /// How is it?
    ///
    /// # Errors
    /// The connection's.
    pub fn show(&mut self) -> Result<Show, CallError> {
        self.call(&Request::Show)
    }

    /// Its ports.
    ///
    /// # Errors
    /// The connection's.
    pub fn ports(&mut self) -> Result<Vec<PortInfo>, CallError> {
        self.call(&Request::PortLs)
    }

    /// Its VLANs.
    ///
    /// # Errors
    /// The connection's.
    pub fn vlans(&mut self) -> Result<Vec<VlanInfo>, CallError> {
        self.call(&Request::VlanLs)
    }

    /// The stations it knows.
    ///
    /// # Errors
    /// The connection's, or no such port.
    pub fn stations(&mut self, filter: MacFilter) -> Result<Vec<Station>, CallError> {
        self.call(&Request::MacLs(filter))
    }

    /// The ports that do something to priorities or keep rates.
    ///
    /// # Errors
    /// The connection's.
    pub fn qos(&mut self) -> Result<Vec<traffic::QosInfo>, CallError> {
        self.call(&Request::QosLs)
    }

    /// The ports that have limits or are shut.
    ///
    /// # Errors
    /// The connection's.
    pub fn guards(&mut self) -> Result<Vec<traffic::GuardInfo>, CallError> {
        self.call(&Request::GuardLs)
    }

    /// The rates that are promised.
    ///
    /// # Errors
    /// The connection's.
    pub fn reservations(&mut self) -> Result<Vec<traffic::ReserveInfo>, CallError> {
        self.call(&Request::ReserveLs)
    }

    /// Its spanning tree.
    ///
    /// # Errors
    /// The connection's, or it knows none.
    pub fn stp(&mut self) -> Result<StpTree, CallError> {
        self.call(&Request::Stp)
    }

    /// Its mirrors.
    ///
    /// # Errors
    /// The connection's.
    pub fn mirrors(&mut self) -> Result<Vec<MirrorInfo>, CallError> {
        self.call(&Request::MirrorLs)
    }

    /// Begins a capture, which ends with the returned value.
    ///
    /// # Errors
    /// The connection's, or the switch's refusal.
    pub fn capture(mut self, rule: &CaptureRule) -> Result<Captured, CallError> {
        let (ring, ends) = Ring::create(CAPTURE_RING).map_err(LineError::Io)?;
        let [memory, bell, peer] = ends.each_ref().map(AsFd::as_fd);
        let request = Request::Capture(rule.clone());
        let _: ((), _) = self.line.call(&request, &[memory, bell, peer])?;
        Ok(Captured { client: self, ring })
    }

    /// Its impaired links.
    ///
    /// # Errors
    /// The connection's, or it knows none.
    pub fn impairments(&mut self) -> Result<Vec<Impairment>, CallError> {
        self.call(&Request::ImpairLs)
    }

    /// Has somebody live in its thread ([`Request::Host`]), at a ring port.
    ///
    /// # Errors
    /// The connection's, or the switch's refusal; EOPNOTSUPP: not there.
    pub fn host(&mut self, attach: &Attach, what: &str) -> Result<PortAdded, CallError> {
        self.call(&Request::Host { attach: attach.clone(), what: what.to_owned() })
    }

    /// Ends it.
    ///
    /// # Errors
    /// The connection's, or no permission.
    pub fn down(&mut self) -> Result<(), CallError> {
        self.call(&Request::Down)
    }

    /// Any request that comes without descriptor; `A` is the answer [`Request`] names.
    ///
    /// # Errors
    /// The connection's, or the switch's refusal.
    pub fn call<A: DeserializeOwned>(&mut self, request: &Request) -> Result<A, CallError> {
        Ok(self.line.call(request, &[])?.0)
    }
}

/// Did the switch go while we were asking it? Then another may be started in its place.
pub fn is_gone(error: &CallError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        CallError::Line(LineError::Closed) => true,
        CallError::Line(LineError::Io(e)) => matches!(e.kind(), BrokenPipe | ConnectionReset),
        CallError::Line(_) | CallError::Refused(_) => false,
    }
}

/// A capture, as long as this value lives.
#[derive(Debug)]
pub struct Captured {
    client: Client,
    ring: Ring,
}

impl Captured {
    /// What the switch told next, with the virtio-net header of a frame; `None` when there is no more. `buffer` is
    /// [`crate::ports::BUFFER_LEN`] long.
    ///
    /// # Errors
    /// The switch broke the rules of the ring.
    pub fn next<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<(VnetHdr, Record<'b>)>, Broken> {
        let Some((hdr, bytes)) = self.ring.receive(buffer)? else { return Ok(None) };
        // What a later version tells is nothing to us.
        let nothing = Record::Port(u32::MAX, "");
        Ok(Some((hdr, Record::parse(bytes).unwrap_or(nothing))))
    }

    /// The capture's memory and doorbell, whose rules for sleeping are those of any ring.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// The connection.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Ports, plugged in as long as this value lives.
#[derive(Debug)]
pub struct Attached {
    client: Client,
    ports: Vec<String>,
}

impl Attached {
    /// Plugs in one more.
    ///
    /// # Errors
    /// As [`Client::attach`].
    pub fn attach(&mut self, fd: impl AsFd, attach: &Attach) -> Result<&str, CallError> {
        let port = self.client.add_port(fd, attach)?;
        self.ports.push(port.name);
        Ok(self.ports.last().expect("just pushed"))
    }

    /// The ports' names, in the order they were plugged in.
    pub fn ports(&self) -> &[String] {
        &self.ports
    }

    /// The connection, for other requests.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Gives the connection away; the ports live as long as it does.
    pub fn into_line(self) -> Line {
        self.client.line
    }
}

//! Ports: where the frames of an interface go to and come from.
//!
//! # Theory of operation
//! A [`Port`] moves frames, each with a virtio-net header, between an engine and one of: a switch, by a
//! shared-memory ring ([`uplink`]), in whose thread this may be; a vde_switch ([`vde`]); another stack of this process ([`cable`]); a TAP or
//! packet socket. Kinds that lack offloads get their frames cut and their checksums filled on the way out.
//! Whatever passes may be recorded ([`pcap`]).
//!
//! Whoever owns the port waits for its [`Port::sources`] in an epoll set, edge-triggered where the port says so,
//! and works in rounds:
//! ```text
//!   event        → handle_ready(events), then has_carrier()
//!   as long as   → receive() gives frames (a bounded number per turn)
//!   engine has   → send(), if has_room()
//!   round over   → flush()
//!   before sleep → before_sleep(): true means that frames wait, so no sleep
//! ```
//! Nothing here ever waits. A frame for which there is no room is dropped; with [`Port::has_room`] the owner
//! asks before it makes frames. A port whose other end has gone has no carrier any more; it takes no frames and
//! gives none.

pub mod cable;
pub mod pcap;
pub mod uplink;
pub mod vde;

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Instant, SystemTime};

use msocket_proto::line::Refusal;
use nix::sys::epoll::EpollFlags;
use switch::frame::{Frame, TagEdit};
use switch::offload::{Pieces, VnetHdr, emit};
use switch::port::{DropReason, Offloads};
use switch::ports::ring::Ring;
pub use switch::ports::{BUFFER_LEN, Sent};
use switch::ports::{Kind, Trouble, Wire, tap};
use switch::vde::Wanted;

use crate::config::{InterfaceConfig, Link};
use cable::{Cable, Cables};
use pcap::{Direction, Recorder};
use uplink::Uplink;
use vde::Vde;

/// Errors in a row, without a frame between them, after which a port is taken for dead.
const MAX_ERRORS: u32 = 64;

/// Where an interface's frames go to and come from.
#[derive(Debug)]
pub struct Port {
    end: End,
    recorder: Option<Box<Recorder>>,
    alive: bool,
    errors: u32,
}

/// The kinds of port.
#[derive(Debug)]
enum End {
    /// A ring to a switch.
    Uplink(Box<Uplink>),
    /// A plug of a vde_switch.
    Vde(Vde),
    /// A ring to another stack of this process.
    Cable(Box<Cable>),
    /// A ring to the switch in whose thread this is.
    Within(Box<Ring>),
    /// A TAP or a packet socket, and what it takes.
    Wire(Wire, Offloads),
}

/// Whom to ask for what a link's text only names.
#[derive(Debug)]
pub struct Plugs<'a> {
    /// The stack's name, by which others know its ports.
    pub stack: &'a str,
    /// The folder of the switches' sockets.
    pub switches: &'a Path,
    /// Whether its ports keep a switch that ends when unused.
    pub guest: bool,
    /// The cables of this process.
    pub cables: &'a mut Cables,
    /// This moment by two clocks, for recordings.
    pub clocks: (Instant, SystemTime),
}

impl Port {
    /// Plugs an interface in as it is configured; `None` for a link to nothing.
    ///
    /// # Errors
    /// What failed, why, and what to do about it.
    pub fn open(plugs: &mut Plugs<'_>, interface: &InterfaceConfig) -> Result<Option<Self>, Refusal> {
        let end = match &interface.link {
            Link::None => return Ok(None),
            Link::Pair { name: cable } => End::Cable(Box::new(plugs.cables.plug(&interface.name, cable)?)),
            Link::Fd { number } => wire(inherited(&interface.name, *number)?, interface)?,
            Link::Via(via) => {
                let what = format!("cannot plug in {}", interface.name);
                let hint =
                    format!("`viewnet gateway up --switch NAME --via {via}`, and plug it into that switch");
                return Err(Refusal::new(what, "it is a gateway that goes by a proxy").hint(hint));
            }
            Link::Wg { .. } => {
                let plug = interface.link.tunnel().expect("it is one");
                let (names, switches) = ((plugs.stack, interface.name.as_str()), plugs.switches);
                End::Uplink(Box::new(Uplink::plug(names, switches, &plug, false)?))
            }
            Link::To(link) => Self::open_link(plugs, interface, link)?,
        };
        let recorder = match &interface.pcap {
            Some(pcap) => Some(Box::new(Recorder::begin(&interface.name, pcap, plugs.clocks)?)),
            None => None,
        };
        Ok(Some(Self { end, recorder, alive: true, errors: 0 }))
    }

    /// The far end of a port of the switch in whose thread this is: nobody rings for what it has.
    pub fn within(ring: Ring) -> Self {
        Self { end: End::Within(Box::new(ring)), recorder: None, alive: true, errors: 0 }
    }

    fn open_link(
        plugs: &Plugs<'_>,
        interface: &InterfaceConfig,
        link: &switch::link::Link,
    ) -> Result<End, Refusal> {
        use switch::link::Link::{Tap, Vde as VdeLink};
        let name = &interface.name;
        match (link, interface.link.plug()) {
            (_, Some(plug)) => {
                let uplink = Uplink::plug((plugs.stack, name), plugs.switches, &plug, plugs.guest)?;
                Ok(End::Uplink(Box::new(uplink)))
            }
            (VdeLink { path, port }, None) => {
                let description = format!("{}.{name}", plugs.stack);
                Ok(End::Vde(Vde::plug(name, path, Wanted::number(*port), &description)?))
            }
            (Tap(tap), None) => wire(open_tap(name, tap)?, interface),
            (link, None) => {
                let why = "a smol stack that nobody runs beside it has no switch of its own for it";
                Err(Refusal::new(format!("cannot plug {name} into {link}"), why)
                    .hint("make a switch, `viewnet switch port add` to it, and plug into that"))
            }
        }
    }

    /// What to wait for. Take them out of the epoll set before the port is dropped: closing a descriptor does
    /// not, as the other end has it too (epoll(7), questions and answers).
    pub fn sources(&self) -> impl Iterator<Item = (BorrowedFd<'_>, EpollFlags)> {
        let (first, second) = match &self.end {
            End::Uplink(uplink) => uplink.sources().map(Some).into(),
            End::Vde(vde) => vde.sources().map(Some).into(),
            End::Cable(cable) => (Some(cable.source()), None),
            End::Within(ring) => (Some((ring.as_fd(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET)), None),
            End::Wire(wire, _) => (wire.source().map(|fd| (fd, EpollFlags::EPOLLIN)), None),
        };
        first.into_iter().chain(second)
    }

    /// Something was seen at one of the sources.
    pub fn handle_ready(&mut self, events: EpollFlags) {
        let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR;
        // A TAP says so in words when it is read.
        if events.intersects(gone) && !matches!(self.end, End::Wire(..)) {
            self.alive = false;
        }
    }

    /// Is there anybody at the other end?
    pub fn has_carrier(&self) -> bool {
        match &self.end {
            End::Cable(cable) => self.alive && cable.has_carrier(),
            _ => self.alive,
        }
    }

    /// Takes one frame into `buffer`, which is [`BUFFER_LEN`] long; `None` when there is none.
    pub fn receive<'b>(&mut self, now: Instant, buffer: &'b mut [u8]) -> Option<(VnetHdr, &'b [u8])> {
        if !self.alive {
            return None;
        }
        let received = match &mut self.end {
            End::Uplink(uplink) => uplink.ring.receive(buffer).map_err(io::Error::from).transpose()?,
            End::Cable(cable) => cable.ring().receive(buffer).map_err(io::Error::from).transpose()?,
            End::Within(ring) => ring.receive(buffer).map_err(io::Error::from).transpose()?,
            End::Vde(vde) => vde.receive(buffer).map(|frame| (VnetHdr::default(), frame)),
            End::Wire(wire, _) => wire.receive(buffer),
        };
        match received {
            Ok((header, frame)) => {
                self.errors = 0;
                if let Some(recorder) = &mut self.recorder {
                    recorder.record(now, Direction::In, &header, frame);
                }
                Some((header, frame))
            }
            Err(error) => {
                self.suffer(&error);
                None
            }
        }
    }

    /// Puts one frame out.
    pub fn send(&mut self, now: Instant, header: &VnetHdr, frame: &[u8]) -> Sent {
        if !self.has_carrier() {
            return if self.alive { Sent::Dropped(DropReason::Refused) } else { Sent::Dead };
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.record(now, Direction::Out, header, frame);
        }
        let sent = match &mut self.end {
            End::Uplink(uplink) => uplink.ring.send(header, &[frame]),
            End::Cable(cable) => cable.ring().send(header, &[frame]),
            End::Within(ring) => ring.send(header, &[frame]),
            End::Vde(vde) => send_fitted(header, frame, Offloads::NONE, |_, pieces| vde.send(pieces)),
            End::Wire(wire, takes) => {
                send_fitted(header, frame, *takes, |hdr, pieces| wire.send(hdr, pieces))
            }
        };
        self.alive &= sent != Sent::Dead;
        sent
    }

    /// Is there room for a round's frames? If not, a source becomes ready when there is.
    pub fn has_room(&mut self) -> bool {
        let room = match &mut self.end {
            End::Uplink(uplink) => uplink.ring.want_room(uplink::ROOM),
            End::Cable(cable) => cable.ring().want_room(uplink::ROOM),
            End::Within(ring) => ring.want_room(uplink::ROOM),
            // The kernel's queues are not asked: they drop as any interface's do.
            End::Vde(_) | End::Wire(..) => Ok(true),
        };
        // What is sent to a broken port is dropped.
        !self.alive || room.unwrap_or(true)
    }

    /// The round is over: lets the other end know of what was sent.
    pub fn flush(&mut self) {
        match &mut self.end {
            End::Uplink(uplink) => uplink.ring.flush(),
            End::Cable(cable) => cable.ring().flush(),
            End::Within(ring) => ring.flush(),
            End::Vde(_) | End::Wire(..) => {}
        }
    }

    /// Gives back the memory that sending took, if it is much. For when nothing was sent for a second or so.
    pub fn trim(&mut self) {
        let ring = match &mut self.end {
            End::Uplink(uplink) => &mut uplink.ring,
            End::Cable(cable) => cable.ring(),
            End::Within(ring) => ring,
            End::Vde(_) | End::Wire(..) => return,
        };
        if ring.is_swollen() {
            // What is still in it is gone by the next time; what is broken is seen elsewhere.
            let _ = ring.trim();
        }
    }

    /// Asks to be woken; true if frames wait already.
    pub fn before_sleep(&mut self) -> bool {
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
        }
        let armed = match &mut self.end {
            _ if !self.alive => Ok(false),
            End::Uplink(uplink) => uplink.ring.arm(),
            End::Cable(cable) => cable.ring().arm(),
            End::Within(_) | End::Vde(_) | End::Wire(..) => Ok(false),
        };
        armed.unwrap_or_else(|error| {
            self.suffer(&error.into());
            false
        })
    }

    /// A frame could not be received: there is none, or worse.
    fn suffer(&mut self, error: &io::Error) {
        let trouble = match &self.end {
            _ if error.kind() == io::ErrorKind::WouldBlock => return,
            End::Wire(wire, _) => wire.judge(error),
            End::Vde(_) => Trouble::Passing,
            End::Uplink(_) | End::Cable(_) | End::Within(_) => Trouble::Dead,
        };
        self.errors += 1;
        if trouble == Trouble::Dead || self.errors > MAX_ERRORS {
            log::debug!("a port is dead: {error}");
            self.alive = false;
        }
    }
}

/// Sends a frame, or what it has to be cut into, to an end that takes `takes`.
fn send_fitted(
    header: &VnetHdr,
    bytes: &[u8],
    takes: Offloads,
    mut put: impl FnMut(&VnetHdr, &Pieces<'_>) -> Sent,
) -> Sent {
    let whole = Frame::new(bytes).filter(|frame| header.fits(bytes.len(), frame.header_len()));
    let Some(frame) = whole else { return Sent::Dropped(DropReason::BadOffload) };
    let (mut sent, mut last) = (0, Sent::Dropped(DropReason::Uncuttable));
    let cut = emit(header, frame, TagEdit::Keep, takes, |header, pieces| {
        last = put(header, pieces);
        match last {
            Sent::Bytes(len) => sent += len,
            // The rest of a super-segment would be of no use.
            Sent::Dropped(_) | Sent::Dead => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    });
    match last {
        Sent::Bytes(_) if cut.is_ok() => Sent::Bytes(sent),
        other => other,
    }
}

fn wire(fd: OwnedFd, interface: &InterfaceConfig) -> Result<End, Refusal> {
    let InterfaceConfig { name: interface, link, .. } = interface;
    // One of the two refuses it, in its own words; those of the TAP are the likelier ones.
    let spare = fd.try_clone();
    let wire = Wire::new(vec![fd], Kind::Tap).or_else(|why| {
        let spare = spare?;
        Wire::new(vec![spare], Kind::Packet).map_err(|_| why)
    });
    let wire = wire.map_err(|why| Refusal::new(format!("cannot plug {interface} into {link}"), why))?;
    if let Some(tap) = wire.source().filter(|_| wire.kind() == Kind::Tap && wire.offloads() != Offloads::NONE)
    {
        // Else the kernel cuts and sums before it hands us a frame.
        let _ = tap::take_offloads(tap);
    }
    let takes = wire.offloads();
    Ok(End::Wire(wire, takes))
}

fn open_tap(interface: &str, name: &str) -> Result<OwnedFd, Refusal> {
    tap::open(Path::new(tap::DEVICE), name).map(|(fd, _)| fd).map_err(|why| {
        let refusal = Refusal::new(format!("cannot plug {interface} into tap:{name}"), &why);
        match why.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => refusal.hint(format!(
                "let an administrator make it yours: `ip tuntap add {name} mode tap user $USER vnet_hdr`"
            )),
            Some(libc::EBUSY) => refusal.hint("somebody else uses it"),
            Some(libc::EINVAL) => refusal.hint(format!("{name} is no TAP, or was made without vnet_hdr")),
            _ => refusal,
        }
    })
}

/// A duplicate of a descriptor that this process was started with.
fn inherited(interface: &str, number: u16) -> Result<OwnedFd, Refusal> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let duplicate = || {
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        pidfd_getfd(this, number.into(), PidfdGetfdFlags::empty())
    };
    duplicate().map_err(|errno| {
        let why = io::Error::from(errno);
        Refusal::new(format!("cannot plug {interface} into fd:{number}"), why)
            .hint("the descriptor must be open in the process that serves the stack")
    })
}

#[cfg(test)]
mod tests;

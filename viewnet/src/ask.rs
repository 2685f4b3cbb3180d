//! What is asked of a stack in a library, and what becomes of its answer in the program's memory.
//!
//! # Theory of operation
//! A handler copies what a call brings into a [`SocketCall`] and says with a [`Give`] where its answer goes.
//! The answer may come at once or much later; [`Give::give`] then writes it, in the order and with the errors
//! of net/socket.c: value-result lengths are read when the answer is there, not when the call begins. A call
//! on several messages is asked for one by one: `give` then says what to ask next.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use stacks::smol::call::{Done, SocketCall};

use crate::handlers::smol::ioctl::Argument;
use crate::handlers::smol::layout::Header;
use crate::handlers::smol::many::Many;
use crate::handlers::smol::options;
use crate::target::Target;

/// A question to a stack.
#[derive(Debug)]
pub(crate) struct Ask {
    /// The socket, if it is not the program's descriptor that the call is made on.
    pub(crate) socket: Option<OwnedFd>,
    /// The call.
    pub(crate) call: SocketCall,
    /// Where its answer goes.
    pub(crate) give: Give,
}

impl Ask {
    /// On the program's own descriptor.
    pub(crate) fn new(call: SocketCall, give: Give) -> Self {
        Self { socket: None, call, give }
    }
}

/// A `struct sockaddr *` and a `socklen_t *` of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    /// Where the address goes; null: nowhere.
    pub(crate) address: u64,
    /// Where its length is and goes.
    pub(crate) length: u64,
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Give {
    /// Nowhere: it is a return value.
    Value,
    /// getsockname(2), getpeername(2)
    Name(Name),
    /// accept4(2)
    Accepted {
        /// Where the peer's address goes.
        peer: Name,
        /// The new descriptor is close-on-exec.
        cloexec: bool,
    },
    /// getsockopt(2)
    Option(options::Room),
    /// recvfrom(2)
    Datagram {
        /// Where the data goes.
        data: u64,
        /// Where the sender's address goes.
        from: Name,
    },
    /// recvmsg(2)
    Message(Box<Header>),
    /// sendmmsg(2), recvmmsg(2)
    Many(Box<Many>),
    /// ioctl(2)
    Argument(Argument),
    /// mmap(2)
    Mapping,
}

/// What a call gives its program, once its memory is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    /// A return value.
    Value(i64),
    /// The descriptor that came with the answer.
    Descriptor {
        /// Close-on-exec in the program's table.
        cloexec: bool,
    },
    /// The descriptor that came with the answer is to be mapped.
    Mapping,
    /// The next of several messages.
    Next(SocketCall),
}

impl Give {
    /// Writes an answer into the program's memory.
    pub(crate) fn give(&mut self, done: &Done, target: &mut dyn Target) -> Result<Given, Errno> {
        match (self, done) {
            (Self::Many(many), done) => return many.give(done, target),
            (Self::Name(name), Done::Address(bytes)) => {
                let length = room_for(*name, target)?;
                name.write(bytes, length, &[], target)?;
            }
            (Self::Accepted { peer, cloexec }, Done::Accepted { peer: bytes }) => {
                if peer.address != 0 {
                    let length = room_for(*peer, target)?;
                    peer.write(bytes, length, &[], target)?;
                }
                return Ok(Given::Descriptor { cloexec: *cloexec });
            }
            (Self::Option(room), Done::Bytes(bytes)) => room.write(bytes, target)?,
            (Self::Datagram { data, from }, Done::Received(message)) => {
                let bytes = (*data, message.data.as_slice());
                if from.address == 0 {
                    target.scatter(&[bytes])?;
                } else {
                    let length = room_for(*from, target)?;
                    from.write(&message.from, length, &[bytes], target)?;
                }
                return Ok(Given::Value(message.length as i64));
            }
            (Self::Message(header), Done::Received(message)) => {
                header.write(message, false, target)?;
                return Ok(Given::Value(message.length as i64));
            }
            (Self::Mapping, Done::Mapping) => return Ok(Given::Mapping),
            (Self::Argument(argument), Done::Bytes(bytes)) => argument.write(bytes, target)?,
            (_, Done::Value(value)) => return Ok(Given::Value(*value)),
            // No answer to this question.
            _ => return Err(Errno::EIO),
        }
        Ok(Given::Value(0))
    }

    /// What the call gives when the stack fails it: that, unless some of several messages went well.
    pub(crate) fn fail(&self, errno: Errno) -> Result<Given, Errno> {
        match self {
            Self::Many(many) if many.done() > 0 => Ok(Given::Value(many.done())),
            _ => Err(errno),
        }
    }

    /// Whether the kernel may still run the call as if nothing had been.
    pub(crate) fn untouched(&self) -> bool {
        self.fail(Errno::EIO).is_err()
    }
}

/// The room that the program has for an address: move_addr_to_user of net/socket.c.
fn room_for(name: Name, target: &mut dyn Target) -> Result<usize, Errno> {
    let bytes = target.read(name.length, 4)?;
    let length = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    usize::try_from(length).map_err(|_| Errno::EINVAL)
}

impl Name {
    /// Writes an address, cut to the room there is, and its full length; `before` is written with it.
    fn write(
        self,
        bytes: &[u8],
        room: usize,
        before: &[(u64, &[u8])],
        target: &mut dyn Target,
    ) -> Result<(), Errno> {
        let length = (bytes.len() as u32).to_ne_bytes();
        let name = [(self.address, &bytes[..room.min(bytes.len())]), (self.length, &length[..])];
        match before {
            [] => target.scatter(&name),
            before => target.scatter(&[before, &name].concat()),
        }
    }
}

//! From a request to datagrams: acknowledgements, answers, dumps (net/netlink/af_netlink.c).

use std::fmt::Debug;
use std::time::Instant;

use nix::errno::Errno;

use super::wire::{HEADER, Header, Message, Request, append};
use super::{CHUNK, Socket, World, diag, other, route};
use crate::smol::tables::Refused;

/// NLMSG_MIN_TYPE: types below are netlink's own.
const MIN_TYPE: u16 = 0x10;
/// NLM_F_ACK_TLVS
const ACK_TLVS: i32 = 0x200;
/// NLM_F_CAPPED
const CAPPED: i32 = 0x100;
/// NLMSGERR_ATTR_MSG
const ATTRIBUTE_MESSAGE: u16 = 1;

/// A request with all that its answer may depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) request: Request<'a>,
    /// The asking socket's port.
    pub(super) port: u32,
    /// NETLINK_GET_STRICT_CHK: filters of dumps count.
    pub(super) strict: bool,
    pub(super) now: Instant,
    /// It may change things.
    pub(super) rights: bool,
}

impl Asked<'_> {
    /// The header of an answer of a type, outside of dumps.
    pub(super) fn header(&self, kind: u16) -> Header {
        Header { kind, flags: 0, sequence: self.request.header.sequence, port: self.port }
    }

    /// Any of NLM_F_ROOT and NLM_F_MATCH, which together are NLM_F_DUMP.
    pub(super) fn is_dump(&self) -> bool {
        self.request.header.has(libc::NLM_F_DUMP)
    }
}

/// What a request is answered with, beside an acknowledgement.
#[derive(Debug)]
pub(super) enum Answer {
    Nothing,
    Message(Vec<u8>),
    Dump(Box<dyn List>),
    /// The dump has an end and nothing before it, and the end says why.
    DumpFailed(Refused),
}

pub(super) type Answered = Result<Answer, Refused>;

/// Takes a message of a dump; false if it does not fit any more.
pub(super) type Sink<'a> = dyn FnMut(Vec<u8>) -> bool + 'a;

/// What a dump lists.
pub(super) trait List: Debug + Send {
    /// Gives the messages from position `from` on to `sink`. The position to go on with, or `None` at the end.
    fn fill(
        &self,
        from: usize,
        world: &dyn World,
        now: Instant,
        header: Header,
        sink: &mut Sink<'_>,
    ) -> Option<usize>;
}

/// [`List::fill`] for whatever can be iterated; `write` skips what is filtered out.
pub(super) fn fill_from<T>(
    items: impl Iterator<Item = T>,
    from: usize,
    sink: &mut Sink<'_>,
    mut write: impl FnMut(T) -> Option<Vec<u8>>,
) -> Option<usize> {
    for (at, item) in items.enumerate().skip(from) {
        if let Some(message) = write(item)
            && !sink(message)
        {
            return Some(at);
        }
    }
    None
}

/// A list without items: Linux has such a thing, a stack has none of it.
#[derive(Debug)]
pub(super) struct Empty;

impl List for Empty {
    fn fill(&self, _: usize, _: &dyn World, _: Instant, _: Header, _: &mut Sink<'_>) -> Option<usize> {
        None
    }
}

/// A dump under way.
#[derive(Debug)]
pub(super) struct Dump {
    header: Header,
    list: Box<dyn List>,
    at: usize,
}

impl Dump {
    /// The next piece, and whether it was the last.
    pub(super) fn next_chunk(&mut self, world: &dyn World, now: Instant) -> (Vec<u8>, bool) {
        let mut data = Vec::new();
        let mut take = |message: Vec<u8>| {
            let fits = data.is_empty() || data.len().next_multiple_of(4) + message.len() <= CHUNK;
            if fits {
                append(&mut data, &message);
            }
            fits
        };
        let next = self.list.fill(self.at, world, now, self.header, &mut take);
        if let Some(next) = next {
            self.at = next;
            return (data, false);
        }
        self.at = usize::MAX;
        let last = take(end(self.header, None));
        (data, last)
    }
}

/// NLMSG_DONE
fn end(header: Header, error: Option<(Errno, Option<&str>)>) -> Vec<u8> {
    let words = error.and_then(|(_, words)| words);
    let flags = header.flags | if words.is_some() { ACK_TLVS as u16 } else { 0 };
    let mut message = Message::new(Header { kind: libc::NLMSG_DONE as u16, flags, ..header });
    message.raw(&error.map_or(0, |(errno, _)| -(errno as i32)).to_ne_bytes());
    if let Some(words) = words {
        message.text(ATTRIBUTE_MESSAGE, words);
    }
    message.finish()
}

impl Socket {
    pub(super) fn handle_one(
        &mut self,
        request: &Request<'_>,
        world: &mut dyn World,
        now: Instant,
        rights: bool,
    ) {
        let header = request.header;
        let asked = Asked { request: *request, port: self.port, strict: self.options.strict, now, rights };
        let result = if !header.has(libc::NLM_F_REQUEST) || header.kind < MIN_TYPE {
            Ok(Answer::Nothing)
        } else {
            match self.protocol {
                libc::NETLINK_ROUTE => route::answer(&asked, world),
                libc::NETLINK_SOCK_DIAG => diag::answer(&asked, world),
                libc::NETLINK_GENERIC => other::generic(&asked),
                protocol => other::refuse(protocol, &asked),
            }
        };
        match result {
            Ok(Answer::Dump(list)) => match self.start_dump(header.sequence, list, world, now) {
                Ok(()) => {}
                Err(error) => self.acknowledge(request, Some(error.into())),
            },
            Ok(Answer::DumpFailed(error)) => {
                let header = Header {
                    kind: 0,
                    flags: libc::NLM_F_MULTI as u16,
                    sequence: header.sequence,
                    port: self.port,
                };
                let words = Some(error.why).filter(|why| self.options.ext_ack && !why.is_empty());
                self.push(end(header, Some((error.errno, words))), 0);
            }
            Ok(Answer::Message(message)) => {
                self.push(message, 0);
                if header.has(libc::NLM_F_ACK) {
                    self.acknowledge(request, None);
                }
            }
            Ok(Answer::Nothing) if header.has(libc::NLM_F_ACK) => self.acknowledge(request, None),
            Ok(Answer::Nothing) => {}
            Err(error) => self.acknowledge(request, Some(error)),
        }
    }

    fn start_dump(
        &mut self,
        sequence: u32,
        list: Box<dyn List>,
        world: &dyn World,
        now: Instant,
    ) -> Result<(), Errno> {
        if self.dump.is_some() {
            return Err(Errno::EBUSY);
        }
        let header = Header { kind: 0, flags: libc::NLM_F_MULTI as u16, sequence, port: self.port };
        let mut dump = Dump { header, list, at: 0 };
        let (data, done) = dump.next_chunk(world, now);
        self.push(data, 0);
        if !done {
            self.dump = Some(dump);
        }
        Ok(())
    }

    /// netlink_ack(): the error or 0, the request's header, the request unless it is not wanted, and words.
    fn acknowledge(&mut self, request: &Request<'_>, error: Option<Refused>) {
        let words = error.map(|e| e.why).filter(|why| self.options.ext_ack && !why.is_empty());
        let whole = error.is_some() && !self.options.cap_ack;
        let mut flags = 0;
        if !whole {
            flags |= CAPPED;
        }
        if words.is_some() {
            flags |= ACK_TLVS;
        }
        let header = Header {
            kind: libc::NLMSG_ERROR as u16,
            flags: flags as u16,
            sequence: request.header.sequence,
            port: self.port,
        };
        let mut message = Message::new(header);
        message.raw(&error.map_or(0, |e| -(e.errno as i32)).to_ne_bytes());
        message.raw(if whole { request.whole } else { &request.whole[..HEADER] });
        if let Some(words) = words {
            message.text(ATTRIBUTE_MESSAGE, words);
        }
        self.push(message.finish(), 0);
    }
}

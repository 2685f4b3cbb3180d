//! The packet filter of a kernel stack: our rules as nftables of its namespace (nft(8)).
//!
//! # Theory of operation
//! [`Nftables`] has the rules as they were written and the table `viewnet` of the namespace has them as the
//! kernel does them; each of our rules is one of the kernel's, which says by its user data which it is. A change is a
//! batch that happens whole or not at all, and leaves the counters of all other rules as they are. Counters are read
//! from the kernel when somebody asks. What rules log comes by nfnetlink_log to a socket of ours, which keeps the first
//! lines since somebody last looked. `compile` makes the messages, `wire` writes and reads them; no program is run,
//! and no library beyond netlink's is needed.

mod compile;
mod wire;

use std::os::fd::{AsRawFd, OwnedFd};

use msocket_proto::line::Refusal;
use msocket_proto::proto::FilterChange;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

use crate::filter::log::Lines;
use crate::filter::rule::{Hook, Otherwise};
use crate::filter::{self, Counts, Ends, Listing, Named, Rule, Ruleset, View};
use compile::{LOG_GROUP, LOGGED};
use wire::{Answer, Attributes, Batch, Message, answers, attribute, attributes, long};

/// As much as one message of a dump may have (netlink(7)).
const BUFFER: usize = 64 << 10;
/// Bytes of log lines that wait for somebody who looks: some hundred.
const LOG_BUFFER: usize = 256 << 10;

/// A stack's filter.
#[derive(Debug)]
pub(super) struct Nftables {
    otherwise: [Otherwise; 5],
    rules: Vec<(u64, Rule)>,
    next_handle: u64,
    /// Hears what rules log, once one does.
    log: Option<OwnedFd>,
    lines: Lines,
}

impl Default for Nftables {
    fn default() -> Self {
        let (otherwise, rules, lines) = (Default::default(), Vec::new(), Lines::default());
        Self { otherwise, rules, next_handle: 1, log: None, lines }
    }
}

impl Nftables {
    /// Puts these rules in the place of all others. The process is in the stack's namespace.
    ///
    /// # Errors
    /// The kernel has no nftables, or lacks a part of them.
    pub(super) fn set(&mut self, rules: &Ruleset) -> Result<(), Refusal> {
        let mut batch = Batch::new();
        compile::no_table(&mut batch);
        let first = self.next_handle;
        if !rules.is_empty() {
            compile::table(&mut batch, &rules.otherwise);
            for (rule, handle) in rules.rules.iter().zip(first..) {
                compile::rule(&mut batch, rule, handle);
            }
        }
        change(batch)?;
        self.otherwise = rules.otherwise;
        self.rules = (first..).zip(rules.rules.iter().cloned()).collect();
        self.next_handle = first + self.rules.len() as u64;
        self.listen();
        Ok(())
    }

    /// Changes the filter, if so said, and shows it. The process is in the stack's namespace.
    ///
    /// # Errors
    /// The change makes no sense, or the kernel does not do it.
    pub(super) fn ask(&mut self, what: Option<&FilterChange>) -> Result<Listing, Refusal> {
        if let Some(what) = what {
            let before = Ruleset {
                otherwise: self.otherwise,
                rules: self.rules.iter().map(|(_, rule)| rule.clone()).collect(),
            };
            let handles: Vec<u64> = self.rules.iter().map(|(handle, _)| *handle).collect();
            let after = filter::changed(&before, &handles, what)?;
            match what {
                FilterChange::Add { .. } if !before.is_empty() && before.otherwise == after.otherwise => {
                    self.append(&after.rules[before.rules.len()..])?;
                }
                FilterChange::Remove { handle } if !after.is_empty() => self.remove(*handle)?,
                _ => self.set(&after)?,
            }
        }
        self.listing()
    }

    fn append(&mut self, rules: &[Rule]) -> Result<(), Refusal> {
        let new: Vec<(u64, Rule)> = (self.next_handle..).zip(rules.iter().cloned()).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        new.iter().for_each(|(handle, rule)| compile::rule(&mut batch, rule, *handle));
        change(batch)?;
        self.next_handle += new.len() as u64;
        self.rules.extend(new);
        self.listen();
        Ok(())
    }

    fn remove(&mut self, handle: u64) -> Result<(), Refusal> {
        let at = self.rules.iter().position(|(of, _)| *of == handle);
        let at = at.ok_or_else(|| filter::no_rule(handle))?;
        let found = dump()?.into_iter().find(|found| found.ours == Some(handle));
        let found = found.ok_or_else(|| filter::no_rule(handle))?;
        let rule = Attributes::default()
            .text(compile::RULE_TABLE, compile::TABLE)
            .text(compile::RULE_CHAIN, &found.chain)
            .long(compile::RULE_HANDLE, found.handle);
        let mut batch = Batch::new();
        batch.add(Message::DelRule, 0, &rule);
        change(batch)?;
        self.rules.remove(at);
        Ok(())
    }

    fn listing(&mut self) -> Result<Listing, Refusal> {
        self.hear();
        let is_there = !self.rules.is_empty() || self.otherwise != [Otherwise::Accept; 5];
        let found = if is_there { dump()? } else { Vec::new() };
        let named = |(handle, rule): &(u64, Rule)| {
            let counts = found.iter().find(|found| found.ours == Some(*handle)).map(|found| found.counts);
            Named { handle: *handle, rule: rule.to_string(), counts: counts.unwrap_or_default() }
        };
        let default = |hook: Hook| {
            let rest = found.iter().filter(|found| found.chain == hook.name() && found.ours.is_none());
            let counts = rest.map(|found| found.counts).max_by_key(|counts| counts.packets);
            let drops = self.otherwise[hook as usize] == Otherwise::Drop;
            let action = if drops { "drop" } else { "accept" };
            (hook.name().to_owned(), action.to_owned(), counts.unwrap_or_default()).into()
        };
        let flows = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        Ok(Listing {
            rules: self.rules.iter().map(named).collect(),
            defaults: Hook::ALL.into_iter().map(default).collect(),
            flows: flows.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
            crowded: 0,
            lines: self.lines.all(),
        })
    }

    /// Hears from now on what rules log, if there are such.
    fn listen(&mut self) {
        if self.log.is_none() && self.rules.iter().any(|(_, rule)| rule.log.is_some()) {
            self.log = log_socket()
                .inspect_err(|e| log::warn!("what the filter's rules log cannot be heard: {e}"))
                .ok();
        }
    }

    /// Takes what rules have logged.
    #[expect(clippy::disallowed_methods, reason = "the shell gives the time to the cores")]
    fn hear(&mut self) {
        let Some(socket) = &self.log else { return };
        let mut buffer = vec![0; BUFFER];
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    for answer in answers(&buffer[..length]) {
                        if let Answer::Item(_, packet) = answer {
                            let now = std::time::Instant::now();
                            self.lines.add(now, || logged(packet).unwrap_or_default());
                        }
                    }
                }
                // Some found no room; those behind them are there.
                Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// A rule that the kernel has.
struct Found {
    chain: String,
    /// The kernel's number.
    handle: u64,
    /// Ours.
    ours: Option<u64>,
    counts: Counts,
}

fn dump() -> Result<Vec<Found>, Refusal> {
    let failed = |e| Refusal::system("cannot read the filter", e);
    let socket = netfilter().map_err(failed)?;
    let of = Attributes::default().text(compile::RULE_TABLE, compile::TABLE);
    let question = wire::ask(Message::GetRule, NLM_F_DUMP, &of);
    send(socket.as_raw_fd(), &question, MsgFlags::empty()).map_err(failed)?;
    let (mut buffer, mut found) = (vec![0; BUFFER], Vec::new());
    loop {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(failed)?,
        };
        for answer in answers(&buffer[..length]) {
            match answer {
                Answer::Item(_, rule) => found.extend(read(rule)),
                Answer::Done | Answer::Result(_, Ok(())) => return Ok(found),
                Answer::Result(_, Err(e)) => return Err(failed(e)),
            }
        }
    }
}

fn read(rule: &[u8]) -> Option<Found> {
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let mut counts = Counts::default();
    for (_, expression) in attributes(attribute(rule, compile::RULE_EXPRESSIONS).unwrap_or_default()) {
        let is_counter = attribute(expression, compile::EXPR_NAME).map(name).as_deref() == Some("counter");
        if let Some(data) = attribute(expression, compile::EXPR_DATA).filter(|_| is_counter) {
            let number = |kind| attribute(data, kind).and_then(long).unwrap_or(0);
            counts = Counts { bytes: number(1), packets: number(2) };
        }
    }
    Some(Found {
        chain: attribute(rule, compile::RULE_CHAIN).map(name)?,
        handle: attribute(rule, compile::RULE_HANDLE).and_then(long)?,
        ours: attribute(rule, compile::RULE_USERDATA).and_then(long),
        counts,
    })
}

/// Does a change, whole or not at all.
fn change(batch: Batch) -> Result<(), Refusal> {
    let failed = |e| {
        let refusal = Refusal::system("cannot make the packet filter", e);
        match e {
            Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => refusal
                .hint("this kernel lacks nf_tables or a part of it (CONFIG_NF_TABLES_INET); use --kind smol"),
            _ => refusal,
        }
    };
    let batch = batch.finish();
    let socket = netfilter().map_err(failed)?;
    // Room for as many rules as there may be.
    let size = batch.bytes.len().next_multiple_of(BUFFER);
    let _ = setsockopt(&socket, sockopt::SndBuf, &(2 * size));
    send(socket.as_raw_fd(), &batch.bytes, MsgFlags::empty()).map_err(failed)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(failed)?,
        };
        for answer in answers(&buffer[..length]) {
            match answer {
                Answer::Result(_, Err(e)) => return Err(failed(e)),
                Answer::Result(sequence, Ok(())) if sequence == batch.sequence => return Ok(()),
                _ => {}
            }
        }
    }
}

fn netfilter() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)
}

/// A socket that hears what rules log (linux/netfilter/nfnetlink_log.h).
fn log_socket() -> Result<OwnedFd, Errno> {
    const ULOG: u16 = 4;
    const CONFIG: u16 = 1;
    const BIND: u8 = 1;
    const COPY_PACKET: u8 = 2;
    let socket = netfilter()?;
    let _ = setsockopt(&socket, sockopt::RcvBuf, &LOG_BUFFER);
    let [a, b, c, d] = LOGGED.to_be_bytes();
    for of in [
        Attributes::default().bytes(1, &[BIND]),
        Attributes::default().bytes(2, &[a, b, c, d, COPY_PACKET, 0]),
    ] {
        let message = wire::question(ULOG, CONFIG, NLM_F_ACK, (0, LOG_GROUP), &of);
        send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if let Some(Answer::Result(_, Err(e))) = answers(&buffer[..length]).next() {
            return Err(e);
        }
    }
    Ok(socket)
}

/// The line of a packet that was logged.
fn logged(packet: &[u8]) -> Option<String> {
    const HEADER: u16 = 1;
    const ARRIVES: u16 = 4;
    const LEAVES: u16 = 5;
    const PAYLOAD: u16 = 9;
    const PREFIX: u16 = 10;
    let hook = usize::from(*attribute(packet, HEADER)?.get(2)?);
    let name = |kind| {
        let index = attribute(packet, kind).and_then(<[u8]>::first_chunk).map(|i| u32::from_be_bytes(*i));
        index.and_then(|index| nix::net::if_::if_indextoname(index).ok())
    };
    let (arrives, leaves) = (name(ARRIVES), name(LEAVES));
    let text = |name: &Option<std::ffi::CString>| {
        name.as_ref().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let (arrives, leaves) = (text(&arrives), text(&leaves));
    let prefix = String::from_utf8_lossy(attribute(packet, PREFIX)?).trim_end_matches('\0').to_owned();
    let payload = attribute(packet, PAYLOAD)?;
    let mut view = View::new([payload, &[]])?;
    // It is cut; what the header says is how long it was.
    let field =
        |at: usize| payload.get(at..at + 2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    view.len = if view.source.is_ipv4() { field(2) } else { 40 + field(4) };
    let ends = Ends { arrives: &arrives, leaves: &leaves };
    Some(filter::log::Line::text(&prefix, *Hook::ALL.get(hook)?, ends, &view))
}

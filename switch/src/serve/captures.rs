//! Captures: who wants to see the frames, and how they are told.
//!
//! # Theory of operation
//! [`Captures::see`] is called for each frame while there is a capture, and not at all while there is none. It puts the
//! frame into the ring of each capture that wants it ([`crate::capture`]): as it arrived, with the reason if the
//! switch dropped it, and as it leaves each port. What leaves is told when the switch gives it to the port; that the
//! port then had no room is among its drops. A reader that is slow loses frames, one that breaks its ring loses the
//! capture; neither costs the switch more than a copy of each frame.

use std::collections::BTreeSet;
use std::time::Instant;

use super::wall_ns;
use crate::capture::filter::Filter;
use crate::capture::{Seen, Way, name_head};
use crate::control::{CaptureInfo, CaptureRule};
use crate::frame::Frame;
use crate::offload::VnetHdr;
use crate::port::PortId;
use crate::ports::Sent;
use crate::ports::ring::Ring;
use crate::switch::{Egress, Switch};

/// Captures at most: each may take a copy of every frame.
pub(super) const MAX_CAPTURES: usize = 8;
/// Bytes of a frame that a filter looks at: Ethernet with tag, IPv6 or IPv4 with all options, ports.
const FILTERED: usize = 128;

/// All captures.
#[derive(Debug, Default)]
pub(super) struct Captures {
    list: Vec<Capture>,
}

#[derive(Debug)]
struct Capture {
    owner: u32,
    ring: Ring,
    rule: CaptureRule,
    filter: Filter,
    /// Those of the rule that are there; for a rule that wants all, `None`.
    ports: Option<BTreeSet<PortId>>,
    /// By port: does the reader know its name?
    named: Vec<bool>,
    /// One moment by two clocks, the second in nanoseconds since 1970.
    began: (Instant, u64),
    frames: u64,
    lost: u64,
    broken: bool,
}

/// One frame on one port.
struct Crossing<'a> {
    port: PortId,
    way: Way,
    hdr: VnetHdr,
    /// Its bytes, in two pieces.
    pieces: [&'a [u8]; 2],
}

impl Captures {
    /// Is there one?
    pub(super) fn is_on(&self) -> bool {
        !self.list.is_empty()
    }

    /// Is there room for one more?
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MAX_CAPTURES
    }

    /// Begins a capture that ends with the connection `owner`.
    pub(super) fn add(
        &mut self,
        now: Instant,
        owner: u32,
        ring: Ring,
        filter: Filter,
        rule: CaptureRule,
        switch: &Switch,
    ) {
        let ports = rule.ports.as_ref().map(|names| names.iter().filter_map(|n| switch.find(n)).collect());
        let (named, began) = (Vec::new(), (now, wall_ns()));
        let (frames, lost, broken) = (0, 0, false);
        self.list.push(Capture { owner, ring, rule, filter, ports, named, began, frames, lost, broken });
    }

    /// A connection has ended, and with it its captures.
    pub(super) fn remove_of(&mut self, owner: u32) {
        self.list.retain(|capture| capture.owner != owner);
    }

    /// A port has come, or has another name.
    pub(super) fn port_named(&mut self, id: PortId, name: &str) {
        for capture in &mut self.list {
            capture.forget(id);
            let is_wanted = capture.rule.ports.as_ref().is_some_and(|names| names.iter().any(|n| n == name));
            if let Some(ports) = capture.ports.as_mut().filter(|_| is_wanted) {
                ports.insert(id);
            }
        }
    }

    /// A port has gone; its number may be another's.
    pub(super) fn port_gone(&mut self, id: PortId) {
        self.list.iter_mut().for_each(|capture| capture.forget(id));
    }

    /// A frame arrived on `from`; `frame` is the checked one, unless it was dropped, and `egress` where it goes.
    pub(super) fn see(
        &mut self,
        now: Instant,
        from: PortId,
        (hdr, bytes): (&VnetHdr, &[u8]),
        frame: Option<Frame<'_>>,
        egress: &Egress,
        switch: &Switch,
    ) {
        for capture in &mut self.list {
            if capture.rule.direction.has_in() && capture.wants_port(from) {
                let crossing = Crossing { port: from, way: Way::In, hdr: *hdr, pieces: [bytes, &[]] };
                capture.tell(now, &crossing, egress.dropped(), switch);
            }
            let Some(frame) = frame.filter(|_| capture.rule.direction.has_out()) else { continue };
            for transmit in egress.as_slice() {
                if capture.wants_port(transmit.port) {
                    let (head, rest) = transmit.edit().apply(frame);
                    let hdr = hdr.shifted(transmit.edit().shift());
                    let pieces = [head.as_ref(), rest];
                    let crossing = Crossing { port: transmit.port, way: Way::Out, hdr, pieces };
                    capture.tell(now, &crossing, None, switch);
                }
            }
        }
    }

    /// The burst is over: wakes the readers, and forgets those that broke their rings.
    pub(super) fn flush(&mut self) {
        self.list.retain(|capture| !capture.broken);
        self.list.iter_mut().for_each(|capture| capture.ring.flush());
    }

    /// All of them, as the connection `asker` sees them.
    pub(super) fn describe(&self, asker: u32) -> Vec<CaptureInfo> {
        let info = |c: &Capture| CaptureInfo {
            rule: c.rule.clone(),
            own: c.owner == asker,
            frames: c.frames,
            lost: c.lost,
        };
        self.list.iter().map(info).collect()
    }
}

impl Capture {
    fn wants_port(&self, id: PortId) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&id))
    }

    fn forget(&mut self, id: PortId) {
        if let Some(ports) = &mut self.ports {
            ports.remove(&id);
        }
        if let Some(named) = self.named.get_mut(id.index()) {
            *named = false;
        }
    }

    fn tell(
        &mut self,
        now: Instant,
        crossing: &Crossing<'_>,
        dropped: Option<crate::port::DropReason>,
        switch: &Switch,
    ) {
        let Crossing { port, way, hdr, pieces: [head, rest] } = crossing;
        let len = head.len() + rest.len();
        if !self.filter.is_empty() && !wants(&self.filter, head, rest, len) {
            return;
        }
        if !self.name(*port, switch) {
            self.lost += 1;
            return;
        }
        let elapsed = now.saturating_duration_since(self.began.0).as_nanos() as u64;
        let seen = Seen {
            port: port.index() as u32,
            way: *way,
            dropped,
            time_ns: self.began.1 + elapsed,
            len: len as u32,
            lost: self.lost as u32,
        };
        let snap = if self.rule.snap == 0 { usize::MAX } else { self.rule.snap as usize };
        let head = &head[..head.len().min(snap)];
        let rest = &rest[..rest.len().min(snap - head.len())];
        if self.put(hdr, &[&seen.to_bytes(), head, rest]) {
            self.frames += 1;
        } else {
            self.lost += 1;
        }
    }

    /// Makes sure that the reader knows the port's name.
    fn name(&mut self, id: PortId, switch: &Switch) -> bool {
        if self.named.get(id.index()).copied().unwrap_or(false) {
            return true;
        }
        let name = switch.port(id).map(|port| port.name.as_str()).unwrap_or_default();
        if !self.put(&VnetHdr::default(), &[&name_head(id.index() as u32), name.as_bytes()]) {
            return false;
        }
        if self.named.len() <= id.index() {
            self.named.resize(id.index() + 1, false);
        }
        self.named[id.index()] = true;
        true
    }

    fn put(&mut self, hdr: &VnetHdr, pieces: &[&[u8]]) -> bool {
        match self.ring.send(hdr, pieces) {
            Sent::Bytes(_) => true,
            Sent::Dropped(_) => false,
            Sent::Dead => {
                self.broken = true;
                false
            }
        }
    }
}

/// Asks the filter about a frame in two pieces.
fn wants(filter: &Filter, head: &[u8], rest: &[u8], len: usize) -> bool {
    if head.is_empty() || rest.is_empty() {
        return filter.matches(if head.is_empty() { rest } else { head }, len);
    }
    let mut first = [0; FILTERED];
    let from_head = head.len().min(FILTERED);
    first[..from_head].copy_from_slice(&head[..from_head]);
    let from_rest = rest.len().min(FILTERED - from_head);
    first[from_head..from_head + from_rest].copy_from_slice(&rest[..from_rest]);
    filter.matches(&first[..from_head + from_rest], len)
}

// A filter may look at no more than is copied for it.
const _: () = assert!(FILTERED >= 18 + 60 + 4 && FILTERED >= 18 + 40 + 8 + 4);

//! The user's views and their addresses, for questions about names.
//!
//! # Theory of operation
//! The user's stacks have their sockets in one folder. They are asked what addresses they have, all at once, with the first
//! question that needs it and again with one that comes after [`FRESH`]. Nobody waits for them: their lines are in the
//! gateway's epoll set, and the question waits, in [`Directory::keep`] or with its connection, until all have answered or
//! [`PATIENCE`] is over. A stack may wait for whoever asks at this very moment, the switch in whose thread a gateway lives.
//!
//! Limits: [`MAX_STACKS`], [`MAX_KEPT`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use msocket_proto::line::{Line, Received, Reply};
use msocket_proto::proto::Request;
use nix::sys::epoll::EpollFlags;

use super::names::{Answer, Question};
use super::{Hall, Place};
use crate::serve::Description;

/// How long what stacks said is believed.
const FRESH: Duration = Duration::from_secs(1);
/// How long all of them together may take to say it.
const PATIENCE: Duration = Duration::from_millis(200);
/// Stacks that are asked.
const MAX_STACKS: usize = 1024;
/// Datagrams with questions that wait: a resolver that hears nothing asks again.
const MAX_KEPT: usize = 64;

/// What is known about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    Answer(Answer),
    /// Somebody else knows.
    Nothing,
    /// It will be known when the stacks have answered.
    Later,
}

/// A datagram with a question that waits.
#[derive(Debug)]
pub(super) struct Kept {
    /// Who asks.
    pub(super) from: SocketAddr,
    /// Whom.
    pub(super) to: SocketAddr,
    pub(super) message: Vec<u8>,
}

/// The views of the gateway's network.
#[derive(Debug)]
pub(super) struct Directory {
    stacks: PathBuf,
    asked_at: Option<Instant>,
    /// The stacks that have not answered yet.
    lines: Vec<Option<Line>>,
    silent: usize,
    views: Vec<(String, Vec<IpAddr>)>,
    kept: Vec<Kept>,
    /// Something has waited for what is known now.
    complete: bool,
}

impl Directory {
    /// Of the stacks whose sockets are in this folder.
    pub(super) fn new(stacks: PathBuf) -> Self {
        let (lines, views, kept) = (Vec::new(), Vec::new(), Vec::new());
        Self { stacks, asked_at: None, lines, silent: 0, views, kept, complete: false }
    }

    /// The answer to a question, if it is for us.
    pub(super) fn answer(&mut self, now: Instant, question: &Question, hall: &Hall) -> Known {
        match question {
            Question::Name(address) if !hall.policy.is_inside(*address) && !hall.policy.is_own(*address) => {
                Known::Nothing
            }
            _ if !self.is_there(now, hall) => Known::Later,
            Question::Name(address) => {
                let found = self.views.iter().find(|(_, addresses)| addresses.contains(address));
                Known::Answer(found.map_or(Answer::Nobody, |(view, _)| Answer::Name(view.clone())))
            }
            Question::Addresses { view, v4 } => {
                let found = self.views.iter().find(|(name, _)| name.eq_ignore_ascii_case(view));
                let wanted = |address: &&IpAddr| Some(address.is_ipv4()) == *v4;
                Known::Answer(found.map_or(Answer::Nobody, |(_, addresses)| {
                    Answer::Addresses(addresses.iter().filter(wanted).copied().collect())
                }))
            }
        }
    }

    /// Keeps a datagram until all is known.
    pub(super) fn keep(&mut self, kept: Kept) {
        if self.kept.len() < MAX_KEPT {
            self.kept.push(kept);
        }
    }

    /// The datagrams that waited; `None`: nothing has become known.
    pub(super) fn take_kept(&mut self) -> Option<Vec<Kept>> {
        std::mem::take(&mut self.complete).then(|| std::mem::take(&mut self.kept))
    }

    /// A stack has answered, or gone.
    pub(super) fn handle_event(&mut self, now: Instant, slot: usize, hall: &Hall) {
        let Some(Some(line)) = self.lines.get_mut(slot) else { return };
        match line.receive::<Reply<Description>>() {
            Ok(Received::Pending) => return,
            Ok(Received::Message(Reply::Ok(stack), _)) => self.learn(stack, hall),
            Ok(Received::Message(Reply::Error(_), _) | Received::Closed) | Err(_) => {}
        }
        self.lines[slot] = None;
        self.silent -= 1;
        if self.silent == 0 {
            self.finish(now);
        }
    }

    /// When the stacks have had their time.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.asked_at.filter(|_| self.silent > 0).map(|at| at + PATIENCE)
    }

    /// Gives up those who do not answer.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.finish(now);
        }
    }

    /// Is it known, and fresh? If not, the stacks are asked.
    fn is_there(&mut self, now: Instant, hall: &Hall) -> bool {
        if self.silent > 0 {
            return false;
        }
        if self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= FRESH) {
            self.ask(now, hall);
        }
        self.silent == 0
    }

    fn ask(&mut self, now: Instant, hall: &Hall) {
        self.asked_at = Some(now);
        self.views.clear();
        self.lines.clear();
        let Ok(entries) = std::fs::read_dir(&self.stacks) else { return };
        for entry in entries.flatten().take(MAX_STACKS) {
            let slot = self.lines.len();
            let Ok(mut line) = Line::connect(&entry.path()) else { continue };
            let sent = line.stream().set_nonblocking(true).is_ok() && line.send(&Request::Show, &[]).is_ok();
            if sent && hall.watch(&line, Place::View(slot), EpollFlags::EPOLLIN).is_ok() {
                self.lines.push(Some(line));
            }
        }
        self.silent = self.lines.len();
    }

    fn learn(&mut self, stack: Description, hall: &Hall) {
        let addresses = stack.interfaces.iter().flat_map(|interface| &interface.addresses);
        let addresses = addresses.filter_map(|text| text.parse::<IpNet>().ok()).map(|net| net.addr());
        let addresses: Vec<IpAddr> = addresses.filter(|address| hall.policy.is_inside(*address)).collect();
        if !addresses.is_empty() {
            self.views.push((stack.name, addresses));
        }
    }

    /// All is known that will be. It is fresh from now on, so that what waited finds it so.
    fn finish(&mut self, now: Instant) {
        self.lines.clear();
        (self.silent, self.asked_at, self.complete) = (0, Some(now), true);
    }
}

//! The way by a proxy: where it is, who we are there, what it is asked.
//!
//! # Theory of operation
//! With a proxy the host's sockets connect to it and to nobody else. Names are not looked up here: questions are answered
//! with stand-ins ([`super::standins`]), and the proxy is asked for the name that one stands for. The proxy itself may
//! be named: it is looked up once, by the host, when the gateway starts. Its messages are peeked at, so that no byte of the
//! stream behind them is taken. Where the proxy is not to be had, nobody is reachable.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use msocket_proto::line::Refusal;
use nix::errno::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::names::{self, Answer, Question};
use super::proxy::{Credentials, Handshake, Host, MAX_MESSAGE, Outcome, Protocol, Via, Wish};
use super::standins::StandIns;

/// Addresses of a proxy that are tried at the start, and for how long each.
const ADDRESSES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest file with a password: more is something else.
const MAX_FILE: u64 = 4096;

/// A proxy that was found.
#[derive(Debug)]
pub(super) struct Way {
    protocol: Protocol,
    /// Its address.
    pub(super) at: SocketAddr,
    credentials: Option<Credentials>,
    /// Names that it looks up.
    pub(super) names: StandIns,
}

impl Way {
    /// Looks the proxy up, and reads who we are to it.
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub(super) fn find(via: &Via) -> Result<Self, Refusal> {
        let what = format!("cannot use the proxy {via}");
        let credentials = via.auth.as_deref().map(|file| read(&what, file)).transpose()?;
        let found = (via.host.as_str(), via.port).to_socket_addrs().map_err(|e| {
            Refusal::new(&what, e).hint("name it by its address if the host cannot look it up")
        })?;
        let found: Vec<SocketAddr> = found.take(ADDRESSES).collect();
        let answers = |at: &&SocketAddr| TcpStream::connect_timeout(at, PATIENCE).is_ok();
        // It may come later; and of one address there is no choice.
        let best = if found.len() > 1 { found.iter().find(answers) } else { None };
        let at =
            best.or_else(|| found.first()).ok_or_else(|| Refusal::new(&what, "its name has no address"))?;
        Ok(Self { protocol: via.protocol, at: *at, credentials, names: StandIns::default() })
    }

    /// Asks for a connection to `to`.
    ///
    /// # Errors
    /// EHOSTUNREACH: it stands for a name, but for none that is known.
    pub(super) fn connect(&mut self, to: SocketAddr) -> Result<Handshake, Errno> {
        let (protocol, credentials) = (self.protocol, self.credentials.as_ref());
        let host = host(&mut self.names, to.ip())?;
        Ok(Handshake::new(protocol, credentials, Wish::Connect(host, to.port())))
    }

    /// Asks for a relay of datagrams.
    ///
    /// # Errors
    /// EACCES: it has none.
    pub(super) fn associate(&self) -> Result<Handshake, Errno> {
        let wish = Wish::Associate { v4: self.at.is_ipv4() };
        let handshake = Handshake::new(self.protocol, self.credentials.as_ref(), wish);
        handshake.outcome().map_or(Ok(()), |outcome| outcome.map(drop)).map(|()| handshake)
    }

    /// What it means that the proxy could not be reached: nobody behind it can be.
    pub(super) fn lost(errno: Errno) -> Errno {
        if errno == Errno::ECONNREFUSED { Errno::ENETUNREACH } else { errno }
    }

    /// The answer to a question about names; `has`: the families that the inside has.
    pub(super) fn answer(
        &mut self,
        message: &[u8],
        question: Option<&Question>,
        has: impl Fn(bool) -> bool,
    ) -> Option<Answer> {
        if let Some(Question::Name(address)) = question {
            return Some(self.names.name(*address).map_or(Answer::Nobody, |name| Answer::Host(name.into())));
        }
        let (name, v4) = names::host(message)?;
        // What else a name has, nobody tells us.
        let Some(v4) = v4.filter(|v4| has(*v4)) else { return Some(Answer::Addresses(Vec::new())) };
        Some(self.names.give(&name).map_or(Answer::Nobody, |(a, aaaa)| {
            Answer::Addresses(vec![if v4 { a.into() } else { aaaa.into() }])
        }))
    }
}

/// Whom an address means.
///
/// # Errors
/// EHOSTUNREACH: it stands for a name, but for none that is known.
pub(super) fn host(names: &mut StandIns, address: IpAddr) -> Result<Host<'_>, Errno> {
    match StandIns::is_one(address) {
        true => names.name(address).map(Host::Name).ok_or(Errno::EHOSTUNREACH),
        false => Ok(Host::Address(address)),
    }
}

/// Moves a handshake on; `None`: it is not through. `ending`: the proxy has said everything.
pub(super) fn negotiate(socket: &OwnedFd, handshake: &mut Handshake, ending: bool) -> Option<Outcome> {
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        while !handshake.outgoing().is_empty() {
            match rustix::net::send(socket, handshake.outgoing(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => handshake.sent(count),
                Err(rustix::io::Errno::AGAIN) => return None,
                Err(_) => return Some(Err(Errno::ECONNRESET)),
            }
        }
        if let Some(outcome) = handshake.outcome() {
            return Some(outcome);
        }
        let count = match rustix::net::recv(socket, &mut buffer[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((count @ 1.., _)) => count,
            Err(rustix::io::Errno::AGAIN) => return None,
            _ => return Some(Err(Errno::ECONNRESET)),
        };
        match handshake.handle(&buffer[..count]) {
            0 if handshake.outcome().is_none() && ending => return Some(Err(Errno::ECONNRESET)),
            0 if handshake.outcome().is_none() => return None,
            taken => {
                // They are there: they were just seen.
                let _ = rustix::net::recv(socket, &mut buffer[..taken], RecvFlags::DONTWAIT);
            }
        }
    }
}

/// Who we are, out of a file that is nobody else's to read.
fn read(what: &str, file: &Path) -> Result<Credentials, Refusal> {
    let wrong = |why: &str| {
        Refusal::new(what, format!("{}: {why}", file.display()))
            .hint("write user:password into it, and `chmod 600` it")
    };
    let failed = |e: std::io::Error| wrong(&e.to_string());
    let open = std::fs::File::open(file).map_err(failed)?;
    let meta = open.metadata().map_err(failed)?;
    let own = [rustix::process::geteuid().as_raw(), 0].contains(&meta.uid());
    if !meta.is_file() || !own || meta.mode() & 0o077 != 0 {
        return Err(wrong("others may read or change it"));
    }
    let mut text = String::new();
    let mut bounded = std::io::Read::take(open, MAX_FILE);
    std::io::Read::read_to_string(&mut bounded, &mut text).map_err(failed)?;
    text.parse().map_err(wrong)
}

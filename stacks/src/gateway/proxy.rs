//! Proxies: how one is named, how it is asked for a connection or for a relay of datagrams. A core.
//!
//! # Theory of operation
//! ```text
//!  socks5  greeting ─► method ─┬─────────────────────────────┬─► request ─► reply ─► outcome
//!                              └─► user, password ─► status ─┘
//!  http    CONNECT ──────────────────────────────────────────────────► head ─► outcome
//! ```
//! A [`Handshake`] says what to send ([`Handshake::outgoing`]) and is shown what has come ([`Handshake::handle`]), of
//! which it takes whole messages and nothing after them: what follows the last one is the stream's. What the proxy
//! refuses becomes the errno that connect(2) would say. Datagrams have a [`Head`] before them, both ways.
//!
//! SOCKS 5: RFC 1928, its passwords RFC 1929. CONNECT: RFC 9110 section 9.3.6, RFC 9112, its passwords RFC 7617.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Longest name of a host, user or password: its length is one byte (RFC 1928 section 5, RFC 1929 section 2).
const MAX_NAME: usize = 255;
/// Longest message of a proxy: the head of an HTTP response, of which servers bound theirs likewise.
pub const MAX_MESSAGE: usize = 8 << 10;
/// SOCKS, version 5, and the one of its passwords.
const VERSION: u8 = 5;
const PASSWORD_VERSION: u8 = 1;
/// Methods (RFC 1928 section 3).
const NOTHING: u8 = 0;
const PASSWORD: u8 = 2;
/// Types of addresses (RFC 1928 section 5).
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// SOCKS 5: TCP and UDP.
    Socks5,
    /// HTTP's CONNECT: TCP.
    Http,
}

/// A proxy as text: `socks5:HOST:PORT`, `http:HOST:PORT`, with `[auth FILE]` behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Via {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The file that has `user:password`.
    pub auth: Option<PathBuf>,
}

impl Via {
    /// Does the text begin as one of a proxy does?
    pub fn is_meant(text: &str) -> bool {
        ["socks5:", "http:"].iter().any(|kind| text.trim_start().starts_with(kind))
    }

    /// The same, with a relative path in it made one in `folder`.
    #[must_use]
    pub fn rooted(self, folder: &Path) -> Self {
        Self { auth: self.auth.map(|file| folder.join(file)), ..self }
    }
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "no proxy; write socks5:HOST:PORT or http:HOST:PORT, with [auth FILE] behind it".to_owned();
        let (kind, rest) = text.trim().split_once(':').ok_or_else(wrong)?;
        let protocol = match kind {
            "socks5" => Protocol::Socks5,
            "http" => Protocol::Http,
            _ => return Err(wrong()),
        };
        // An IPv6 address has brackets of its own, which the port follows.
        let (place, auth) = match rest.strip_suffix(']').and_then(|rest| rest.split_once("[auth ")) {
            Some((place, file)) => (place, Some(file.trim())),
            None => (rest, None),
        };
        let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(v6) => v6.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_string(),
            None if is_name(host) => host.to_owned(),
            None => return Err(wrong()),
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if auth.is_some_and(|file| file.is_empty() || file.contains(['[', ']'])) {
            return Err(wrong());
        }
        Ok(Self { protocol, host, port, auth: auth.map(PathBuf::from) })
    }
}

impl fmt::Display for Via {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.protocol == Protocol::Socks5 { "socks5" } else { "http" };
        match self.host.contains(':') {
            true => write!(out, "{kind}:[{}]:{}", self.host, self.port)?,
            false => write!(out, "{kind}:{}:{}", self.host, self.port)?,
        }
        self.auth.as_ref().map_or(Ok(()), |file| write!(out, "[auth {}]", file.display()))
    }
}

impl TryFrom<String> for Via {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Via> for String {
    fn from(via: Via) -> Self {
        via.to_string()
    }
}

/// Is it a name that a host may have, as text without surprises (RFC 1123 section 2.1, and `_`)?
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Who we are to a proxy. Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credentials")
    }
}

impl FromStr for Credentials {
    type Err = &'static str;

    /// The first line of a file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let line = text.lines().next().unwrap_or_default();
        let (user, password) = line.split_once(':').ok_or("its first line is not user:password")?;
        let fits = |word: &str| (1..=MAX_NAME).contains(&word.len()) && !word.contains(char::is_control);
        if !fits(user) || !fits(password) {
            return Err("user and password have 1 to 255 bytes each");
        }
        Ok(Self { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Somebody beyond a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// By name, which the proxy looks up.
    Name(&'a str),
    /// By address.
    Address(IpAddr),
}

/// Most bytes of a [`Head`].
pub const MAX_HEAD: usize = 3 + 1 + 1 + MAX_NAME + 2;

/// What stands before a datagram (RFC 1928 section 7): whom it is for, or who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// Whom.
    pub host: Host<'a>,
    /// The port there.
    pub port: u16,
}

impl<'a> Head<'a> {
    /// Writes it; how many bytes it has. A name has 1 to 255 bytes, or nothing is written.
    pub fn write(&self, out: &mut [u8; MAX_HEAD]) -> usize {
        let mut bytes = Writer { out, at: 0 };
        bytes.put(&[0, 0, 0]);
        if bytes.place(self.host, self.port) { bytes.at } else { 0 }
    }

    /// Reads the one at the beginning of a datagram; where the data begin. `None`: it is malformed, or a fragment, which
    /// nobody has to take (RFC 1928 section 7).
    pub fn read(datagram: &'a [u8]) -> Option<(Self, usize)> {
        let rest = datagram.strip_prefix(&[0, 0, 0])?;
        let (host, port, length) = place(rest).ok()??;
        Some((Self { host, port }, 3 + length))
    }
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// ATYP, address, port. False: there is no such name.
    fn place(&mut self, host: Host<'_>, port: u16) -> bool {
        match host {
            Host::Address(IpAddr::V4(v4)) => {
                self.put(&[V4]);
                self.put(&v4.octets());
            }
            Host::Address(IpAddr::V6(v6)) => {
                self.put(&[V6]);
                self.put(&v6.octets());
            }
            Host::Name(name) => {
                let Some(length) = u8::try_from(name.len()).ok().filter(|length| *length > 0) else {
                    return false;
                };
                self.put(&[NAME, length]);
                self.put(name.as_bytes());
            }
        }
        self.put(&port.to_be_bytes());
        true
    }
}

/// It is not what it should be.
struct Malformed;

/// ATYP, address and port, and how long they are; `None`: there is more to come.
fn place(bytes: &[u8]) -> Result<Option<(Host<'_>, u16, usize)>, Malformed> {
    let (start, length) = match bytes {
        [] | [NAME] => return Ok(None),
        [V4, ..] => (1, 4),
        [V6, ..] => (1, 16),
        [NAME, length, ..] if *length > 0 => (2, usize::from(*length)),
        _ => return Err(Malformed),
    };
    let end = start + length;
    let Some(port) = bytes.get(end..end + 2) else { return Ok(None) };
    let address = &bytes[start..end];
    let host = match bytes[0] {
        NAME => Host::Name(std::str::from_utf8(address).map_err(|_| Malformed)?),
        V4 => Host::Address(<[u8; 4]>::try_from(address).map(Ipv4Addr::from).map_err(|_| Malformed)?.into()),
        _ => Host::Address(<[u8; 16]>::try_from(address).map(Ipv6Addr::from).map_err(|_| Malformed)?.into()),
    };
    Ok(Some((host, u16::from_be_bytes([port[0], port[1]]), end + 2)))
}

/// What a proxy is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish<'a> {
    /// Connect us with somebody's port.
    Connect(Host<'a>, u16),
    /// Relay datagrams; our own family is IPv4. SOCKS only.
    Associate {
        /// Of our address, which we do not know.
        v4: bool,
    },
}

/// What came of it: for an association, the port of the proxy where datagrams go. It says an address, too, which is not used:
/// a proxy behind a translator does not know its own, and none shall have us send datagrams to somebody else.
pub type Outcome = Result<u16, Errno>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Method,
    Status,
    Reply,
    Head,
    Over(Outcome),
}

/// A conversation with a proxy, from its first byte.
#[derive(Clone)]
pub struct Handshake {
    step: Step,
    /// What is to be sent now.
    out: Vec<u8>,
    /// What is sent once we are let in.
    request: Vec<u8>,
    /// User and password, if we have them.
    password: Vec<u8>,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Handshake({:?})", self.step)
    }
}

impl Handshake {
    /// Asks a proxy that speaks `protocol`.
    pub fn new(protocol: Protocol, credentials: Option<&Credentials>, wish: Wish<'_>) -> Self {
        match (protocol, wish) {
            (Protocol::Socks5, wish) => Self::socks(credentials, wish),
            (Protocol::Http, Wish::Connect(host, port)) => Self::http(credentials, host, port),
            (Protocol::Http, Wish::Associate { .. }) => Self::over(Errno::EACCES),
        }
    }

    fn over(errno: Errno) -> Self {
        let (out, request, password) = Default::default();
        Self { step: Step::Over(Err(errno)), out, request, password }
    }

    fn socks(credentials: Option<&Credentials>, wish: Wish<'_>) -> Self {
        let nowhere: IpAddr = match wish {
            Wish::Associate { v4: false } => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        let (command, host, port) = match wish {
            Wish::Connect(host, port) => (1, host, port),
            Wish::Associate { .. } => (3, Host::Address(nowhere), 0),
        };
        let mut buffer = [0; MAX_HEAD];
        let mut bytes = Writer { out: &mut buffer, at: 0 };
        bytes.put(&[VERSION, command, 0]);
        if !bytes.place(host, port) {
            return Self::over(Errno::EHOSTUNREACH);
        }
        let request = bytes.out[..bytes.at].to_vec();
        let password = credentials.map_or_else(Vec::new, |it| {
            let mut message = vec![PASSWORD_VERSION];
            for word in [&it.user, &it.password] {
                message.push(word.len() as u8);
                message.extend_from_slice(word.as_bytes());
            }
            message
        });
        let methods: &[u8] = if password.is_empty() { &[NOTHING] } else { &[NOTHING, PASSWORD] };
        let mut out = vec![VERSION, methods.len() as u8];
        out.extend_from_slice(methods);
        Self { step: Step::Method, out, request, password }
    }

    fn http(credentials: Option<&Credentials>, host: Host<'_>, port: u16) -> Self {
        let place = match host {
            // It stands in a line of text.
            Host::Name(name) if !is_name(name) => return Self::over(Errno::EHOSTUNREACH),
            Host::Name(name) => format!("{name}:{port}"),
            Host::Address(address) => SocketAddr::new(address, port).to_string(),
        };
        let mut head = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
        if let Some(Credentials { user, password }) = credentials {
            let secret = BASE64_STANDARD.encode(format!("{user}:{password}"));
            head += &format!("Proxy-Authorization: Basic {secret}\r\n");
        }
        head += "\r\n";
        Self { step: Step::Head, out: head.into_bytes(), request: Vec::new(), password: Vec::new() }
    }

    /// What is to be sent now.
    pub fn outgoing(&self) -> &[u8] {
        &self.out
    }

    /// So many bytes of it were.
    pub fn sent(&mut self, count: usize) {
        self.out.drain(..count.min(self.out.len()));
    }

    /// What came of it, when it is through.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.step {
            Step::Over(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// What has come and is not taken yet; how much of it is taken: a whole message, or nothing.
    pub fn handle(&mut self, bytes: &[u8]) -> usize {
        let taken = match self.step {
            Step::Method => self.method(bytes),
            Step::Status => self.status(bytes),
            Step::Reply => self.reply(bytes),
            Step::Head => self.head(bytes),
            Step::Over(_) => Ok(None),
        };
        match taken {
            Ok(Some(count)) => count,
            Ok(None) if bytes.len() < MAX_MESSAGE => 0,
            Ok(None) | Err(Malformed) => {
                if self.outcome().is_none() {
                    self.step = Step::Over(Err(Errno::ECONNRESET));
                }
                0
            }
        }
    }

    fn method(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some([version, method]) = bytes.first_chunk() else { return Ok(None) };
        match (*version, *method) {
            (VERSION, NOTHING) => self.ask(),
            (VERSION, PASSWORD) if !self.password.is_empty() => {
                self.out = std::mem::take(&mut self.password);
                self.step = Step::Status;
            }
            // None that it would take (RFC 1928 section 3).
            (VERSION, 0xFF) => self.step = Step::Over(Err(Errno::EACCES)),
            _ => return Err(Malformed),
        }
        Ok(Some(2))
    }

    fn status(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some([version, status]) = bytes.first_chunk() else { return Ok(None) };
        // Some proxies say SOCKS's version where the password's should be.
        match (*version, *status) {
            (PASSWORD_VERSION | VERSION, 0) => self.ask(),
            (PASSWORD_VERSION | VERSION, _) => self.step = Step::Over(Err(Errno::EACCES)),
            _ => return Err(Malformed),
        }
        Ok(Some(2))
    }

    fn ask(&mut self) {
        self.out = std::mem::take(&mut self.request);
        self.step = Step::Reply;
    }

    fn reply(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some([version, reply, _reserved]) = bytes.first_chunk() else { return Ok(None) };
        if *version != VERSION {
            return Err(Malformed);
        }
        if let Some(errno) = refused(*reply) {
            self.step = Step::Over(Err(errno));
            return Ok(Some(bytes.len().min(3)));
        }
        let Some((_, port, length)) = place(&bytes[3..])? else { return Ok(None) };
        self.step = Step::Over(Ok(port));
        Ok(Some(3 + length))
    }

    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let started = &bytes[..bytes.len().min(5)];
        if *started != b"HTTP/"[..started.len()] {
            return Err(Malformed);
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        // HTTP/1.1 200 and what it likes to say.
        let (Some(b"1."), Some(code)) = (bytes.get(5..7), bytes.get(8..13)) else { return Err(Malformed) };
        let [b' ', code @ .., b' ' | b'\r'] = code else { return Err(Malformed) };
        let code: u16 = std::str::from_utf8(code).ok().and_then(|code| code.parse().ok()).ok_or(Malformed)?;
        match code {
            // The final response follows (RFC 9110 section 15.2).
            100..=199 => {}
            200..=299 => self.step = Step::Over(Ok(0)),
            code => self.step = Step::Over(Err(declined(code))),
        }
        Ok(Some(end + 4))
    }
}

/// What REP means (RFC 1928 section 6).
fn refused(reply: u8) -> Option<Errno> {
    Some(match reply {
        0 => return None,
        // Not allowed; a command that it has not.
        2 | 7 => Errno::EACCES,
        3 => Errno::ENETUNREACH,
        // Unreachable; expired on the way.
        4 | 6 => Errno::EHOSTUNREACH,
        8 => Errno::EAFNOSUPPORT,
        // Refused; failed for a reason that is not said, and what nobody knows.
        _ => Errno::ECONNREFUSED,
    })
}

/// What a status means (RFC 9110 section 15).
fn declined(code: u16) -> Errno {
    match code {
        400..=499 => Errno::EACCES,
        // The far end did not answer in time.
        504 => Errno::EHOSTUNREACH,
        _ => Errno::ECONNREFUSED,
    }
}

#[cfg(test)]
mod tests;

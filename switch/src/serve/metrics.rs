//! The counters for Prometheus, over HTTP on a Unix socket or on loopback.
//!
//! # Theory of operation
//! A client sends a request, is given the text of [`crate::metrics`], and is hung up; that is HTTP/1.0, which every
//! scraper speaks. Clients are served like ports, when they are ready. They cannot cost much: there are few of them, a
//! request is short, who takes longer than [`PATIENCE`] goes, and the text is made anew [`FRESH`] at most, so that all of
//! them share one. Nobody can change anything here; on loopback every user of the machine may look, on a Unix socket
//! those whom the file's mode lets.
//!
//! Read: RFC 9112 clauses 2 and 9.6.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use msocket_proto::line::{Refusal, SocketFile, listen, unusable};
use nix::sys::epoll::{Epoll, EpollFlags};

use super::{ACCEPT_PAUSE, Source, interest};
use crate::metrics::CONTENT_TYPE;

/// Clients at most; a scraper is one.
const MAX_CLIENTS: usize = 8;
/// Bytes at most of a request with all its headers.
const MAX_REQUEST: usize = 8 << 10;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a text is good.
const FRESH: Duration = Duration::from_millis(250);
/// The index of the listener among clients.
pub(super) const LISTENER: u32 = u32::MAX;

/// Is called with each socket file that a switch makes beside its own, and true, and again with false when it is gone.
pub type OnFile<'a> = dyn FnMut(&Path, bool) + 'a;

/// Where the counters are given, and to whom.
#[derive(Default)]
pub(super) struct Metrics {
    door: Option<Door>,
    clients: Vec<Option<Client>>,
    /// Those that wait for the text.
    asking: Vec<usize>,
    text: Option<(Instant, Arc<[u8]>)>,
    /// Until when the listener rests, after descriptors ran out.
    rests_until: Option<Instant>,
}

struct Door {
    listener: Listener,
    /// As it is told.
    address: String,
    file: Option<SocketFile>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

struct Client {
    stream: Stream,
    request: Vec<u8>,
    /// What is sent, and how much of it was: the head, then the text.
    answer: Option<(Vec<u8>, Arc<[u8]>, usize)>,
    deadline: Instant,
}

impl Metrics {
    /// Where the counters are given.
    pub(super) fn address(&self) -> Option<String> {
        self.door.as_ref().map(|door| door.address.clone())
    }

    /// Gives the counters there, and nowhere else.
    pub(super) fn set(
        &mut self,
        wanted: &str,
        mode: u32,
        epoll: &Epoll,
        on_file: &mut OnFile<'_>,
    ) -> Result<(), Refusal> {
        if wanted == "off" || self.address().as_deref() != Some(wanted) {
            // A new place first: if it cannot be had, the old one stays.
            let door = if wanted == "off" { None } else { Some(open(wanted, mode)?) };
            self.tell_file(on_file, false);
            self.close(epoll);
            if let Some(door) = &door {
                let event = interest(EpollFlags::EPOLLIN, Source::Metrics(LISTENER));
                if let Err(e) = epoll.add(door, event) {
                    door.file.iter().for_each(SocketFile::remove);
                    return Err(Refusal::system("cannot give the counters", e));
                }
            }
            self.door = door;
            self.tell_file(on_file, true);
        }
        Ok(())
    }

    /// Ends it: the socket's file goes.
    pub(super) fn close(&mut self, epoll: &Epoll) {
        if let Some(door) = self.door.take() {
            let _ = epoll.delete(&door);
            door.file.iter().for_each(SocketFile::remove);
        }
        for client in std::mem::take(&mut self.clients).into_iter().flatten() {
            let _ = epoll.delete(&client);
        }
        self.asking.clear();
    }

    /// The listener or a client is ready.
    pub(super) fn handle_ready(&mut self, now: Instant, index: u32, epoll: &Epoll) {
        if index == LISTENER {
            return self.accept(now, epoll);
        }
        let index = index as usize;
        let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) else { return };
        let over = match client.answer {
            None => match client.read() {
                Heard::Pending => false,
                Heard::Whole => {
                    self.asking.push(index);
                    false
                }
                Heard::Over => true,
            },
            Some(_) => client.write(),
        };
        if over {
            self.remove(index, epoll);
        }
    }

    /// Is a text wanted that is not there?
    pub(super) fn needs_text(&self, now: Instant) -> bool {
        let is_fresh = |(made, _): &(Instant, _)| now.saturating_duration_since(*made) < FRESH;
        !self.asking.is_empty() && !self.text.as_ref().is_some_and(is_fresh)
    }

    /// Answers who asked, with `text` if a new one was wanted.
    pub(super) fn serve(&mut self, now: Instant, text: Option<String>, epoll: &Epoll) {
        if self.rests_until.is_some_and(|at| at <= now) {
            self.rests_until = None;
            if let Some(door) = &self.door {
                let _ = epoll.add(door, interest(EpollFlags::EPOLLIN, Source::Metrics(LISTENER)));
            }
        }
        if let Some(text) = text {
            self.text = Some((now, text.into_bytes().into()));
        }
        if let Some((_, text)) = self.text.clone().filter(|_| !self.asking.is_empty()) {
            for index in std::mem::take(&mut self.asking) {
                let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) else { continue };
                client.answer = Some(answer(&client.request, &text));
                let mut event = interest(EpollFlags::EPOLLOUT, Source::Metrics(index as u32));
                if client.write() || epoll.modify(&*client, &mut event).is_err() {
                    self.remove(index, epoll);
                }
            }
        }
        for index in 0..self.clients.len() {
            if self.clients[index].as_ref().is_some_and(|client| now >= client.deadline) {
                self.remove(index, epoll);
            }
        }
    }

    /// When to call [`Metrics::serve`] at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.clients.iter().flatten().map(|client| client.deadline).chain(self.rests_until).min()
    }

    fn tell_file(&self, tell: &mut OnFile<'_>, is_there: bool) {
        let path = self.door.as_ref().and_then(|door| door.file.as_ref()).map(SocketFile::path);
        if let Some(path) = path {
            tell(path, is_there);
        }
    }

    fn accept(&mut self, now: Instant, epoll: &Epoll) {
        let Some(door) = &self.door else { return };
        // One at a time: the next has its turn in the next round. One too many is closed at once.
        let accepted = match &door.listener {
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                let _ = epoll.delete(door);
                self.rests_until = Some(now + ACCEPT_PAUSE);
                return;
            }
            Err(_) => return,
        };
        let free = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        let nonblocking = match &stream {
            Stream::Unix(stream) => stream.set_nonblocking(true),
            Stream::Tcp(stream) => stream.set_nonblocking(true),
        };
        if free >= MAX_CLIENTS || nonblocking.is_err() {
            return;
        }
        let client = Client { stream, request: Vec::new(), answer: None, deadline: now + PATIENCE };
        if epoll.add(&client, interest(EpollFlags::EPOLLIN, Source::Metrics(free as u32))).is_ok() {
            if free == self.clients.len() {
                self.clients.push(None);
            }
            self.clients[free] = Some(client);
        }
    }

    fn remove(&mut self, index: usize, epoll: &Epoll) {
        if let Some(client) = self.clients.get_mut(index).and_then(Option::take) {
            let _ = epoll.delete(&client);
        }
        self.asking.retain(|asks| *asks != index);
    }
}

/// What came of reading.
enum Heard {
    Pending,
    Whole,
    Over,
}

impl Client {
    fn read(&mut self) -> Heard {
        let mut chunk = [0; 1024];
        let got = match &mut self.stream {
            Stream::Unix(stream) => stream.read(&mut chunk),
            Stream::Tcp(stream) => stream.read(&mut chunk),
        };
        match got {
            Ok(0) => return Heard::Over,
            Ok(n) => self.request.extend_from_slice(&chunk[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return Heard::Over,
        }
        let is_whole = self.request.windows(4).any(|end| end == b"\r\n\r\n");
        match is_whole {
            true => Heard::Whole,
            false if self.request.len() > MAX_REQUEST => Heard::Over,
            false => Heard::Pending,
        }
    }

    /// Sends as much as is taken; true when it is over.
    fn write(&mut self) -> bool {
        let Some((head, text, sent)) = &mut self.answer else { return true };
        loop {
            let left = match sent.checked_sub(head.len()) {
                None => &head[*sent..],
                Some(of_text) => &text[of_text..],
            };
            if left.is_empty() {
                return true;
            }
            let written = match &mut self.stream {
                Stream::Unix(stream) => stream.write(left),
                Stream::Tcp(stream) => stream.write(left),
            };
            match written {
                Ok(n) => *sent += n,
                Err(e) => return e.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// The head of the answer to a request, and its text.
fn answer(request: &[u8], text: &Arc<[u8]>) -> (Vec<u8>, Arc<[u8]>, usize) {
    let line = request.split(|&b| b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|&b| b == b'?').next().unwrap_or_default();
    let (status, body): (&str, Arc<[u8]>) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics" | b"/") => ("200 OK", Arc::clone(text)),
        (b"GET" | b"HEAD", _) => ("404 Not Found", b"the counters are at /metrics\n"[..].into()),
        _ => ("405 Method Not Allowed", b"GET /metrics\n"[..].into()),
    };
    let len = body.len();
    let kind = if status.starts_with("200") { CONTENT_TYPE } else { "text/plain" };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n{allow}Connection: close\r\n\r\n"
    );
    let body = if method == b"HEAD" { b""[..].into() } else { body };
    (head.into_bytes(), body, 0)
}

fn open(wanted: &str, mode: u32) -> Result<Door, Refusal> {
    const WHAT: &str = "cannot give the counters";
    if let Some(path) = wanted.strip_prefix("unix:") {
        if !path.starts_with('/') {
            return Err(Refusal::new(WHAT, format!("`{path}` is no absolute path")).hint("write unix:/PATH"));
        }
        let path = Path::new(path);
        let listener = listen(path, mode).map_err(|e| unusable(WHAT, path, &e))?;
        let file = SocketFile::at(path).map_err(|e| unusable(WHAT, path, &e))?;
        return Ok(Door { listener: Listener::Unix(listener), address: wanted.to_owned(), file: Some(file) });
    }
    let address: SocketAddr = wanted.parse().map_err(|_| {
        Refusal::new(WHAT, format!("`{wanted}` is no place for them"))
            .hint("write unix:PATH, 127.0.0.1:PORT, [::1]:PORT or off")
    })?;
    let is_loopback = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    if !is_loopback {
        return Err(Refusal::new(WHAT, format!("{} is no loopback address", address.ip()))
            .hint("others reach them through a web server that asks who they are"));
    }
    let failed = |e: io::Error| Refusal::system(format!("{WHAT} at {wanted}"), e);
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    Ok(Door { listener: Listener::Tcp(listener), address, file: None })
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.listener {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let text: Arc<[u8]> = b"x 1\n"[..].into();
        let said = |request: &[u8]| {
            let (head, body, _) = answer(request, &text);
            (String::from_utf8(head).unwrap().lines().next().unwrap().to_owned(), body.len())
        };
        assert_eq!(said(b"GET /metrics HTTP/1.1\r\n\r\n"), ("HTTP/1.1 200 OK".into(), 4));
        assert_eq!(said(b"GET /metrics?x HTTP/1.0\r\n\r\n").1, 4);
        assert_eq!(said(b"HEAD / HTTP/1.0\r\n\r\n"), ("HTTP/1.1 200 OK".into(), 0));
        assert_eq!(said(b"GET /x HTTP/1.0\r\n\r\n").0, "HTTP/1.1 404 Not Found");
        assert_eq!(said(b"\r\n\r\n").0, "HTTP/1.1 405 Method Not Allowed");
    }
}

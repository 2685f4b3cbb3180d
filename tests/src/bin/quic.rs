//! A QUIC server and client of few words: HTTP/0.9 over streams ("hq-interop"), which the interoperability tests of QUIC use.
//!
//! `quic serve ADDRESS:PORT CERT KEY` answers `GET /N` with N bytes, and `GET /` with whom it hears.
//! `quic get CERT NAME ADDRESS:PORT PATH…` asks over one connection, a stream each, and says how long each answer is, or what it
//! says if that is short.
//!
//! # Theory of operation
//! quinn-proto has no socket and no clock: [`Side`] gives it datagrams of one socket that is read with a timeout, sends
//! what it wants sent, and looks at its streams whenever something has happened.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event,
    ServerConfig, StreamEvent, StreamId, Transmit,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The application protocol.
const ALPN: &[u8] = b"hq-interop";
/// A question is a line; who sends more is no client of ours.
const LONGEST_QUESTION: usize = 1024;
/// What an answer is made of.
const BYTES: [u8; 4096] = [b'q'; 4096];
/// A longer answer is said by its length.
const SHORT: usize = 100;
/// The client gives up after this.
const LIMIT: Duration = Duration::from_secs(30);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", at, cert, key] => serve(at, cert, key),
        ["get", cert, name, at, ref paths @ ..] => get(cert, name, at, paths),
        _ => panic!("quic serve ADDRESS:PORT CERT KEY | quic get CERT NAME ADDRESS:PORT PATH…"),
    }
}

/// A socket, and the connections over it.
struct Side {
    socket: UdpSocket,
    endpoint: Endpoint,
    connections: HashMap<ConnectionHandle, Connection>,
}

impl Side {
    fn new(at: SocketAddr, server: Option<ServerConfig>) -> Self {
        let socket = UdpSocket::bind(at).expect("bind");
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), server.map(Arc::new), true, None);
        Self { socket, endpoint, connections: HashMap::new() }
    }

    fn send(&self, transmit: &Transmit, bytes: &[u8]) {
        // What is too long for the path is lost, and found to be: that is how QUIC learns its length.
        let _ = self.socket.send_to(&bytes[..transmit.size], transmit.destination);
    }

    /// Waits for a datagram, or for what time brings; gives it to whom it is for.
    fn turn(&mut self) {
        let now = Instant::now();
        let next = self.connections.values_mut().filter_map(Connection::poll_timeout).min();
        let wait = next.map_or(LIMIT, |at| at.saturating_duration_since(now)).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(wait)).expect("a timeout");
        let mut datagram = [0; 65_536];
        let got = self.socket.recv_from(&mut datagram);
        let now = Instant::now();
        if let Ok((count, from)) = got {
            let (mut answer, data) = (Vec::new(), datagram[..count].into());
            match self.endpoint.handle(now, from, None, None, data, &mut answer) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(connection) = self.connections.get_mut(&handle) {
                        connection.handle_event(event);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let mut answer = Vec::new();
                    if let Ok((handle, connection)) = self.endpoint.accept(incoming, now, &mut answer, None) {
                        self.connections.insert(handle, connection);
                    }
                }
                Some(DatagramEvent::Response(transmit)) => self.send(&transmit, &answer),
                None => {}
            }
        }
        for connection in self.connections.values_mut() {
            if connection.poll_timeout().is_some_and(|at| at <= now) {
                connection.handle_timeout(now);
            }
        }
    }

    /// Sends what there is to send.
    fn flush(&mut self) {
        let now = Instant::now();
        let mut all = std::mem::take(&mut self.connections);
        for (handle, connection) in &mut all {
            let mut bytes = Vec::new();
            while let Some(transmit) = connection.poll_transmit(now, 1, &mut bytes) {
                self.send(&transmit, &bytes);
                bytes.clear();
            }
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    connection.handle_event(event);
                }
            }
        }
        all.retain(|_, connection| !connection.is_drained());
        self.connections = all;
    }
}

/// What has come on a stream, and whether that was all.
fn read(connection: &mut Connection, id: StreamId, into: &mut Vec<u8>) -> bool {
    let mut stream = connection.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else { return false };
    let finished = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => into.extend_from_slice(&chunk.bytes),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let _ = chunks.finalize();
    finished
}

/// An answer: its text, and how many bytes are to follow.
struct Answer {
    text: Vec<u8>,
    rest: usize,
}

impl Answer {
    fn to(question: &[u8], from: SocketAddr) -> Self {
        let line = String::from_utf8_lossy(question);
        let path = line.trim().strip_prefix("GET /").unwrap_or("").to_owned();
        match path.parse() {
            Ok(rest) => Self { text: Vec::new(), rest },
            Err(_) => Self { text: format!("you are {}", from.ip().to_canonical()).into(), rest: 0 },
        }
    }

    /// As much as the stream takes; true: that was all.
    fn write(&mut self, connection: &mut Connection, id: StreamId) -> bool {
        let mut stream = connection.send_stream(id);
        while !self.text.is_empty() {
            let Ok(count) = stream.write(&self.text) else { return false };
            self.text.drain(..count);
        }
        while self.rest > 0 {
            let Ok(count) = stream.write(&BYTES[..self.rest.min(BYTES.len())]) else { return false };
            self.rest -= count;
        }
        stream.finish().is_ok()
    }
}

fn serve(at: &str, cert: &str, key: &str) {
    let cert = CertificateDer::from_pem_file(cert).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut crypto = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .expect("a certificate of this key");
    crypto.alpn_protocols = vec![ALPN.into()];
    let crypto = QuicServerConfig::try_from(crypto).expect("TLS 1.3");
    let mut side =
        Side::new(at.parse().expect("ADDRESS:PORT"), Some(ServerConfig::with_crypto(Arc::new(crypto))));
    println!("up");
    let mut questions: HashMap<(ConnectionHandle, StreamId), Vec<u8>> = HashMap::new();
    let mut answers: HashMap<(ConnectionHandle, StreamId), Answer> = HashMap::new();
    loop {
        side.turn();
        for (handle, connection) in &mut side.connections {
            while connection.poll().is_some() {}
            while let Some(id) = connection.streams().accept(Dir::Bi) {
                questions.insert((*handle, id), Vec::new());
            }
            let from = connection.remote_address();
            questions.retain(|(of, id), question| {
                if of != handle {
                    return true;
                }
                let asked = read(connection, *id, question) || question.len() > LONGEST_QUESTION;
                if asked {
                    answers.insert((*of, *id), Answer::to(question, from));
                }
                !asked
            });
            answers.retain(|(of, id), answer| of != handle || !answer.write(connection, *id));
        }
        side.flush();
        let there = &side.connections;
        questions.retain(|(of, _), _| there.contains_key(of));
        answers.retain(|(of, _), _| there.contains_key(of));
    }
}

fn get(cert: &str, name: &str, at: &str, paths: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert).expect("a certificate")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut crypto = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    crypto.alpn_protocols = vec![ALPN.into()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).expect("TLS 1.3")));
    let to = at.to_socket_addrs().expect("a name").next().expect("an address");
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let mut side = Side::new(any.parse().expect("constant"), None);
    let (handle, connection) = side.endpoint.connect(Instant::now(), config, to, name).expect("connect");
    side.connections.insert(handle, connection);
    side.flush();
    let mut answers: Vec<(StreamId, Vec<u8>, bool)> = Vec::new();
    while answers.is_empty() || answers.iter().any(|(.., finished)| !finished) {
        assert!(Instant::now() < deadline, "no answer");
        side.turn();
        let connection = side.connections.get_mut(&handle).expect("the connection was lost");
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => {
                    for path in paths {
                        let id = connection.streams().open(Dir::Bi).expect("a stream");
                        let mut stream = connection.send_stream(id);
                        stream.write(format!("GET {path}\r\n").as_bytes()).expect("a question");
                        stream.finish().expect("its end");
                        answers.push((id, Vec::new(), false));
                    }
                }
                Event::ConnectionLost { reason } => panic!("{reason}"),
                Event::Stream(StreamEvent::Readable { id }) => {
                    let of = answers.iter_mut().find(|(of, ..)| *of == id);
                    let (_, text, finished) = of.expect("it asked");
                    *finished |= read(connection, id, text);
                }
                _ => {}
            }
        }
        side.flush();
    }
    for (_, text, _) in &answers {
        if text.len() > SHORT {
            println!("{}", text.len())
        } else {
            println!("{}", String::from_utf8_lossy(text))
        }
    }
    let connection = side.connections.get_mut(&handle).expect("it is there");
    println!("datagrams of {}", connection.current_mtu());
    connection.close(Instant::now(), 0u8.into(), "done".into());
    side.flush();
}

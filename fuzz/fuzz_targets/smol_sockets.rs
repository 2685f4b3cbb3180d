//! Arbitrary sequences of calls on the sockets of two engines, against a simple model: UDP ports conflict as
//! addresses overlap, streams carry the bytes that were written in order, datagrams arrive whole, errors are
//! ones that the call knows, and when all sockets are closed none is left.
#![no_main]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stacks::config::StackConfig;
use stacks::smol::call::{Caller, Done, SocketCall};
use stacks::smol::engine::{Engine, SocketId};
use stacks::smol::tables::IfIndex;
use stacks::stack::SocketSpec;
use switch::offload::VnetHdr;

const OWNER: Caller = Caller { pid: 1, uid: 0, fd: 3, rights: true };
const ETH0: IfIndex = IfIndex(2);
const ADDRESSES: [[u8; 4]; 4] = [[0; 4], [127, 0, 0, 1], [10, 0, 0, 1], [10, 0, 0, 2]];
/// errno values, asm-generic/errno*.h.
const EADDRINUSE: i32 = 98;
/// What bind(2) says of an address of the right family.
const OF_BIND: [i32; 3] = [EADDRINUSE, 99, 22];
/// What connect(2) says: EAGAIN, EINVAL, EOPNOTSUPP, EADDRNOTAVAIL, ENETUNREACH, ECONNABORTED, ECONNRESET,
/// EISCONN, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH, EALREADY, EINPROGRESS, EACCES.
const OF_CONNECT: [i32; 14] = [11, 22, 95, 99, 101, 103, 104, 106, 110, 111, 113, 114, 115, 13];
/// What sendto(2) of a datagram says: EAGAIN, EINVAL, EPIPE, EDESTADDRREQ, EMSGSIZE, ENETUNREACH, ENOBUFS,
/// ECONNREFUSED, EHOSTUNREACH, EACCES, EOPNOTSUPP, EADDRNOTAVAIL, EISCONN, ENOTCONN.
const OF_SEND: [i32; 14] = [11, 22, 32, 89, 90, 101, 105, 111, 113, 13, 95, 99, 106, 107];
/// What recvfrom(2) of a datagram says.
const OF_RECEIVE: [i32; 6] = [11, 111, 113, 101, 90, 107];

#[derive(Debug, Arbitrary)]
enum Act {
    Socket {
        stream: bool,
        at: bool,
    },
    Close(u8, bool),
    Bind(u8, u8, u8),
    Listen(u8, i8),
    Connect(u8, u8, u8),
    Accept(u8),
    Write(u8, u16),
    Read(u8, u16),
    Send(u8, u8, u8, u16),
    Receive(u8),
    Shutdown(u8, u8),
    Wait(u16),
    /// Frames on the way are lost.
    Lose,
}

/// A socket and what is known of it.
struct Known {
    at: usize,
    id: SocketId,
    stream: bool,
    listening: bool,
    /// Where bind(2) put it.
    bound: Option<([u8; 4], u16)>,
    written: usize,
    read: usize,
}

struct World {
    engines: [Engine; 2],
    now: Instant,
    sockets: Vec<Known>,
    /// Ports that a connect(2) or a shared choice made unpredictable.
    vague: BTreeSet<(usize, u16)>,
    wire: Vec<(usize, VnetHdr, Vec<u8>)>,
}

fn name(address: u8, port: u8) -> ([u8; 4], u16, Vec<u8>) {
    let (address, port) = (ADDRESSES[usize::from(address) % 4], u16::from(port % 8) * 100);
    let mut bytes = vec![0; 16];
    bytes[..2].copy_from_slice(&2u16.to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&address);
    (address, port, bytes)
}

/// The byte of a stream at an offset.
fn byte(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

fn overlap(one: [u8; 4], other: [u8; 4]) -> bool {
    one == other || one == [0; 4] || other == [0; 4]
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let engine = |n: u8| {
            let mut config = StackConfig::default();
            config.add_line(&format!("eth0=none,ip=10.0.0.{n}/24,mac=02:00:00:00:00:0{n}")).expect("good");
            let mut engine = Engine::new(&config, [n; 32], now).expect("good");
            engine.plug(now, ETH0, true);
            engine
        };
        let engines = [engine(1), engine(2)];
        Self { engines, now, sockets: Vec::new(), vague: BTreeSet::new(), wire: Vec::new() }
    }

    fn pick(&self, n: u8) -> Option<usize> {
        (!self.sockets.is_empty()).then(|| usize::from(n) % self.sockets.len())
    }

    fn call(&mut self, n: usize, call: &SocketCall) -> Result<Done, i32> {
        let (at, id) = (self.sockets[n].at, self.sockets[n].id);
        self.engines[at].call(self.now, id, &OWNER, call).map_err(|errno| errno as i32)
    }

    fn bind(&mut self, n: usize, address: u8, port: u8) {
        let (address, port, bytes) = name(address, port);
        let (at, stream) = (self.sockets[n].at, self.sockets[n].stream);
        let own = address == [0; 4] || address == [127, 0, 0, 1] || address == ADDRESSES[at + 2];
        let taken = self.sockets.iter().any(|other| {
            other.at == at
                && other.stream == stream
                && other.bound.is_some_and(|(known, taken)| taken == port && overlap(known, address))
        });
        let bound = self.call(n, &SocketCall::Bind { address: bytes });
        if let Err(errno) = bound {
            assert!(OF_BIND.contains(&errno), "bind: {errno}");
        }
        let free = port != 0 && own && self.sockets[n].bound.is_none() && !self.vague.contains(&(at, port));
        if free && !stream && bound.is_err() {
            // A socket that sent or connected has a port already: EINVAL.
            assert!(taken || bound == Err(22), "bind says {bound:?} of a free port");
        }
        if free && taken {
            assert!(bound.is_err(), "two sockets at {address:?}:{port}");
        }
        assert!(own || bound.is_err(), "bound to another's address");
        if bound.is_ok() && port != 0 {
            self.sockets[n].bound = Some((address, port));
        }
    }

    fn connect(&mut self, n: usize, address: u8, port: u8) {
        // A connection's own address is one of those that it was bound to: others have room beside it.
        if let Some((_, port)) = self.sockets[n].bound {
            self.vague.insert((self.sockets[n].at, port));
        }
        let done = self.call(n, &SocketCall::Connect { address: name(address, port).2 });
        if let Err(errno) = done {
            assert!(OF_CONNECT.contains(&errno), "connect: {errno}");
        }
        assert!(done.is_err() || !self.sockets[n].listening, "a listener connects");
    }

    fn act(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Socket { stream, at } => {
                let spec = SocketSpec { domain: 2, kind: if stream { 1 } else { 2 }, protocol: 0 };
                let at = usize::from(at);
                let id = self.engines[at].socket(now, spec, &OWNER).expect("a socket");
                self.sockets.push(Known {
                    at,
                    id,
                    stream,
                    listening: false,
                    bound: None,
                    written: 0,
                    read: 0,
                });
            }
            Act::Close(n, unread) => {
                if let Some(n) = self.pick(n) {
                    let known = self.sockets.swap_remove(n);
                    self.engines[known.at].close(now, known.id, unread);
                }
            }
            Act::Wait(time) => self.wait(Duration::from_millis(time.into())),
            Act::Lose => {
                self.collect();
                self.wire.clear();
            }
            other => self.on_socket(other),
        }
    }

    fn on_socket(&mut self, act: Act) {
        match act {
            Act::Bind(n, a, p) => drop(self.pick(n).map(|n| self.bind(n, a, p))),
            Act::Connect(n, a, p) => drop(self.pick(n).map(|n| self.connect(n, a, p))),
            Act::Listen(n, backlog) => {
                let Some(n) = self.pick(n) else { return };
                let done = self.call(n, &SocketCall::Listen { backlog: backlog.into() });
                assert!(self.sockets[n].stream || done == Err(95), "a datagram socket listens: {done:?}");
                self.sockets[n].listening |= done.is_ok();
            }
            Act::Accept(n) => {
                let Some(n) = self.pick(n) else { return };
                let (at, id) = (self.sockets[n].at, self.sockets[n].id);
                if let Some((id, _)) = self.engines[at].accept(self.now, id) {
                    assert!(self.sockets[n].listening, "a connection of no listener");
                    let bound = None;
                    self.sockets.push(Known {
                        at,
                        id,
                        stream: true,
                        listening: false,
                        bound,
                        written: 0,
                        read: 0,
                    });
                }
            }
            Act::Shutdown(n, how) => {
                let Some(n) = self.pick(n) else { return };
                let done = self.call(n, &SocketCall::Shutdown { how: i32::from(how % 4) });
                assert!(matches!(done, Ok(_) | Err(107 | 22)), "shutdown: {done:?}");
                // shutdown(SHUT_RD) ends listening (inet_shutdown).
                if done.is_ok() && how % 4 != 1 {
                    self.sockets[n].listening = false;
                }
            }
            other => self.data(other),
        }
    }

    fn data(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Write(n, most) => {
                let Some(known) = self.pick(n).and_then(|n| self.sockets.get_mut(n)).filter(|it| it.stream)
                else {
                    return;
                };
                let (mut left, mut at) = (usize::from(most), known.written);
                let sent = self.engines[known.at].send_with(now, known.id, &mut |room| {
                    let length = left.min(room.len());
                    room[..length].iter_mut().zip(at..).for_each(|(to, at)| *to = byte(at));
                    (left, at) = (left - length, at + length);
                    length
                });
                assert_eq!(sent, at - known.written);
                known.written = at;
            }
            Act::Read(n, most) => {
                let Some(known) = self.pick(n).and_then(|n| self.sockets.get_mut(n)).filter(|it| it.stream)
                else {
                    return;
                };
                let (mut left, mut at) = (usize::from(most), known.read);
                self.engines[known.at].receive_with(now, known.id, &mut |bytes| {
                    let length = left.min(bytes.len());
                    assert!(
                        bytes[..length].iter().zip(at..).all(|(is, at)| *is == byte(at)),
                        "not what was sent"
                    );
                    (left, at) = (left - length, at + length);
                    length
                });
                known.read = at;
            }
            Act::Send(n, a, p, length) => {
                let Some(n) = self.pick(n).filter(|n| !self.sockets[*n].stream) else { return };
                let data = (0..usize::from(length)).map(|at| byte(at + usize::from(length))).collect();
                let to = (a & 4 == 0).then(|| name(a, p).2);
                let done = self.call(n, &SocketCall::Send { to, control: vec![], data, flags: 0 });
                match done {
                    Ok(sent) => assert_eq!(sent, Done::Value(length.into())),
                    Err(errno) => assert!(OF_SEND.contains(&errno), "sendto: {errno}"),
                }
            }
            Act::Receive(n) => {
                let Some(n) = self.pick(n).filter(|n| !self.sockets[*n].stream) else { return };
                let call = SocketCall::Receive { length: 65536, control: 0, flags: 0, named: true };
                match self.call(n, &call) {
                    Ok(Done::Received(message)) => {
                        let length = message.data.len();
                        assert_eq!(message.length, length);
                        assert!(message.data.iter().zip(length..).all(|(is, at)| *is == byte(at)), "garbled");
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(errno) => assert!(OF_RECEIVE.contains(&errno), "recvfrom: {errno}"),
                }
            }
            _ => unreachable!("the other acts are done"),
        }
    }

    fn collect(&mut self) -> bool {
        let (mut more, wire) = (false, &mut self.wire);
        for (from, engine) in self.engines.iter_mut().enumerate() {
            more |= engine.poll_transmit(self.now, &mut |_, header, frame| {
                wire.push((1 - from, *header, frame.to_vec()));
            });
        }
        more | !self.wire.is_empty()
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for _ in 0..64 {
                if !self.collect() {
                    break;
                }
                for (to, header, frame) in std::mem::take(&mut self.wire) {
                    let engine = &mut self.engines[to];
                    if let Some(lent) = engine.handle_frame_lending(self.now, ETH0, &header, &frame) {
                        engine.settle(self.now, &lent, &frame, 0);
                    }
                }
            }
            let next = self.engines.iter().filter_map(Engine::poll_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            // A millisecond at least: nothing may keep time from passing.
            self.now = next.max(self.now + Duration::from_millis(1));
            for engine in &mut self.engines {
                engine.handle_timeout(self.now);
            }
        }
        self.now = self.now.max(end);
        for engine in &mut self.engines {
            while let Some(id) = engine.poll_dirty() {
                engine.status(id);
            }
        }
    }
}

fuzz_target!(|acts: Vec<Act>| {
    let mut world = World::new();
    for act in acts {
        world.act(act);
    }
    for known in std::mem::take(&mut world.sockets) {
        world.engines[known.at].close(world.now, known.id, false);
    }
    world.wait(Duration::from_secs(1800));
    for engine in &world.engines {
        assert_eq!(engine.sockets(), 0, "sockets of nobody stay");
    }
});

//! Whatever programs do and whatever arrives: the engine goes on.

use proptest::prelude::*;

use super::*;

/// What a program or the world does.
#[derive(Debug, Clone)]
enum Act {
    Socket(u8),
    Close(u8, bool),
    Bind(u8, u8, u16),
    Connect(u8, u8, u16),
    Dissolve(u8),
    Listen(u8, i32),
    Accept(u8),
    Send(u8, u8, u16, u16),
    Receive(u8, i32),
    Write(u8, u16),
    Read(u8),
    Shutdown(u8, i32),
    Get(u8, u8, i32, u8),
    Set(u8, u8, i32, Vec<u8>),
    Ioctl(u8, u16, Vec<u8>),
    Raw(Vec<u8>),
    Garble(u8, u8),
    Inject(Vec<u8>),
    Plug(bool),
    Wait(u16),
}

const LEVELS: [i32; 8] = [1, 0, 41, 6, 17, 255, 263, 270];
const ADDRESSES: [&str; 10] = [
    "0.0.0.0",
    "127.0.0.1",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.255",
    "224.0.0.1",
    "[::]",
    "[::1]",
    "[fd00::2]",
    "[::ffff:10.0.0.2]",
];

fn act() -> impl Strategy<Value = Act> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let port = || prop_oneof![Just(0u16), Just(80), Just(81), 1u16..100];
    prop_oneof![
        3 => any::<u8>().prop_map(Act::Socket),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(s, u)| Act::Close(s, u)),
        3 => (any::<u8>(), any::<u8>(), port()).prop_map(|(s, a, p)| Act::Bind(s, a, p)),
        3 => (any::<u8>(), any::<u8>(), port()).prop_map(|(s, a, p)| Act::Connect(s, a, p)),
        1 => any::<u8>().prop_map(Act::Dissolve),
        2 => (any::<u8>(), -1i32..5).prop_map(|(s, b)| Act::Listen(s, b)),
        2 => any::<u8>().prop_map(Act::Accept),
        3 => (any::<u8>(), any::<u8>(), port(), 0u16..4000).prop_map(|(s, a, p, n)| Act::Send(s, a, p, n)),
        2 => (any::<u8>(), prop_oneof![Just(0), Just(2), Just(0x20), Just(0x2000)])
            .prop_map(|(s, f)| Act::Receive(s, f)),
        3 => (any::<u8>(), any::<u16>()).prop_map(|(s, n)| Act::Write(s, n)),
        3 => any::<u8>().prop_map(Act::Read),
        1 => (any::<u8>(), 0..4).prop_map(|(s, h)| Act::Shutdown(s, h)),
        2 => (any::<u8>(), any::<u8>(), 0..90, 0u8..40).prop_map(|(s, l, n, r)| Act::Get(s, l, n, r)),
        3 => (any::<u8>(), any::<u8>(), 0..90, bytes()).prop_map(|(s, l, n, v)| Act::Set(s, l, n, v)),
        1 => (any::<u8>(), 0x8900u16..0x8980, bytes()).prop_map(|(s, r, v)| Act::Ioctl(s, r, v)),
        1 => bytes().prop_map(Act::Raw),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(at, x)| Act::Garble(at, x)),
        1 => prop::collection::vec(any::<u8>(), 14..200).prop_map(Act::Inject),
        1 => any::<bool>().prop_map(Act::Plug),
        6 => (0u16..3000).prop_map(Act::Wait),
    ]
}

/// The acts on one world, and the sockets they made.
struct Play {
    world: World,
    sockets: Vec<(usize, SocketId)>,
}

impl Play {
    fn pick(&self, n: u8) -> Option<(usize, SocketId)> {
        self.sockets.get(usize::from(n) % self.sockets.len().max(1)).copied()
    }

    fn on(&mut self, n: u8, call: SocketCall) {
        if let Some((at, id)) = self.pick(n) {
            let _ = self.world.call(at, id, call);
        }
    }

    fn name(address: u8, port: u16) -> Vec<u8> {
        sockaddr(&format!("{}:{port}", ADDRESSES[usize::from(address) % ADDRESSES.len()]))
    }

    fn socket(&mut self, n: u8) {
        let domain =
            [libc::AF_INET, libc::AF_INET6, libc::AF_PACKET, libc::AF_NETLINK][usize::from(n >> 1) % 4];
        let kind = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW][usize::from(n >> 3) % 3];
        let protocol = [0, 0, 0, 1, 58, 253, 255, ETH_ALL][usize::from(n >> 5)];
        let at = usize::from(n & 1);
        let spec = SocketSpec { domain, kind, protocol };
        if let Ok(id) = self.world.engines[at].socket(self.world.now, spec, &OWNER) {
            self.sockets.push((at, id));
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Socket(n) => self.socket(n),
            Act::Close(n, unread) => {
                if let Some((at, id)) = self.pick(n) {
                    self.sockets.retain(|other| *other != (at, id));
                    self.world.engines[at].close(self.world.now, id, unread);
                }
            }
            Act::Bind(n, a, p) => self.on(n, SocketCall::Bind { address: Self::name(a, p) }),
            Act::Connect(n, a, p) => self.on(n, SocketCall::Connect { address: Self::name(a, p) }),
            Act::Dissolve(n) => self.on(n, SocketCall::Connect { address: unspecified() }),
            Act::Listen(n, backlog) => self.on(n, SocketCall::Listen { backlog }),
            Act::Accept(n) => {
                if let Some((at, id)) = self.pick(n)
                    && let Some(child) = self.world.accept(at, id)
                {
                    self.sockets.push((at, child));
                }
            }
            Act::Send(n, a, p, length) => {
                let to = (a & 1 != 0).then(|| Self::name(a >> 1, p));
                let data = vec![a; usize::from(length)];
                self.on(n, SocketCall::Send { to, control: vec![], data, flags: 0 });
            }
            Act::Receive(n, flags) => {
                self.on(n, SocketCall::Receive { length: 100, control: 50, flags, named: true });
            }
            Act::Write(n, length) => {
                if let Some((at, id)) = self.pick(n) {
                    self.world.write(at, id, &vec![n; usize::from(length)]);
                }
            }
            Act::Read(n) => {
                if let Some((at, id)) = self.pick(n) {
                    self.world.read(at, id);
                    self.world.engines[at].receive_datagram(id, &mut |_| n & 1 == 0);
                }
            }
            Act::Shutdown(n, how) => self.on(n, SocketCall::Shutdown { how }),
            Act::Get(n, l, name, room) => {
                let level = LEVELS[usize::from(l) % LEVELS.len()];
                self.on(n, SocketCall::GetOption { level, name, value: vec![0; usize::from(room)] });
            }
            Act::Set(n, l, name, value) => {
                let level = LEVELS[usize::from(l) % LEVELS.len()];
                self.on(n, SocketCall::SetOption { level, name, value });
            }
            Act::Ioctl(n, request, argument) => {
                self.on(n, SocketCall::Ioctl { request: request.into(), argument });
            }
            other => self.happen(other),
        }
    }

    fn happen(&mut self, act: Act) {
        let now = self.world.now;
        match act {
            Act::Raw(bytes) => {
                for n in 0..self.sockets.len() as u8 {
                    self.on(
                        n,
                        SocketCall::Send { to: None, control: bytes.clone(), data: bytes.clone(), flags: 0 },
                    );
                }
            }
            Act::Garble(at, x) => {
                for (_, _, frame) in self.world.wire.values_mut() {
                    let at = usize::from(at) % frame.len();
                    frame[at] ^= x;
                }
            }
            Act::Inject(frame) => {
                self.world.engines[0].handle_frame(now, ETH0, &VnetHdr::default(), &frame);
            }
            Act::Plug(plugged) => self.world.engines[1].plug(now, ETH0, plugged),
            Act::Wait(n) => self.world.run(ms(n.into())),
            _ => unreachable!("programs' acts are done"),
        }
        for engine in &mut self.world.engines {
            while let Some(id) = engine.poll_dirty() {
                engine.status(id);
            }
        }
    }
}

/// ETH_P_ALL as socket(2) has it.
const ETH_ALL: i32 = (libc::ETH_P_ALL as u16).to_be() as i32;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Nothing panics, and when everybody has closed everything nothing is left.
    #[test]
    fn nothing_stops_it(acts in prop::collection::vec(act(), 1..120)) {
        let mut play = Play { world: World::pair(3, Trouble { loss: 50, duplication: 50, jitter: 2, corruption: 0 }), sockets: vec![] };
        for n in [0u8, 1, 0, 1] {
            play.socket(n);
        }
        for act in acts {
            play.act(act);
        }
        for (at, id) in std::mem::take(&mut play.sockets) {
            play.world.engines[at].close(play.world.now, id, false);
        }
        play.world.run(Duration::from_secs(1200));
        for engine in &play.world.engines {
            prop_assert_eq!(engine.sockets(), 0);
            prop_assert_eq!(engine.orphans, 0);
            prop_assert_eq!((engine.streams.flows(), engine.datagrams.flows()), (0, 0));
            prop_assert!(engine.groups.is_empty());
            prop_assert_eq!(engine.wheel.len(), 0);
        }
    }
}

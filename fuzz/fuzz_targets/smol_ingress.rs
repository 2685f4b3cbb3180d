//! Arbitrary frames with arbitrary virtio-net headers, and time that passes, into an engine that has sockets
//! of all kinds open: no panic, a bounded answer to each frame, and when all sockets are closed none is left.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stacks::config::StackConfig;
use stacks::smol::call::{Caller, SocketCall};
use stacks::smol::engine::{Engine, SocketId};
use stacks::smol::tables::IfIndex;
use stacks::stack::SocketSpec;
use switch::offload::{VNET_HDR_LEN, VnetHdr};

const OWNER: Caller = Caller { pid: 1, uid: 0, fd: 3, rights: true };
const ETH0: IfIndex = IfIndex(2);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// struct virtio_net_hdr, flags: the checksum was verified.
const DATA_VALID: u8 = 2;
/// ETH_P_ALL, linux/if_ether.h.
const ETH_P_ALL: u16 = 3;
/// Frames that one frame may bring about: each of the sockets may say something, and error messages are few.
const MOST_ANSWERS: usize = 4096;

/// A TCP segment in the longest IPv4 packet.
const LONGEST: usize = 65_515;

#[derive(Debug, Arbitrary)]
enum Step {
    /// As it is.
    Raw([u8; VNET_HDR_LEN], Vec<u8>),
    /// Behind an Ethernet header for us.
    Ethernet([u8; VNET_HDR_LEN], u8, Vec<u8>),
    /// Behind a good IPv4 header for us.
    V4(u8, u16, Vec<u8>),
    /// Behind a good IPv6 header for us.
    V6(u8, Vec<u8>),
    /// The peer's answer to the TCP segment that the engine sent last, more or less in order.
    Answer {
        flags: u8,
        seq: i8,
        ack: i8,
        window: u16,
        options: Vec<u8>,
        data: u16,
    },
    /// Programs read, write or go on connecting.
    Programs(u16),
    Wait(u16),
    Plug(bool),
}

struct World {
    engine: Engine,
    now: Instant,
    sockets: Vec<SocketId>,
    /// The TCP segment sent last, from its IPv4 header on.
    last: Vec<u8>,
}

fn address(port: u16) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[..2].copy_from_slice(&2u16.to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes
}

impl World {
    fn new() -> Self {
        let mut config = StackConfig::default();
        config
            .add_line("eth0=none,ip=10.0.0.1/24,ip=fd00::1/64,mac=02:00:00:00:00:01,gw=10.0.0.2")
            .expect("good");
        let now = Instant::now();
        let engine = Engine::new(&config, [7; 32], now).expect("good");
        let mut world = Self { engine, now, sockets: Vec::new(), last: Vec::new() };
        world.engine.plug(now, ETH0, true);
        let all = i32::from(ETH_P_ALL.to_be());
        for (domain, kind, protocol) in [
            (2, 1, 0),
            (10, 1, 0),
            (2, 1, 0),
            (2, 2, 0),
            (10, 2, 0),
            (2, 2, 1),
            (10, 2, 58),
            (2, 3, 1),
            (2, 3, 253),
            (10, 3, 58),
            (17, 3, all),
            (17, 2, all),
            (16, 3, 0),
        ] {
            let spec = SocketSpec { domain, kind, protocol };
            world.sockets.extend(world.engine.socket(now, spec, &OWNER));
        }
        world.call(0, &SocketCall::Bind { address: address(80) });
        world.call(0, &SocketCall::Listen { backlog: 4 });
        let mut v6 = [&10u16.to_ne_bytes()[..], &81u16.to_be_bytes()[..]].concat();
        v6.resize(28, 0);
        world.call(1, &SocketCall::Bind { address: v6 });
        world.call(1, &SocketCall::Listen { backlog: 4 });
        let mut peer = address(7);
        peer[4..8].copy_from_slice(&[10, 0, 0, 2]);
        world.call(2, &SocketCall::Connect { address: peer });
        world.call(3, &SocketCall::Bind { address: address(53) });
        let mut group = vec![224, 1, 1, 1];
        group.extend_from_slice(&[10, 0, 0, 1]);
        world.call(3, &SocketCall::SetOption { level: 0, name: 35, value: group });
        world
    }

    fn call(&mut self, n: usize, call: &SocketCall) {
        if let Some(id) = self.sockets.get(n % self.sockets.len().max(1)).copied() {
            let _ = self.engine.call(self.now, id, &OWNER, call);
        }
    }

    fn arrive(&mut self, header: [u8; VNET_HDR_LEN], frame: &[u8]) {
        if let Some(lent) = self.engine.handle_frame_lending(self.now, ETH0, &VnetHdr::parse(header), frame) {
            // A program takes as much of it as its last byte says.
            let taken = lent.at.len() * usize::from(frame[lent.at.end - 1] % 4) / 3;
            self.engine.settle(self.now, &lent, frame, taken);
        }
    }

    fn for_us(&mut self, header: [u8; VNET_HDR_LEN], ethertype: u16, payload: &[u8]) {
        let frame = [&MAC[..], &PEER, &ethertype.to_be_bytes(), payload].concat();
        self.arrive(header, &frame);
    }

    fn v4(&mut self, protocol: u8, fragment: u16, payload: &[u8]) {
        let mut header = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        header[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        let sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        self.for_us(valid(), 0x0800, &[&header[..], payload].concat());
    }

    fn v6(&mut self, next: u8, payload: &[u8]) {
        let mut header = [0; 40];
        header[0] = 0x60;
        header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        (header[6], header[7]) = (next, 255);
        header[8..24].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        header[24..40].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        self.for_us(valid(), 0x86dd, &[&header[..], payload].concat());
    }

    fn answer(&mut self, flags: u8, (seq, ack): (i8, i8), window: u16, options: &[u8], data: u16) {
        let Some(tcp) = self.last.get(20..).filter(|tcp| tcp.len() >= 20) else { return };
        let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        let said =
            u32::from(tcp[13] & 3 != 0) + tcp.len().saturating_sub(usize::from(tcp[12] >> 4) * 4) as u32;
        let mut out = [&tcp[2..4], &tcp[..2]].concat();
        out.extend(word(8).wrapping_add_signed(seq.into()).to_be_bytes());
        out.extend(word(4).wrapping_add(said).wrapping_add_signed(ack.into()).to_be_bytes());
        let options = &options[..options.len().min(40) / 4 * 4];
        out.extend([(5 + options.len() as u8 / 4) << 4, flags]);
        out.extend(window.to_be_bytes());
        out.extend([0; 4]);
        out.extend(options);
        out.resize((out.len() + usize::from(data)).min(LONGEST), data as u8);
        self.v4(6, 0, &out);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Raw(header, bytes) => self.arrive(header, &bytes),
            Step::Ethernet(header, kind, bytes) => {
                self.for_us(header, [0x0800, 0x86dd, 0x0806, 0x8100][usize::from(kind) % 4], &bytes);
            }
            Step::V4(protocol, fragment, bytes) => self.v4(protocol, fragment, &bytes),
            Step::V6(next, bytes) => self.v6(next, &bytes),
            Step::Answer { flags, seq, ack, window, options, data } => {
                self.answer(flags, (seq, ack), window, &options, data);
            }
            Step::Programs(n) => self.programs(n),
            Step::Wait(n) => self.now += Duration::from_millis(n.into()),
            Step::Plug(plugged) => self.engine.plug(self.now, ETH0, plugged),
        }
        self.settle();
    }

    fn programs(&mut self, n: u16) {
        let now = self.now;
        for at in 0..2 {
            if let Some((id, _)) = self.engine.accept(now, self.sockets[at]) {
                self.sockets.push(id);
            }
        }
        let id = self.sockets[usize::from(n) % self.sockets.len()];
        let mut left = usize::from(n);
        self.engine.send_with(now, id, &mut |room| std::mem::take(&mut left).min(room.len()));
        self.engine.receive_with(now, id, &mut |bytes| bytes.len());
        self.engine.receive_datagram(id, &mut |_| true);
    }

    /// What there is to send and to do at this time.
    fn settle(&mut self) {
        let mut answers = 0;
        if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.engine.handle_timeout(self.now);
        }
        let last = &mut self.last;
        while self.engine.poll_transmit(self.now, &mut |_, _, frame| {
            answers += 1;
            if frame.len() >= 54 && frame[12..15] == [8, 0, 0x45] && frame[23] == 6 {
                last.clear();
                last.extend_from_slice(&frame[14..]);
            }
        }) {
            assert!(answers < MOST_ANSWERS, "it talks without end");
        }
        while let Some(id) = self.engine.poll_dirty() {
            self.engine.status(id);
        }
    }
}

fn valid() -> [u8; VNET_HDR_LEN] {
    let mut header = [0; VNET_HDR_LEN];
    header[0] = DATA_VALID;
    header
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    world.settle();
    for step in steps {
        world.step(step);
    }
    for id in std::mem::take(&mut world.sockets) {
        world.engine.close(world.now, id, false);
    }
    // Longer than any orphan lives: its last timeout, and TIME-WAIT.
    for _ in 0..200 {
        world.now += Duration::from_secs(10);
        world.settle();
    }
    assert_eq!(world.engine.sockets(), 0, "sockets of nobody stay");
});

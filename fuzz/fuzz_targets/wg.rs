//! What comes to a tunnel: datagrams of anybody, datagrams of a peer that were changed on the way, frames of a stack, and
//! what a peer wraps that is no packet.
#![no_main]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use stacks::wg::quick::Config;
use stacks::wg::tunnel::Tunnel;
use switch::offload::VnetHdr;

#[derive(Debug, Arbitrary)]
enum Event {
    Datagram(Vec<u8>),
    /// The peer sends a packet, and a byte of its datagram changes.
    Changed(Vec<u8>, u16, u8),
    /// The peer sends what it likes: of our own making, but authentic.
    Packet(Vec<u8>),
    Frame { header: [u8; 10], frame: Vec<u8>, ip: bool },
    Wait(u8),
}

/// The keys of two ends, 32 times 1 and 32 times 2, and their public ones.
const KEYS: [[&str; 2]; 2] = [
    ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "pOCSkrZRwni5dyxWn1+puxPZBrRqtoyd+dwrRAn4ogk="],
    ["AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", "zo060cy2M+x7cMF4FKXHbs0CloUFDTRHRboFhw5YfVk="],
];

fn end(ours: usize) -> Tunnel {
    let text = format!(
        "[Interface]\nPrivateKey={}\nDNS=10.9.0.1\n[Peer]\nPublicKey={}\nAllowedIPs=0.0.0.0/0,::/0\nEndpoint=192.0.2.1:1\n",
        KEYS[ours][0],
        KEYS[1 - ours][1],
    );
    let machine = ["127.0.0.53".parse().expect("constant")];
    Tunnel::new(&Config::parse(&text).expect("a good file"), ours as u32, &machine)
}

fn sent(tunnel: &mut Tunnel) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (train, bytes) in tunnel.outbox.trains() {
        all.extend(bytes.chunks(usize::from(train.segment).max(1)).map(<[u8]>::to_vec));
    }
    tunnel.outbox.clear();
    all
}

/// An IP packet with these bytes behind its header, or that are it.
fn frame(bytes: &[u8], ip: bool) -> Vec<u8> {
    let mut frame = vec![2; 12];
    let v6 = !ip && bytes.first().is_some_and(|first| first >> 4 == 6);
    frame.extend(if v6 { [0x86, 0xDD] } else { [8, 0] });
    if ip {
        let len = (20 + bytes.len()).min(1400) as u16;
        frame.extend([0x45, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
    }
    frame.extend(&bytes[..bytes.len().min(1400)]);
    frame
}

/// The peer of `ours`, after a handshake.
fn meet(now: Instant, ours: &mut Tunnel, from: SocketAddr) -> Tunnel {
    let mut peer = end(1);
    peer.handle_frame(now, &VnetHdr::default(), &frame(b"hello", true));
    for _ in 0..3 {
        sent(&mut peer).iter().for_each(|datagram| ours.handle_datagram(now, from, datagram));
        sent(ours).iter().for_each(|datagram| peer.handle_datagram(now, from, datagram));
    }
    assert!(ours.peers(now)[0].handshake_s.is_some(), "they have met");
    peer
}

fuzz_target!(|events: Vec<Event>| {
    let from: SocketAddr = "192.0.2.1:1".parse().expect("constant");
    let mut now = Instant::now();
    let mut ours = end(0);
    // It appears, and they meet, when it first has something to say: before, there is no session.
    let mut peer = None;
    let plain = VnetHdr::default();
    for event in events {
        match event {
            Event::Datagram(bytes) => ours.handle_datagram(now, from, &bytes),
            Event::Changed(bytes, at, to) => {
                let peer = peer.get_or_insert_with(|| meet(now, &mut ours, from));
                peer.handle_frame(now, &plain, &frame(&bytes, true));
                for mut datagram in sent(peer) {
                    let at = usize::from(at) % datagram.len();
                    datagram[at] = to;
                    ours.handle_datagram(now, from, &datagram);
                }
            }
            Event::Packet(bytes) => {
                let peer = peer.get_or_insert_with(|| meet(now, &mut ours, from));
                peer.handle_frame(now, &plain, &frame(&bytes, false));
                sent(peer).iter().for_each(|datagram| ours.handle_datagram(now, from, datagram));
            }
            Event::Frame { header, frame: bytes, ip } => {
                ours.handle_frame(now, &VnetHdr::parse(header), &frame(&bytes, ip));
            }
            Event::Wait(seconds) => {
                now += Duration::from_secs(seconds.into());
                ours.handle_timeout(now);
            }
        }
        for (header, frame) in ours.inbox.frames() {
            assert!(header.fits(frame.len(), 14) && frame.len() >= 34);
        }
        ours.inbox.clear();
        for datagram in sent(&mut ours) {
            assert!((1..=4).contains(&datagram[0]));
        }
    }
});

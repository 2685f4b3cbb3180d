//! What comes over a switch's links: VDE requests and answers, VXLAN datagrams, streams of frames, links as text. No
//! panic, bounded tables, and frames inside the bytes that came.
#![no_main]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use switch::frame::Mac;
use switch::framing::{Inbox, MAX_LEN};
use switch::link::Link;
use switch::vde::{ADDRESS_LEN, Request, parse_answer};
use switch::vxlan::{Config, STATIONS, Tunnel, VXLAN_HEADER_LEN, Vni};

#[derive(Debug, Arbitrary)]
enum Step {
    Request(Vec<u8>),
    Answer([u8; ADDRESS_LEN]),
    Datagram { from: [u8; 4], valid: bool, bytes: Vec<u8> },
    Destination([u8; 6]),
    Peers(Vec<[u8; 4]>),
    Wait(u16),
    Stream(Vec<u8>),
    Text(String),
}

fuzz_target!(|steps: Vec<Step>| {
    let vni = Vni::try_from(7).expect("24 bits");
    let mut tunnel = Tunnel::new(Config { vni, peers: Vec::new(), port: 4789 });
    let mut inbox = Inbox::default();
    let mut now = Instant::now();
    for step in steps.into_iter().take(512) {
        match step {
            Step::Request(bytes) => {
                if let Ok(request) = Request::parse(&bytes) {
                    assert_eq!(Request::parse(&request.to_bytes()).expect("its own words"), request);
                }
            }
            Step::Answer(bytes) => drop(parse_answer(&bytes)),
            Step::Datagram { from, valid, mut bytes } => {
                if valid && bytes.len() >= VXLAN_HEADER_LEN {
                    bytes[..VXLAN_HEADER_LEN].copy_from_slice(&tunnel.header());
                }
                let len = bytes.len();
                if let Ok(frame) = tunnel.handle_datagram(now, SocketAddr::from((from, 1)), &bytes) {
                    assert_eq!(frame.len() + VXLAN_HEADER_LEN, len);
                }
                assert!(tunnel.stations() <= STATIONS);
            }
            Step::Destination(mac) => {
                let peers = tunnel.config().peers.len();
                assert!(tunnel.destinations(now, Mac(mac)).len() <= peers.max(1));
            }
            Step::Peers(peers) => {
                tunnel.set_peers(peers.into_iter().map(|ip| SocketAddr::from((ip, 4789))).collect());
            }
            Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
            Step::Stream(bytes) => {
                let space = inbox.space();
                let len = bytes.len().min(space.len());
                space[..len].copy_from_slice(&bytes[..len]);
                inbox.filled(len);
                loop {
                    match inbox.next_frame() {
                        Ok(Some(frame)) => assert!(frame.len() <= MAX_LEN),
                        Ok(None) => break,
                        Err(_) => {
                            inbox.clear();
                            break;
                        }
                    }
                }
                assert!(!inbox.space().is_empty());
            }
            Step::Text(text) => {
                if let Ok(link) = text.parse::<Link>() {
                    assert_eq!(link.to_string().parse::<Link>().expect("its own words"), link);
                }
            }
        }
    }
});

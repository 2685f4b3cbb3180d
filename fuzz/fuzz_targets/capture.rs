//! Any bytes as what captures are made of: a frame with its line and its verdict by any filter, a record, and a pcapng
//! block that is as long as it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use switch::capture::filter::Filter;
use switch::capture::packet::Packet;
use switch::capture::pcapng::{self, Pcapng};
use switch::capture::{Record, Way, summary};

fuzz_target!(|input: (String, Vec<u8>)| {
    let (text, bytes) = input;
    let _ = Record::parse(&bytes);
    let _ = Packet::parse(&bytes).map(|packet| (packet.ports(), packet.transport(), packet.is_tagged()));
    let _ = summary::line(&bytes, bytes.len());
    if let Ok(filter) = text.parse::<Filter>() {
        let wanted = filter.matches(&bytes, bytes.len());
        assert_eq!(filter.is_empty(), text.trim_ascii().is_empty());
        // What is negated wants the others, but for what is no frame.
        if let Ok(other) = format!("not ({text})").parse::<Filter>()
            && Packet::parse(&bytes).is_some()
        {
            assert_ne!(wanted, other.matches(&bytes, bytes.len()));
        }
    }
    let mut file = Pcapng::default();
    let pieces = [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]];
    file.packet(&pcapng::Packet {
        interface: 0,
        time_ns: 1,
        way: Way::In,
        snap: 100,
        len: 0,
        pieces: &pieces,
        comment: &text,
    });
    let block = file.bytes();
    let word = |at: usize| u32::from_ne_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    assert_eq!((word(4) as usize, word(block.len() - 4) as usize), (block.len(), block.len()));
    assert!(word(20) <= 100);
});

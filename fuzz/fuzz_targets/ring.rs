//! A hostile peer behind a ring: it writes anything anywhere at any time, makes holes, and plays by the rules when that
//! suits it. No panic, no frame longer than there may be, no work without end; and what comes out goes through a switch
//! to a second ring, whose peer only ever sees whole frames.
#![no_main]

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use switch::offload::{VNET_HDR_LEN, VnetHdr, emit};
use switch::port::Offloads;
use switch::ports::BUFFER_LEN;
use switch::ports::ring::Ring;
use switch::switch::{Egress, Switch};
use switch::vlan::PortVlans;

/// The smallest ring there may be.
const CAPACITY: u32 = 128 << 10;
/// Bytes of the file: the page of words, and two rings of records.
const FILE: usize = 4096 + 2 * CAPACITY as usize;
/// Least length of a record.
const RECORD: usize = 64;

#[derive(Debug, Arbitrary)]
enum Deed {
    /// Bytes anywhere.
    Anywhere { at: u32, bytes: Vec<u8> },
    /// One of the words by which the ends know what is there.
    Word { which: u8, epoch: u8, position: i32 },
    /// The beginning of a record.
    Record { at: u16, len: u32, hdr: [u8; VNET_HDR_LEN] },
    Hole { page: u8 },
    /// By the rules.
    Send { hdr: [u8; VNET_HDR_LEN], bytes: Vec<u8> },
    Take,
    /// What the switch does.
    Receive,
    Reply(u16),
    Sleep,
    WantRoom(u32),
    Trim,
    Limit(u32),
}

/// What the switch has read goes on to another port.
fn forward(switch: &mut Switch, now: Instant, hdr: &VnetHdr, bytes: &[u8], to: &mut Ring, peer: &mut Ring) {
    let from = switch.find("a").expect("it was added");
    let mut egress = Egress::new();
    let Some(frame) = switch.handle_frame(now, from, hdr, bytes, &mut egress) else { return };
    for transmit in egress.as_slice() {
        let _ = emit(hdr, frame, transmit.edit(), Offloads::ALL, |hdr, pieces| {
            to.send(hdr, pieces);
            ControlFlow::Continue(())
        });
    }
    to.flush();
    let mut room = vec![0; BUFFER_LEN];
    while let Some((_, whole)) = peer.receive(&mut room).expect("both ends play by the rules") {
        assert!(whole.len() <= bytes.len());
    }
}

fuzz_target!(|deeds: Vec<Deed>| {
    let now = Instant::now();
    let (mut hostile, handover) = Ring::create(CAPACITY).expect("a ring");
    let memory = File::from(handover[0].try_clone().expect("a descriptor"));
    let mut ours = Ring::attach(handover).expect("as it was made");
    let (mut peer, handover) = Ring::create(CAPACITY).expect("a ring");
    let mut other = Ring::attach(handover).expect("as it was made");
    let mut switch = Switch::new(Duration::from_secs(300));
    for name in ["a", "b"] {
        switch.add_port(name, PortVlans::default(), Offloads::ALL).expect("a new switch has room");
    }
    let write = |at: usize, bytes: &[u8]| {
        let len = bytes.len().min(FILE.saturating_sub(at));
        memory.write_all_at(&bytes[..len], at as u64).expect("within the file");
    };
    let mut room = vec![0; BUFFER_LEN];
    for deed in deeds.into_iter().take(256) {
        match deed {
            Deed::Anywhere { at, bytes } => write(at as usize % FILE, &bytes),
            Deed::Word { which, epoch, position } => {
                let word = u64::from(epoch) << 32 | u64::from(position as u32);
                write(64 + usize::from(which % 8) * 64, &word.to_ne_bytes());
            }
            Deed::Record { at, len, hdr } => {
                let head = [&len.to_ne_bytes()[..], &[0, 0], &hdr].concat();
                write(4096 + usize::from(at) * RECORD % (2 * CAPACITY as usize), &head);
            }
            Deed::Hole { page } => {
                let at = i64::from(page) * 4096 % FILE as i64;
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                nix::fcntl::fallocate(&memory, nix::fcntl::FallocateFlags::from_bits_retain(mode), at, 4096)
                    .expect("a memfd has holes");
            }
            Deed::Send { hdr, bytes } => {
                hostile.send(&VnetHdr::parse(hdr), &[&bytes]);
                hostile.flush();
            }
            Deed::Take => drop(hostile.receive(&mut vec![0; BUFFER_LEN])),
            Deed::Receive => {
                if let Ok(Some((hdr, bytes))) = ours.receive(&mut room) {
                    assert!(bytes.len() <= BUFFER_LEN);
                    forward(&mut switch, now, &hdr, bytes, &mut other, &mut peer);
                }
            }
            Deed::Reply(len) => {
                ours.send(&VnetHdr::default(), &[&vec![1; len.into()]]);
                ours.flush();
            }
            Deed::Sleep => {
                let _ = ours.arm();
                ours.disarm();
            }
            Deed::WantRoom(bytes) => drop(ours.want_room(bytes)),
            Deed::Trim => drop(ours.trim()),
            Deed::Limit(bytes) => ours.limit(bytes as usize),
        }
    }
    // However it ends, taking everything ends, too.
    let mut taken = 0;
    while let Ok(Some(_)) = ours.receive(&mut room) {
        taken += 1;
        assert!(taken <= CAPACITY as usize / RECORD, "it goes on for ever");
    }
});

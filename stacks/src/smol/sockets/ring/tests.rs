//! Rings in a memory that only a test has.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::layout::{Layout, Version};
use super::{Bell, Frame, LOOK, LOOK_LATE, Memory, Ring};
use crate::smol::sockets::address::LinkLayer;
use crate::smol::tally::Tally;

#[derive(Debug, Clone)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Memory for Paper {
    fn load(&self, at: u64) -> u32 {
        let bytes = self.0.lock().unwrap();
        u32::from_ne_bytes(bytes[at as usize..at as usize + 4].try_into().unwrap())
    }

    fn store(&self, at: u64, bytes: &[u8]) -> bool {
        self.0.lock().unwrap()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        true
    }
}

impl Paper {
    fn give_back(&self, at: u64) {
        self.store(at, &[0; 4]);
    }
}

const WALL: Duration = Duration::new(1_000_000, 5_000);

#[expect(clippy::disallowed_methods, reason = "a test may read the clock")]
fn now() -> Instant {
    Instant::now()
}

fn request(words: [u32; 7]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn ring(version: Version, words: [u32; 7]) -> (Ring, Paper, Tally) {
    let layout = Layout::parse(version, 0, false, &request(words)).unwrap().unwrap();
    let paper = Paper(Arc::new(Mutex::new(vec![0; layout.size() as usize])));
    let tally = Tally::default();
    (Ring::new(layout, Box::new(paper.clone()), WALL, &tally), paper, tally)
}

fn frame(data: &[u8]) -> Frame<'_> {
    let from = LinkLayer::default();
    Frame { data, length: data.len() as u32, link: Some(14), status: 1, tag: None, from, at: WALL }
}

#[test]
fn a_full_ring_drops_and_goes_on_where_it_was() {
    let (mut ring, paper, tally) = ring(Version::V2, [4096, 2, 2048, 4, 0, 0, 0]);
    let now = now();
    assert_eq!(tally.bytes(), 8192);
    assert!(!ring.is_readable());
    for n in 0..4u8 {
        assert!(ring.put(now, &frame(&[n; 60]), false));
        assert!(ring.is_readable());
    }
    assert!(!ring.put(now, &frame(&[4; 60]), false));
    paper.give_back(0);
    assert!(ring.put(now, &frame(&[5; 60]), true));
    assert_eq!(paper.load(0), 1 | 4, "LOSING");
    assert_eq!(paper.0.lock().unwrap()[66..66 + 60], [5; 60]);
    drop(ring);
    assert_eq!(tally.bytes(), 0);
}

#[test]
fn a_frame_is_cut_to_its_slot() {
    let (mut ring, paper, _) = ring(Version::V2, [4096, 1, 64, 64, 0, 0, 0]);
    assert!(ring.put(now(), &frame(&[7; 1000]), false));
    assert!(ring.put(now(), &frame(&[7; 1000]), false));
    // tp_len, tp_snaplen
    assert_eq!((paper.load(4), paper.load(8)), (1000, 0));
    assert_eq!(paper.load(64), 1);
}

#[test]
fn a_block_goes_when_its_time_is_up() {
    let (mut ring, paper, _) = ring(Version::V3, [4096, 2, 2048, 4, 20, 8, 0]);
    let start = now();
    assert_eq!(ring.poll_timeout(), None, "nothing waits");
    assert!(ring.put(start, &frame(&[1; 60]), false));
    assert!(ring.put(start, &frame(&[2; 61]), false));
    assert!(!ring.is_readable());
    assert_eq!(ring.poll_timeout(), Some(start + Duration::from_millis(20)));
    ring.handle_timeout(start + Duration::from_millis(20), WALL, false);
    assert!(ring.is_readable());
    // block_status, num_pkts, offset_to_first_pkt; the first frame's tp_next_offset, the second's
    assert_eq!([8, 12, 16].map(|at| paper.load(at)), [0x21, 2, 56]);
    assert_eq!([56, 56 + 144].map(|at| paper.load(at)), [144, 0]);
    assert_eq!(ring.poll_timeout(), None);
}

#[test]
fn blocks_that_are_not_given_back_freeze_the_ring() {
    let (mut ring, paper, _) = ring(Version::V3, [4096, 2, 2048, 4, 20, 0, 0]);
    let now = now();
    let stored = (0..10).filter(|_| ring.put(now, &frame(&[1; 1000]), false)).count();
    assert_eq!((stored, ring.freezes), (6, 1));
    paper.give_back(8);
    assert!(ring.put(now, &frame(&[2; 1000]), false));
    // Nothing of the program's is believed.
    paper.0.lock().unwrap().fill(0xff);
    for _ in 0..10 {
        let _ = ring.put(now, &frame(&[3; 1000]), false);
        ring.handle_timeout(now + Duration::from_secs(1), WALL, false);
    }
}

#[test]
fn the_bell_is_out_as_long_as_there_is_something() {
    let (mut ring, paper, _) = ring(Version::V2, [4096, 2, 2048, 4, 0, 0, 0]);
    let mut now = now();
    assert_eq!(ring.poll_bell(now), None);
    ring.put(now, &frame(&[1; 60]), false);
    assert_eq!(ring.poll_bell(now), Some(Bell::Ring));
    assert_eq!(ring.poll_bell(now), None);
    for _ in 0..20 {
        now = ring.bell_timeout().unwrap();
        assert_eq!(ring.poll_bell(now), None);
    }
    assert_eq!(ring.bell_timeout(), Some(now + LOOK_LATE));
    paper.give_back(0);
    assert_eq!(ring.poll_bell(now + LOOK_LATE), Some(Bell::Hush));
    assert_eq!((ring.bell_timeout(), ring.poll_bell(now + LOOK_LATE)), (None, None));
    ring.put(now, &frame(&[1; 60]), false);
    assert_eq!(ring.poll_bell(now), Some(Bell::Ring));
    assert_eq!(ring.bell_timeout(), Some(now + LOOK));
}

#[test]
fn requests_are_judged_as_linux_does() {
    use nix::errno::Errno::{EBUSY, EINVAL};
    let judge = |version, words, reserve, busy| {
        Layout::parse(version, reserve, busy, &request(words)).map(|layout| layout.map(|l| l.size()))
    };
    let (v2, v3) = (Version::V2, Version::V3);
    assert_eq!(judge(v2, [4096, 2, 2048, 4, 0, 0, 0], 0, false), Ok(Some(8192)));
    assert_eq!(judge(v2, [4096, 2, 2048, 4, 0, 0, 0], 0, true), Err(EBUSY));
    assert_eq!(judge(v2, [0; 7], 0, true), Ok(None));
    assert_eq!(judge(v2, [0, 0, 0, 1, 0, 0, 0], 0, true), Err(EINVAL));
    assert_eq!(judge(v2, [1 << 31, 2, 2048, 4, 0, 0, 0], 0, false), Err(EINVAL));
    assert_eq!(judge(v2, [4096, 2, 64, 128, 0, 0, 0], 13, false), Err(EINVAL));
    assert_eq!(judge(v2, [4096, u32::MAX, 2048, u32::MAX - 1, 0, 0, 0], 0, false), Err(EINVAL));
    assert_eq!(judge(v3, [4096, 1, 2048, 2, 0, 3976, 0], 0, false), Ok(Some(4096)));
    assert_eq!(judge(v3, [4096, 1, 2048, 2, 0, 3977, 0], 0, false), Err(EINVAL));
    assert_eq!(judge(v3, [4096, 1, 2048, 2, 0, u32::MAX, 0], u32::MAX, false), Err(EINVAL));
    assert_eq!(Layout::parse(v3, 0, false, &request([4096, 1, 2048, 2, 0, 0, 0])[..27]), Err(EINVAL));
}

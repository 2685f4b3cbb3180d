//! Rings between two honest ends, two busy ones, and an honest and a hostile one.

use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use proptest::prelude::*;

use super::*;

fn pair(capacity: u32) -> (Ring, Ring) {
    let (ours, handover) = Ring::create(capacity).unwrap();
    (ours, Ring::attach(handover).unwrap())
}

fn buffer() -> Vec<u8> {
    vec![0; BUFFER_LEN]
}

/// A frame that can be told from others.
fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ number.wrapping_mul(0x9E37)) as u8).collect()
}

fn header(number: usize) -> VnetHdr {
    VnetHdr { gso_size: number as u16, hdr_len: 54, ..VnetHdr::default() }
}

#[track_caller]
fn put(ring: &mut Ring, number: usize, len: usize) {
    let bytes = frame(number, len);
    let (a, b) = bytes.split_at(len / 3);
    assert_eq!(ring.send(&header(number), &[a, &[], b]), Sent::Bytes(len));
}

#[track_caller]
fn take(ring: &mut Ring, number: usize, len: usize) {
    let mut buffer = buffer();
    let (hdr, bytes) = ring.receive(&mut buffer).unwrap().expect("a frame");
    assert_eq!(hdr, header(number));
    assert!(bytes == frame(number, len), "frame {number} of {len} bytes came changed");
}

fn waiter(ring: &Ring) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(ring, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
    assert!(rings(&epoll), "an eventfd that is not 0 is ready when it is first looked at");
    epoll
}

fn rings(epoll: &Epoll) -> bool {
    epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO).unwrap() == 1
}

#[test]
fn frames_of_all_lengths_go_round_and_round_both_ways() {
    let (mut a, mut b) = pair(128 << 10);
    let mut number = 0;
    for len in (0..MAX_RECORD).step_by(317).chain([MAX_RECORD]) {
        put(&mut a, number, len);
        put(&mut b, number + 1, len / 2);
        take(&mut b, number, len);
        take(&mut a, number + 1, len / 2);
        number += 2;
    }
    assert!(a.receive(&mut buffer()).unwrap().is_none() && b.receive(&mut buffer()).unwrap().is_none());
}

#[test]
fn a_ring_that_is_never_empty_wraps_at_every_place() {
    let (mut a, mut b) = pair(128 << 10);
    put(&mut a, 0, 700);
    for number in 1..3000 {
        put(&mut a, number, 100 + number % 1400);
        let last = number - 1;
        take(&mut b, last, if last == 0 { 700 } else { 100 + last % 1400 });
    }
    assert_eq!(a.producer.epoch, 0, "it began anew although it was not empty");
    assert!(a.producer.position > 1 << 20);
}

#[test]
fn positions_may_wrap_too() {
    let (mut a, mut b) = pair(128 << 10);
    let near = 0u32.wrapping_sub(256);
    (a.producer.position, b.consumer.position, b.consumer.head) = (near, near, near);
    // As if a record had not been taken, so that it does not begin anew.
    a.producer.side.tail(&a.shared).store(joined(0, near - 64), Ordering::Relaxed);
    a.producer.side.head(&a.shared).store(joined(0, near), Ordering::Relaxed);
    put(&mut a, 1, 10);
    for number in 1..20 {
        put(&mut a, number + 1, 10 * (number + 1));
        take(&mut b, number, 10 * number);
    }
    assert_eq!(a.producer.epoch, 0);
}

#[test]
fn a_full_ring_drops_and_loses_nothing_else() {
    let (mut a, mut b) = pair(128 << 10);
    let fits = (128 << 10) / record_len(1000) as usize;
    for number in 0..fits {
        put(&mut a, number, 1000);
    }
    assert_eq!(a.send(&header(0), &[&[0; 1000]]), Sent::Dropped(DropReason::Full));
    for number in 0..fits {
        take(&mut b, number, 1000);
    }
    assert!(b.receive(&mut buffer()).unwrap().is_none());
    put(&mut a, 7, 1000);
    take(&mut b, 7, 1000);
    assert_eq!(a.send(&header(0), &[&vec![0; MAX_RECORD + 1]]), Sent::Dropped(DropReason::Refused));
}

#[test]
fn a_quiet_ring_keeps_to_its_first_pages() {
    let (mut a, handover) = Ring::create(CAPACITY).unwrap();
    let memory = handover[0].try_clone().unwrap();
    let mut b = Ring::attach(handover).unwrap();
    for number in 0..10_000 {
        put(&mut a, number, 1500);
        a.flush();
        take(&mut b, number, 1500);
    }
    assert!(a.producer.epoch > 100);
    assert!(a.producer.position < REWIND + 2 * record_len(1500));
    let used = rustix::fs::fstat(&memory).unwrap().st_blocks * 512;
    assert!(used <= 32 << 10, "{used} bytes");
    // Begun anew while the other end has not looked.
    put(&mut a, 1, 60);
    put(&mut a, 2, 60_000);
    put(&mut a, 3, 60);
    [60, 60_000, 60].into_iter().zip(1..).for_each(|(len, number)| take(&mut b, number, len));
}

#[test]
fn a_swollen_ring_gives_its_memory_back() {
    let (mut a, handover) = Ring::create(CAPACITY).unwrap();
    let memory = handover[0].try_clone().unwrap();
    let mut b = Ring::attach(handover).unwrap();
    let used = || rustix::fs::fstat(&memory).unwrap().st_blocks * 512;
    (0..40).for_each(|number| put(&mut a, number, 60_000));
    assert!(a.is_swollen() && used() > 2 << 20);
    take(&mut b, 0, 60_000);
    assert!(!a.trim().unwrap(), "there are frames in it");
    (1..40).for_each(|number| take(&mut b, number, 60_000));
    assert!(a.trim().unwrap() && !a.is_swollen());
    assert!(used() <= 32 << 10, "{}", used());
    (0..60).for_each(|number| put(&mut a, number, 60_000));
    (0..60).for_each(|number| take(&mut b, number, 60_000));
}

#[test]
fn a_limited_ring_takes_no_more() {
    let (mut a, mut b) = pair(CAPACITY);
    a.limit(200 << 10);
    let fits = (200 << 10) / record_len(1000) as usize;
    (0..fits).for_each(|number| put(&mut a, number, 1000));
    assert_eq!(a.send(&header(0), &[&[0; 1000]]), Sent::Dropped(DropReason::Full));
    take(&mut b, 0, 1000);
    put(&mut a, 1, 1000);
    assert_eq!(a.send(&header(0), &[&[0; 1000]]), Sent::Dropped(DropReason::Full));
    a.limit(1 << 30);
    put(&mut a, 2, 1000);
    a.limit(0);
    while b.receive(&mut buffer()).unwrap().is_some() {}
    put(&mut a, 3, MAX_RECORD);
}

#[test]
fn the_doorbell_rings_for_sleepers_only_and_once() {
    let (mut a, mut b) = pair(128 << 10);
    let epoll = waiter(&b);
    put(&mut a, 0, 60);
    a.flush();
    assert!(!rings(&epoll), "nobody asked");
    assert!(b.arm().unwrap(), "there is a frame, so no sleep");
    take(&mut b, 0, 60);
    assert!(!b.arm().unwrap());
    put(&mut a, 1, 60);
    assert!(!rings(&epoll), "the batch is not over");
    put(&mut a, 2, 60);
    a.flush();
    assert!(rings(&epoll) && !rings(&epoll));
    put(&mut a, 3, 60);
    a.flush();
    assert!(!rings(&epoll), "it was woken already");
    b.disarm();
    (1..4).for_each(|number| take(&mut b, number, 60));
}

#[test]
fn a_producer_without_room_hears_when_half_is_free() {
    let (mut a, mut b) = pair(128 << 10);
    let epoll = waiter(&a);
    let count = (128 << 10) / record_len(1000) as usize;
    (0..count).for_each(|number| put(&mut a, number, 1000));
    a.flush();
    assert!(!a.want_room(1000).unwrap());
    for number in 0..count / 2 - 1 {
        take(&mut b, number, 1000);
        b.flush();
        assert!(!rings(&epoll), "after {number} of {count}");
    }
    take(&mut b, count / 2 - 1, 1000);
    b.flush();
    assert!(rings(&epoll));
    assert!(a.want_room(1000).unwrap());
}

#[test]
fn a_doorbell_that_its_owner_filled_does_not_block_us() {
    let (mut a, mut b) = pair(128 << 10);
    let flags = rustix::fs::fcntl_getfl(&b).unwrap();
    rustix::fs::fcntl_setfl(&b, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    rustix::io::write(&b, &(u64::MAX - 2).to_ne_bytes()).unwrap();
    let epoll = waiter(&b);
    assert!(!b.arm().unwrap());
    put(&mut a, 0, 60);
    a.flush();
    assert!(rings(&epoll));
}

#[test]
fn two_threads_lose_nothing_and_never_oversleep() {
    const FRAMES: usize = 30_000;
    let (mut a, mut b) = pair(128 << 10);
    let len = |number: usize| if number.is_multiple_of(100) { 60_000 } else { 14 + number % 1500 };
    let producer = std::thread::Builder::new().spawn(move || {
        let epoll = waiter(&a);
        for number in 0..FRAMES {
            while !a.want_room(record_len(len(number))).unwrap() {
                let timeout = EpollTimeout::try_from(Duration::from_secs(10)).unwrap();
                let woken = epoll.wait(&mut [EpollEvent::empty()], timeout).unwrap();
                assert_eq!(woken, 1, "never told of room, at {number}");
            }
            put(&mut a, number, len(number));
            if number % 7 == 0 {
                a.flush();
            }
        }
        a.flush();
        a
    });
    let epoll = waiter(&b);
    let mut buffer = buffer();
    let mut number = 0;
    while number < FRAMES {
        while let Some((hdr, bytes)) = b.receive(&mut buffer).unwrap() {
            assert_eq!(hdr, header(number));
            assert!(bytes == frame(number, len(number)));
            number += 1;
        }
        if number < FRAMES && !b.arm().unwrap() {
            let timeout = EpollTimeout::try_from(Duration::from_secs(10)).unwrap();
            let woken = epoll.wait(&mut [EpollEvent::empty()], timeout).unwrap();
            assert_eq!(woken, 1, "never told of frame {number}");
            b.disarm();
        }
    }
    drop(producer.unwrap().join().unwrap());
}

#[test]
fn a_frame_that_comes_just_as_one_falls_asleep_wakes_it() {
    const FRAMES: usize = 30_000;
    let (mut a, mut b) = pair(128 << 10);
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&taken);
    let producer = std::thread::Builder::new().spawn(move || {
        for number in 0..FRAMES {
            // One frame at a time, somewhat later than it could be.
            while seen.load(Ordering::Acquire) < number {
                std::hint::spin_loop();
            }
            (0..number.wrapping_mul(0x9E37_79B9) >> 7 & 0x7F).for_each(|_| std::hint::spin_loop());
            put(&mut a, number, 60);
            a.flush();
        }
        a
    });
    let epoll = waiter(&b);
    for number in 0..FRAMES {
        taken.store(number, Ordering::Release);
        while !b.arm().unwrap() {
            let timeout = EpollTimeout::try_from(Duration::from_secs(10)).unwrap();
            let woken = epoll.wait(&mut [EpollEvent::empty()], timeout).unwrap();
            assert_eq!(woken, 1, "overslept frame {number}");
        }
        b.disarm();
        take(&mut b, number, 60);
    }
    drop(producer.unwrap().join().unwrap());
}

#[test]
fn only_what_is_safe_is_attached() {
    let refused = |handover: Handover, part: &str| {
        let error = Ring::attach(handover).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let bell = || rustix::event::eventfd(1, EventfdFlags::empty()).unwrap();
    let memory = |len: u64, flags: MemfdFlags, seals: SealFlags| {
        let fd = rustix::fs::memfd_create("test", flags | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, len).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    };
    let both = SealFlags::SHRINK | SealFlags::GROW;
    let right = file_len(CAPACITY) as u64;
    let plain = MemfdFlags::CLOEXEC;
    assert!(Ring::attach([memory(right, plain, both), bell(), bell()]).is_ok());
    refused([memory(right, plain, SealFlags::GROW), bell(), bell()], "not sealed");
    refused([memory(right - 1, plain, both), bell(), bell()], "size");
    refused([memory(file_len(64 << 10) as u64, plain, both), bell(), bell()], "size");
    refused([memory(file_len(16 << 20) as u64, plain, both), bell(), bell()], "size");
    refused([memory(0, plain, both), bell(), bell()], "size");
    refused([memory(right, plain, both | SealFlags::WRITE), bell(), bell()], "permitted");
    refused([tempfile::tempfile().unwrap().into(), bell(), bell()], "the memory is");
    refused([bell(), bell(), bell()], "no memfd");
    let (pipe, _other) = nix::unistd::pipe().unwrap();
    refused([memory(right, plain, both), pipe, bell()], "no eventfd");
    assert!(Ring::create(100_000).is_err() && Ring::create(64 << 10).is_err());
}

/// What a hostile end does between two of our steps.
#[derive(Debug, Clone)]
enum Deed {
    /// Stores anything in any word of the first page.
    Word(usize, u64),
    /// Stores something plausible in a word.
    Near(usize, u32, i32),
    /// Writes over records.
    Bytes(usize, Vec<u8>),
    /// Makes a hole.
    Punch(usize),
    Send(usize),
    Receive,
    Flush,
    Arm,
    Room,
    Trim,
    /// The hostile end plays by the rules for once.
    Honest(usize),
}

fn deeds() -> impl Strategy<Value = Deed> {
    let word = (0usize..9).prop_map(|n| if n == 0 { 0 } else { WORDS + (n - 1) * LINE });
    prop_oneof![
        (word.clone(), any::<u64>()).prop_map(|(at, value)| Deed::Word(at, value)),
        (word, 0u32..3, -200_000i32..200_000).prop_map(|(at, epoch, by)| Deed::Near(at, epoch, by & !63)),
        (0usize..2 * (128 << 10), proptest::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Deed::Bytes(at & !63, bytes)),
        (0usize..65).prop_map(Deed::Punch),
        (0usize..MAX_RECORD + 10).prop_map(Deed::Send),
        (0usize..100).prop_map(Deed::Send),
        Just(Deed::Receive),
        Just(Deed::Receive),
        Just(Deed::Flush),
        Just(Deed::Arm),
        Just(Deed::Room),
        Just(Deed::Trim),
        (0usize..3000).prop_map(Deed::Honest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_hostile_end_breaks_its_port_and_nothing_else(deeds in proptest::collection::vec(deeds(), 1..200)) {
        let (mut hostile, handover) = Ring::create(128 << 10).unwrap();
        let memory = handover[0].try_clone().unwrap();
        let mut ours = Ring::attach(handover).unwrap();
        let mut buffer = buffer();
        for deed in deeds {
            match deed {
                Deed::Word(at, value) => hostile.shared.word(at).store(value, Ordering::Relaxed),
                Deed::Near(at, epoch, by) => {
                    let (old_epoch, old) = split(hostile.shared.word(at).load(Ordering::Relaxed));
                    let near = joined(old_epoch.wrapping_add(epoch), old.wrapping_add_signed(by));
                    hostile.shared.word(at).store(near, Ordering::Relaxed);
                }
                Deed::Bytes(at, bytes) => {
                    let room = file_len(128 << 10) - RECORDS - at;
                    hostile.shared.copy_in(RECORDS + at, &bytes[..bytes.len().min(room)]);
                }
                Deed::Punch(page) => {
                    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&memory, flags, page as u64 * 4096, 4096).unwrap();
                }
                Deed::Send(len) => {
                    let sent = ours.send(&VnetHdr::default(), &[&vec![1; len]]);
                    prop_assert!(sent != Sent::Bytes(MAX_RECORD + 1));
                }
                Deed::Receive => {
                    if let Ok(Some((_, bytes))) = ours.receive(&mut buffer) {
                        prop_assert!(bytes.len() <= MAX_RECORD);
                    }
                }
                Deed::Flush => ours.flush(),
                Deed::Arm => drop(ours.arm()),
                Deed::Room => drop(ours.want_room(3000)),
                Deed::Trim => drop(ours.trim()),
                Deed::Honest(len) => {
                    let _ = hostile.send(&VnetHdr::default(), &[&vec![2; len]]);
                    let _ = hostile.receive(&mut vec![0; BUFFER_LEN]);
                    hostile.flush();
                }
            }
        }
        // However it ends, taking everything ends too.
        let mut taken = 0;
        while let Ok(Some(_)) = ours.receive(&mut buffer) {
            taken += 1;
            prop_assert!(taken <= (128 << 10) / ALIGN);
        }
        prop_assert!(ours.as_fd().as_raw_fd() >= 0);
    }
}

#[test]
fn an_end_that_changes_everything_at_once_does_no_harm() {
    let (_hostile, handover) = Ring::create(128 << 10).unwrap();
    let file = fs::File::from(handover[0].try_clone().unwrap());
    let mut ours = Ring::attach(handover).unwrap();
    let end = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = std::sync::Arc::clone(&end);
    let scribbler = std::thread::Builder::new().spawn(move || {
        use std::os::unix::fs::FileExt;
        let mut seed = 0x9E37_79B9_7F4A_7C15u64;
        while !told.load(Ordering::Relaxed) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // Heads and tails that are nearly right, lengths that are now right and now not.
            let word = joined(0, (seed >> 20) as u32 & 0x3_FFC0).to_ne_bytes();
            file.write_all_at(&word, (WORDS + LINE * (seed as usize % 8)) as u64).unwrap();
            let len = (seed >> 40) as u32 & 0x7FF;
            file.write_all_at(&len.to_ne_bytes(), (RECORDS + (seed >> 9) as usize % 512 * ALIGN) as u64)
                .unwrap();
        }
    });
    let (mut buffer, mut taken) = (buffer(), 0);
    for round in 0..200_000 {
        if let Ok(Some((_, bytes))) = ours.receive(&mut buffer) {
            assert!(bytes.len() <= MAX_RECORD);
            taken += 1;
        }
        ours.send(&VnetHdr::default(), &[&[1; 1000][..round % 1000]]);
        let _ = ours.arm();
        ours.flush();
    }
    end.store(true, Ordering::Relaxed);
    scribbler.unwrap().join().unwrap();
    assert!(taken > 0, "the scribbler never hit the rules");
}

//! Ring ports of a served switch beside ports of the kernel, and in front of hostile ends.

mod common;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Namespace, Served, any_port, eventually, isolated, transfer};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use switch::client::{Attach, Client, Kind};
use switch::offload::VnetHdr;
use switch::port::DropReason;
use switch::ports::ring::{CAPACITY, Handover, Ring};
use switch::ports::{BUFFER_LEN, Sent};

/// A ring port of a served switch; it lives as long as the connection.
fn plug(served: &Served, name: &str) -> (Ring, Client) {
    let (ring, ends) = Ring::create(CAPACITY).unwrap();
    let mut client = served.client();
    let attach = Attach { name: Some(name.into()), ..Attach::new(Kind::Ring) };
    assert_eq!(client.add_ring(&ends, &attach).unwrap().name, name);
    (ring, client)
}

/// Carries frames between two rings until told to end; returns the longest.
fn carry(mut a: Ring, mut b: Ring, end: Arc<AtomicBool>) -> JoinHandle<usize> {
    let carrier = move || {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        for ring in [&a, &b] {
            epoll.add(ring, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
        }
        let (mut buffer, mut longest) = (vec![0; BUFFER_LEN], 0);
        while !end.load(Ordering::Relaxed) {
            for _ in 0..2 {
                while let Some((hdr, frame)) = a.receive(&mut buffer).unwrap() {
                    longest = longest.max(frame.len());
                    b.send(&hdr, &[frame]);
                }
                b.flush();
                (a, b) = (b, a);
            }
            if !a.arm().unwrap() & !b.arm().unwrap() {
                let timeout = EpollTimeout::try_from(Duration::from_millis(20)).unwrap();
                epoll.wait(&mut [EpollEvent::empty()], timeout).unwrap();
            }
        }
        longest
    };
    std::thread::Builder::new().spawn(carrier).unwrap()
}

#[test]
fn kernels_talk_through_rings() {
    isolated("kernels_talk_through_rings", || {
        let (left, right) = (Served::new(None), Served::new(None));
        let ((near, near_line), (far, _far_line)) = (plug(&left, "cable"), plug(&right, "cable"));
        let end = Arc::new(AtomicBool::new(false));
        let carrier = carry(near, far, Arc::clone(&end));
        let (a, b) = (Namespace::new(), Namespace::new());
        let ((a_fd, kind), (b_fd, _)) = (any_port(&a), any_port(&b));
        let _a_port = left.client().attach(a_fd, &Attach::new(kind)).unwrap();
        let _b_port = right.client().attach(b_fd, &Attach::new(kind)).unwrap();
        a.configure("eth0", &["10.0.0.1/24", "fd00::1/64"]);
        b.configure("eth0", &["10.0.0.2/24", "fd00::2/64"]);
        assert!(a.ping("10.0.0.2") && a.ping("fd00::2"));
        transfer(&a, &b, "10.0.0.2", 32 << 20);
        transfer(&b, &a, "fd00::1", 32 << 20);
        end.store(true, Ordering::Relaxed);
        let longest = carrier.join().unwrap();
        assert!(longest > 4000, "no super-segments in the rings: {longest}");
        // A ring port goes with its connection.
        drop(near_line);
        eventually("the ring port goes", || left.client().ports().unwrap().len() == 1);
    });
}

fn frame(to: [u8; 6], from: u8) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, from, 0x88, 0xB5]);
    frame.resize(60, 0);
    frame
}

fn receive(ring: &mut Ring) -> Vec<u8> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut found = None;
    eventually("a frame", || {
        found = ring.receive(&mut buffer).unwrap().map(|(_, frame)| frame.to_vec());
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_full_ring_drops_for_itself_only() {
    let served = Served::new(None);
    let (mut a, mut line) = plug(&served, "a");
    let (mut sleepy, _sleepy_line) = plug(&served, "sleepy");
    let (mut b, _b_line) = plug(&served, "b");
    let mut flood = frame([255; 6], 1);
    flood.resize(60_000, 0);
    let mut heard = 0;
    for sent in 1..200 {
        assert_eq!(a.send(&VnetHdr::default(), &[&flood]), Sent::Bytes(flood.len()));
        a.flush();
        assert!(!a.arm().unwrap());
        eventually("the other one hears", || {
            heard += usize::from(b.receive(&mut vec![0; BUFFER_LEN]).unwrap().is_some());
            heard == sent
        });
        b.flush();
    }
    let ports = line.ports().unwrap();
    let drops = |name: &str| {
        let port = ports.iter().find(|port| port.name == name).unwrap();
        port.drops.get(&DropReason::Full).copied().unwrap_or(0)
    };
    assert!(drops("sleepy") > 100, "{ports:?}");
    assert_eq!((drops("a"), drops("b")), (0, 0));
    // It wakes, takes what fitted, and hears the next frame.
    let mut kept = 0;
    while sleepy.receive(&mut vec![0; BUFFER_LEN]).unwrap().is_some() {
        kept += 1;
    }
    assert_eq!(kept + drops("sleepy"), 199);
    a.send(&VnetHdr::default(), &[&frame([255; 6], 1)]);
    a.flush();
    assert_eq!(receive(&mut sleepy), frame([255; 6], 1));
}

#[test]
fn what_a_burst_took_is_given_back() {
    let served = Served::new(None);
    let (mut a, _a_line) = plug(&served, "a");
    let (mut b, ends) = Ring::create(CAPACITY).unwrap();
    let memory = ends[0].try_clone().unwrap();
    let mut b_line = served.client();
    b_line.add_ring(&ends, &Attach::new(Kind::Ring)).unwrap();
    let used = || rustix::fs::fstat(&memory).unwrap().st_blocks * 512;
    let mut flood = frame([255; 6], 1);
    flood.resize(60_000, 0);
    for _ in 0..30 {
        a.send(&VnetHdr::default(), &[&flood]);
    }
    a.flush();
    eventually("they wait in the ring", || used() > 30 * 60_000);
    for _ in 0..30 {
        assert_eq!(receive(&mut b), flood);
    }
    eventually("it is trimmed", || used() < 64 << 10);
    a.send(&VnetHdr::default(), &[&flood]);
    a.flush();
    assert_eq!(receive(&mut b), flood);
}

#[test]
fn who_breaks_the_rules_loses_the_port_and_nobody_else() {
    let served = Served::new(None);
    let (mut a, _a_line) = plug(&served, "a");
    let (mut b, mut line) = plug(&served, "b");
    for offset in [64u64, 64 + 256 + 64, 4096] {
        let (mut bad, ends) = Ring::create(CAPACITY).unwrap();
        let file = std::fs::File::from(ends[0].try_clone().unwrap());
        let mut bad_line = served.client();
        bad_line.add_ring(&ends, &Attach { name: Some("bad".into()), ..Attach::new(Kind::Ring) }).unwrap();
        // A head or a tail nowhere near, or a record longer than the ring.
        if offset == 4096 {
            bad.send(&VnetHdr::default(), &[&frame([255; 6], 9)]);
        }
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xF0; 8], offset).unwrap();
        rustix::io::write(&ends[1], &0u64.to_ne_bytes()).unwrap();
        a.send(&VnetHdr::default(), &[&frame([255; 6], 1)]);
        a.flush();
        assert_eq!(receive(&mut b), frame([255; 6], 1));
        eventually("the bad port goes", || line.ports().unwrap().len() == 2);
    }
    b.send(&VnetHdr::default(), &[&frame([2, 0, 0, 0, 0, 1], 2)]);
    b.flush();
    assert_eq!(receive(&mut a), frame([2, 0, 0, 0, 0, 1], 2));
}

#[test]
fn wrong_descriptors_are_refused_in_words() {
    let served = Served::new(None);
    let mut client = served.client();
    let mut refused = |ends: &Handover, part: &str| {
        let error = client.add_ring(ends, &Attach::new(Kind::Ring)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let (_ring, [memory, bell, peer]) = Ring::create(CAPACITY).unwrap();
    let (pipe, _end) = nix::unistd::pipe().unwrap();
    let copy = |fd: &OwnedFd| fd.try_clone().unwrap();
    refused(&[copy(&memory), copy(&bell), pipe], "no eventfd");
    refused(&[copy(&bell), copy(&bell), copy(&peer)], "no memfd");
    let error = client.add_port(memory.as_fd(), &Attach::new(Kind::Ring)).unwrap_err().to_string();
    assert!(error.contains("three descriptors"), "{error}");
    assert!(client.ports().unwrap().is_empty());
}

//! Those who live in a switch's thread.

mod common;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Served, eventually};
use msocket_proto::line::{CallError, Refusal};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use switch::client::{Attach, Client, Kind};
use switch::offload::VnetHdr;
use switch::ports::BUFFER_LEN;
use switch::ports::ring::{CAPACITY, Ring};
use switch::serve::{Resident, Server};

/// Sends each frame back to where it came from; the first byte behind the addresses may be a wish.
struct Echo {
    ring: Ring,
    epoll: Epoll,
    file: PathBuf,
}

/// It goes; it panics.
const GO: u8 = 1;
const PANIC: u8 = 2;

impl Resident for Echo {
    fn source(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn turn(&mut self, _: Instant, _: bool) -> bool {
        let mut buffer = vec![0; BUFFER_LEN];
        while let Some((hdr, frame)) = self.ring.receive(&mut buffer).unwrap() {
            assert!(frame[14] != PANIC, "as was wished");
            if frame[14] == GO {
                return false;
            }
            let back = [&frame[6..12], &[2, 0, 0, 0, 0, 9], &frame[12..]].concat();
            self.ring.send(&hdr, &[&back]);
        }
        self.ring.flush();
        true
    }
}

fn make(what: &str, ring: Ring) -> Result<Box<dyn Resident>, Refusal> {
    if what != "echo" {
        return Err(Refusal::new("cannot", "not here").errno(libc::EOPNOTSUPP));
    }
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(&ring, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
    Ok(Box::new(Echo { ring, epoll, file: "/nowhere".into() }))
}

fn served(idle: Option<Duration>) -> Served {
    Served::set_up(idle, |server: &mut Server| server.take_in(Box::new(make)))
}

fn attach(guest: bool) -> Attach {
    Attach { name: Some("echo".into()), guest, ..Attach::new(Kind::Ring) }
}

fn ports(client: &mut Client) -> Vec<String> {
    client.ports().unwrap().into_iter().map(|port| port.name).collect()
}

/// A port of our own beside the resident's.
fn plug(served: &Served) -> (Ring, Client) {
    let (ring, ends) = Ring::create(CAPACITY).unwrap();
    let mut client = served.client();
    client.add_ring(&ends, &Attach::new(Kind::Ring)).unwrap();
    (ring, client)
}

fn say(ring: &mut Ring, wish: u8) {
    let mut frame = vec![255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xB5, wish];
    frame.resize(60, 0);
    ring.send(&VnetHdr::default(), &[&frame]);
    ring.flush();
}

fn hears(ring: &mut Ring) -> bool {
    let mut buffer = vec![0; BUFFER_LEN];
    std::iter::from_fn(|| ring.receive(&mut buffer).unwrap().map(|(_, frame)| frame[14]))
        .any(|wish| wish == 0)
}

#[test]
fn what_it_is_sent_it_answers_without_being_woken() {
    let served = served(None);
    let (mut ring, mut client) = plug(&served);
    assert_eq!(client.host(&attach(false), "echo").unwrap().name, "echo");
    for _ in 0..100 {
        say(&mut ring, 0);
        eventually("an answer", || hears(&mut ring));
    }
}

#[test]
fn it_goes_with_its_port_and_its_port_with_it() {
    let served = served(None);
    let (mut ring, mut client) = plug(&served);
    for end in [GO, PANIC] {
        client.host(&attach(false), "echo").unwrap();
        assert_eq!(ports(&mut client).len(), 2);
        say(&mut ring, end);
        eventually("the port goes", || ports(&mut client).len() == 1);
    }
    client.host(&attach(false), "echo").unwrap();
    client.call::<()>(&switch::client::Request::PortRm { port: "echo".into() }).unwrap();
    assert_eq!(ports(&mut client).len(), 1);
    // There is room for as many as before.
    let room = (0..9).take_while(|n| {
        let name = Some(format!("echo{n}"));
        client.host(&Attach { name, ..attach(false) }, "echo").is_ok()
    });
    assert_eq!(room.count(), 4);
}

#[test]
fn who_is_not_wanted_is_told_so_and_has_no_port() {
    let errno = |result: Result<_, CallError>| match result {
        Err(CallError::Refused(refusal)) => refusal.errno,
        _ => None,
    };
    let served = served(None);
    let mut client = served.client();
    assert_eq!(errno(client.host(&attach(false), "somebody")), Some(libc::EOPNOTSUPP));
    client.host(&attach(false), "echo").unwrap();
    assert_eq!(errno(client.host(&attach(false), "echo")), Some(libc::EEXIST));
    assert_eq!(ports(&mut client), ["echo"]);
    let alone = Served::new(None);
    assert_eq!(errno(alone.client().host(&attach(false), "echo")), Some(libc::EOPNOTSUPP));
}

#[test]
fn a_guest_keeps_no_switch_and_others_do() {
    let idle = Some(Duration::from_millis(50));
    let mut left = served(idle);
    left.client().host(&attach(true), "echo").unwrap();
    // It ends by itself, or this waits for ever.
    left.join();
    let kept = served(idle);
    kept.client().host(&attach(false), "echo").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ports(&mut kept.client()), ["echo"]);
}

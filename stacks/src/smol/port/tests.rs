//! Ports of every kind, with a real other end.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use switch::client::Client;
use switch::serve;

use super::*;
use crate::config::StackConfig;

/// A switch called `lan` that ends with this value.
struct Served {
    folder: tempfile::TempDir,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Served {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = serve::Options {
            name: "lan".into(),
            path: folder.path().join("lan"),
            mode: 0o600,
            age: Duration::from_secs(300),
            idle: None,
        };
        let bound = serve::bind(&options).unwrap();
        let thread = std::thread::Builder::new().spawn(move || serve::run(bound, &options)).unwrap();
        Self { folder, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("lan")
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            Client::connect(&self.path()).unwrap().down().unwrap();
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port and what its owner has.
struct Station {
    port: Port,
    epoll: Epoll,
    buffer: Vec<u8>,
}

#[expect(clippy::disallowed_methods, reason = "a test may read the clock")]
fn now() -> Instant {
    Instant::now()
}

impl Station {
    fn new(stack: &str, switches: &Path, line: &str) -> Self {
        let mut config = StackConfig::default();
        config.add_line(line).unwrap();
        let port = Port::open(&Plugs { stack, switches }, &config.interfaces[0]).unwrap().expect("a link");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        for (fd, flags) in port.sources() {
            epoll.add(fd, EpollEvent::new(flags, 0)).unwrap();
        }
        Self { port, epoll, buffer: vec![0; BUFFER_LEN] }
    }

    fn send(&mut self, header: &VnetHdr, frame: &[u8]) {
        assert_eq!(self.port.send(now(), header, frame), Sent::Bytes(frame.len()));
        self.port.flush();
    }

    /// The next frame, waited for.
    fn next(&mut self) -> Option<(VnetHdr, Vec<u8>)> {
        for _ in 0..10 {
            if let Some((header, frame)) = self.port.receive(now(), &mut self.buffer) {
                return Some((header, frame.to_vec()));
            }
            if !self.port.before_sleep() {
                self.wait(Duration::from_secs(1));
            }
        }
        None
    }

    fn wait(&mut self, time: Duration) {
        let mut events = [EpollEvent::empty(); 2];
        let count = self.epoll.wait(&mut events, EpollTimeout::try_from(time).unwrap()).unwrap();
        events[..count].iter().for_each(|event| self.port.handle_ready(event.events()));
    }
}

fn frame(to: u8, from: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xB5];
    if to == 255 {
        frame[..6].fill(255);
    }
    frame.resize(len, from);
    frame
}

#[test]
fn two_uplinks_meet_on_a_switch() {
    let mut served = Served::new();
    let mut a = Station::new("one", served.folder.path(), "switch:lan");
    let mut b = Station::new("one", served.folder.path(), "switch:lan");
    let mut other = Station::new("two", served.folder.path(), "switch:lan[vlan 7]");
    let ports = Client::connect(&served.path()).unwrap().ports().unwrap();
    let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["one.eth0", "one.eth0.2", "two.eth0"]);
    let plain = VnetHdr::default();
    a.send(&plain, &frame(255, 1, 60));
    assert_eq!(b.next(), Some((plain, frame(255, 1, 60))));
    for len in [60, 1514, 65_549] {
        b.send(&plain, &frame(1, 2, len));
        assert_eq!(a.next(), Some((plain, frame(1, 2, len))));
        a.send(&plain, &frame(2, 1, len));
        assert_eq!(b.next(), Some((plain, frame(2, 1, len))));
    }
    assert!(!other.port.before_sleep(), "VLANs met");
    served.end();
    for station in [&mut a, &mut b, &mut other] {
        station.wait(Duration::from_secs(5));
        assert!(!station.port.has_carrier());
        assert!(!station.port.before_sleep());
    }
}

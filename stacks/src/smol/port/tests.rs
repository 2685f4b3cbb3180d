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
        let options = serve::Options::new("lan", &folder.path().join("lan"));
        let server = serve::Server::new(&options, None).unwrap();
        let thread = std::thread::Builder::new().spawn(move || server.run()).unwrap();
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

#[expect(clippy::disallowed_methods, reason = "a test may read the clock")]
fn wall() -> SystemTime {
    SystemTime::now()
}

impl Station {
    fn new(stack: &str, switches: &Path, line: &str) -> Self {
        Self::open(stack, switches, &mut Cables::new(), line).unwrap()
    }

    fn open(stack: &str, switches: &Path, cables: &mut Cables, line: &str) -> Result<Self, Refusal> {
        let mut config = StackConfig::default();
        config.add_line(line).unwrap();
        let mut plugs = Plugs { stack, switches, guest: false, cables, clocks: (now(), wall()) };
        let port = Port::open(&mut plugs, &config.interfaces[0])?.expect("a link");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        for (fd, flags) in port.sources() {
            epoll.add(fd, EpollEvent::new(flags, 0)).unwrap();
        }
        Ok(Self { port, epoll, buffer: vec![0; BUFFER_LEN] })
    }

    fn send(&mut self, header: &VnetHdr, frame: &[u8]) {
        assert_eq!(self.port.send(now(), header, frame), Sent::Bytes(frame.len()));
        self.port.flush();
    }

    /// The next frame, waited for.
    fn next(&mut self) -> Option<(VnetHdr, Vec<u8>)> {
        for _ in 0..30 {
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
        station.wait(Duration::from_secs(30));
        assert!(!station.port.has_carrier());
        assert!(!station.port.before_sleep());
    }
}

/// A TCP super-segment of `count` times 1000 bytes, with its header.
fn super_segment(to: u8, from: u8, count: usize) -> (VnetHdr, Vec<u8>) {
    let mut bytes = frame(to, from, 54 + 1000 * count);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14..34].fill(0);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&(40 + 1000 * count as u16).to_be_bytes());
    (bytes[22], bytes[23]) = (64, libc::IPPROTO_TCP as u8);
    bytes[34..54].fill(0);
    bytes[46] = 5 << 4;
    let header = VnetHdr {
        flags: 1,
        gso_type: switch::offload::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
    };
    (header, bytes)
}

#[test]
fn a_cable_has_two_ends() {
    let (nowhere, mut cables) = (Path::new("/nonexistent"), Cables::new());
    let mut open = |line: &str| Station::open("one", nowhere, &mut cables, line);
    let mut a = open("pair:x").unwrap();
    assert!(!a.port.has_carrier());
    assert_eq!(a.port.send(now(), &VnetHdr::default(), &frame(2, 1, 60)), Sent::Dropped(DropReason::Refused));
    let _other = open("pair:y").unwrap();
    let mut b = open("pair:x").unwrap();
    assert!(a.port.has_carrier() && b.port.has_carrier());
    let refusal = open("pair:x").err().expect("a third end").to_string();
    assert!(refusal.contains("both its ends"), "{refusal}");
    let (header, bytes) = super_segment(2, 1, 60);
    a.send(&header, &bytes);
    assert_eq!(b.next(), Some((header, bytes.clone())));
    // Pulled out and in again, it has forgotten what was under way.
    a.send(&header, &bytes);
    a.wait(Duration::ZERO);
    drop(b);
    a.wait(Duration::from_secs(5));
    assert!(!a.port.has_carrier());
    let mut b = open("pair:x").unwrap();
    assert!(a.port.has_carrier() && !b.port.before_sleep());
    b.send(&VnetHdr::default(), &frame(1, 2, 60));
    assert_eq!(a.next().unwrap().1, frame(1, 2, 60));
}

#[test]
fn a_port_of_a_vde_switch() {
    let folder = tempfile::tempdir().unwrap();
    let sock = folder.path().join("vde");
    let command = std::process::Command::new("vde_switch")
        .arg("-s")
        .arg(&sock)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn();
    let Ok(mut switch) = command else {
        return eprintln!("SKIPPED, no vde_switch: {command:?}");
    };
    let line = format!("vde:{}", sock.display());
    let mut tries = 0..3000;
    let mut a = loop {
        match Station::open("one", folder.path(), &mut Cables::new(), &line) {
            Ok(station) => break station,
            Err(refusal) if tries.next().is_none() => panic!("{refusal}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut b = Station::new("two", folder.path(), &line);
    let files = std::fs::read_dir(&sock).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!files.into_iter().any(|name| name.to_string_lossy().contains("viewnet")), "a name was left");
    let plain = VnetHdr::default();
    a.send(&plain, &frame(255, 1, 60));
    assert_eq!(b.next(), Some((plain, frame(255, 1, 60))));
    b.send(&plain, &frame(1, 2, 1514));
    assert_eq!(a.next(), Some((plain, frame(1, 2, 1514))));
    // What VDE would cut off is not sent; what can be cut is cut.
    let long = a.port.send(now(), &plain, &frame(2, 1, 1600));
    assert_eq!(long, Sent::Dropped(DropReason::Refused));
    let (header, bytes) = super_segment(2, 1, 9);
    assert_eq!(a.port.send(now(), &header, &bytes), Sent::Bytes(9 * 1054));
    for number in 0..9u32 {
        let (header, segment) = b.next().expect("nine segments");
        assert_eq!((header, segment.len()), (plain, 1054));
        assert_eq!(segment[38..42], (number * 1000).to_be_bytes());
    }
    switch.kill().unwrap();
    switch.wait().unwrap();
    a.wait(Duration::from_secs(5));
    assert!(!a.port.has_carrier());
    let refusal = Station::open("one", folder.path(), &mut Cables::new(), &line).err().unwrap();
    assert!(refusal.hint.unwrap().contains("vde_switch -s"));
}

/// The blocks of a pcapng file: type and body.
fn blocks(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut blocks) = (0, Vec::new());
    while at < bytes.len() {
        let len = word(at + 4) as usize;
        assert!(len.is_multiple_of(4) && word(at + len - 4) as usize == len, "a block's two lengths differ");
        blocks.push((word(at), bytes[at + 8..at + len - 4].to_vec()));
        at += len;
    }
    blocks
}

#[test]
fn recordings_are_whole_or_cut() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut cables = Cables::new();
    let mut open = |line: String| Station::open("one", folder.path(), &mut cables, &line).unwrap();
    let mut a = open(format!("eth0=pair:x,pcap={}", file("whole").display()));
    let mut b = open(format!("eth0=pair:x,pcap={}[cut snap 100]", file("cut").display()));
    let (header, bytes) = super_segment(2, 1, 3);
    a.send(&header, &bytes);
    b.next().unwrap();
    b.send(&VnetHdr::default(), &frame(1, 2, 61));
    a.next().unwrap();
    assert!(!a.port.before_sleep());
    drop(b);
    let read = std::process::Command::new("tcpdump").arg("-nr").arg(file("whole")).output();
    match read {
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(
                text.contains("0.0.0.0.0 > 0.0.0.0.0: Flags") && text.lines().count() >= 2,
                "{text} {out:?}"
            );
        }
        Err(e) => eprintln!("tcpdump does not judge the recording: {e}"),
    }
    let whole = blocks(&std::fs::read(file("whole")).unwrap());
    let kinds: Vec<_> = whole.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0x0A0D_0D0A, 1, 6, 6]);
    let word = |body: &[u8], at: usize| u32::from_ne_bytes(body[4 * at..4 * at + 4].try_into().unwrap());
    let sizes = |body: &[u8]| (word(body, 3), word(body, 4));
    assert_eq!(sizes(&whole[2].1), (3054, 3054));
    assert_eq!(whole[2].1[20..20 + 3054], bytes);
    assert_eq!(whole[3].1[20..20 + 61], frame(1, 2, 61));
    let cut = blocks(&std::fs::read(file("cut")).unwrap());
    let cut_sizes: Vec<_> = cut[2..].iter().map(|(_, body)| sizes(body)).collect();
    assert_eq!(cut_sizes, [(100, 1054), (100, 1054), (100, 1054), (61, 61)]);
    // The direction is the last word but the option that ends the list.
    let directions: Vec<_> = cut[2..].iter().map(|(_, body)| word(body, body.len() / 4 - 2)).collect();
    assert_eq!(directions, [1, 1, 1, 2]);
    let refusal = Station::open("one", folder.path(), &mut Cables::new(), "pair:x,pcap=/nonexistent/x").err();
    assert!(refusal.unwrap().what.contains("cannot record"));
}

/// Runs `body` again as root of network and user namespaces of its own; `name` is the calling test's.
#[expect(clippy::disallowed_methods, reason = "how the inner run knows that it is one")]
fn isolated(name: &str, body: fn()) {
    if std::env::var_os("VIEWNET_TEST_INNER").is_some() {
        return body();
    }
    let out = std::process::Command::new("unshare")
        .args(["--map-root-user", "--net", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("smol::port::tests::{name}"), "--nocapture", "--test-threads=1"])
        .env("VIEWNET_TEST_INNER", "1")
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    eprintln!("{text}");
    if text.contains("unshare failed") {
        return eprintln!("SKIPPED, no user namespaces here");
    }
    assert!(out.status.success(), "{name} failed inside its namespaces");
}

#[test]
fn a_tap_by_name_and_by_number() {
    isolated("a_tap_by_name_and_by_number", || {
        if let Err(e) = std::fs::File::open(tap::DEVICE) {
            return eprintln!("SKIPPED, {}: {e}", tap::DEVICE);
        }
        let run = |command: &str| {
            std::process::Command::new("sh").args(["-ec", command]).spawn().unwrap().wait_with_output()
        };
        let nowhere = Path::new("/nonexistent");
        for by_number in [false, true] {
            let (fd, _) = tap::open_plain(Path::new(tap::DEVICE), "t1").unwrap();
            let line = match by_number {
                true => format!("fd:{}", std::os::fd::AsRawFd::as_raw_fd(&fd)),
                false => "tap:t0".into(),
            };
            let mut station = Station::new("one", nowhere, &line);
            let name = if by_number { "t1" } else { "t0" };
            run(&format!("ip addr add 10.9.0.1/24 dev {name}; ip link set {name} up")).unwrap();
            let ping = std::process::Command::new("ping").args(["-nqc1", "-W5", "10.9.0.2"]).spawn().unwrap();
            while !answer(&mut station) {}
            assert!(ping.wait_with_output().unwrap().status.success());
            // The test's own descriptor goes last, so the TAP does.
            drop(station);
            drop(fd);
        }
        let refusal = Station::open("one", nowhere, &mut Cables::new(), "fd:999").err().unwrap();
        assert!(refusal.hint.unwrap().contains("must be open"));
        let refusal = Station::open("one", nowhere, &mut Cables::new(), "fd:0").err().unwrap();
        assert!(refusal.what.contains("fd:0"), "{refusal}");
    });
}

/// Answers an ARP request for 10.9.0.2, or a ping: then true.
fn answer(station: &mut Station) -> bool {
    const US: [u8; 6] = [2, 0, 0, 0, 0, 2];
    let (header, bytes) = station.next().expect("somebody asks");
    let mut reply = bytes.clone();
    reply.copy_within(6..12, 0);
    reply[6..12].copy_from_slice(&US);
    if bytes[12..14] == [8, 6] && bytes[38..42] == [10, 9, 0, 2] {
        reply[20..22].copy_from_slice(&[0, 2]);
        reply[32..42].copy_from_slice(&bytes[22..32]);
        reply[22..28].copy_from_slice(&US);
        reply[28..32].copy_from_slice(&bytes[38..42]);
        station.send(&header, &reply);
        return false;
    }
    if bytes[12..14] == [8, 0] && bytes[23] == 1 && bytes[34] == 8 {
        reply[26..30].copy_from_slice(&bytes[30..34]);
        reply[30..34].copy_from_slice(&bytes[26..30]);
        reply[34] = 0;
        // The type went from 8 to 0, and so the sum's complement up by 0x0800, end-around.
        let sum = u32::from(u16::from_be_bytes([bytes[36], bytes[37]])) + 0x0800;
        reply[36..38].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
        station.send(&header, &reply);
        return true;
    }
    false
}

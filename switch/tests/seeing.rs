//! Mirrors, captures, counters and events of a served switch, and what slow and hostile readers can do.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Served, eventually};
use msocket_proto::line::{CallError, Line, Received, Refusal};
use switch::capture::{Record, Seen, Way};
use switch::client::{
    Attach, CaptureInfo, CaptureRule, Captured, Client, Kind, MirrorRule, Request, Settings,
};
use switch::events::{Event, Told};
use switch::mirror::Direction;
use switch::offload::VnetHdr;
use switch::port::DropReason;
use switch::ports::ring::{CAPACITY, Ring};
use switch::ports::{BUFFER_LEN, Sent};
use switch::vlan::VidSet;

/// A station on a ring port; it lives as long as this value.
struct Station {
    ring: Ring,
    _client: Client,
    buffer: Vec<u8>,
}

impl Station {
    fn new(served: &Served, name: &str) -> Self {
        let (ring, ends) = Ring::create(CAPACITY).unwrap();
        let mut client = served.client();
        let attach = Attach { name: Some(name.into()), ..Attach::new(Kind::Ring) };
        client.add_ring(&ends, &attach).unwrap();
        Self { ring, _client: client, buffer: vec![0; BUFFER_LEN] }
    }

    fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.ring.send(&VnetHdr::default(), &[frame]), Sent::Bytes(frame.len()));
        self.ring.flush();
        self.ring.wake_peer();
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        self.ring.receive(&mut self.buffer).unwrap().map(|(_, frame)| frame.to_vec())
    }

    /// The next frame, which will come.
    fn wait(&mut self) -> Vec<u8> {
        for _ in 0..6000 {
            if let Some(frame) = self.next() {
                return frame;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no frame came");
    }
}

fn frame(to: u8, from: u8) -> Vec<u8> {
    let to = if to == 0xFF { [0xFF; 6] } else { [2, 0, 0, 0, 0, to] };
    [&to[..], &[2, 0, 0, 0, 0, from, 0x88, 0xB5], &[to[5], from], &[0; 44]].concat()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> Refusal {
    match result {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn rule(to: &str, from: &[&str], direction: Direction) -> Request {
    let from = Some(from.iter().map(|&name| name.to_owned()).collect());
    Request::MirrorAdd(MirrorRule { to: to.into(), from, direction, vlans: VidSet::all() })
}

#[test]
fn a_mirror_s_port_gets_copies_and_gives_nothing() {
    let served = Served::new(None);
    let [mut a, mut b, mut m] = ["a", "b", "m"].map(|name| Station::new(&served, name));
    let mut client = served.client();
    m.send(&frame(0xFF, 9));
    a.wait();
    b.wait();
    client.call::<()>(&rule("m", &["a"], Direction::Both)).unwrap();
    assert_eq!(client.stations(Default::default()).unwrap(), [], "who was behind it is forgotten");
    a.send(&frame(0xFF, 1));
    assert_eq!((b.wait(), m.wait()), (frame(0xFF, 1), frame(0xFF, 1)));
    b.send(&frame(1, 2));
    assert_eq!((a.wait(), m.wait()), (frame(1, 2), frame(1, 2)));
    // What it says itself goes nowhere, and teaches nothing.
    m.send(&frame(0xFF, 1));
    let drops = |client: &mut Client| client.ports().unwrap()[2].drops.get(&DropReason::MirrorPort).copied();
    eventually("it is dropped", || drops(&mut client) == Some(1));
    b.send(&frame(1, 2));
    assert_eq!(a.wait(), frame(1, 2));
    let mirrors = client.mirrors().unwrap();
    assert_eq!((mirrors.len(), mirrors[0].frames, mirrors[0].bytes), (1, 3, 3 * 60));
    assert_eq!(m.wait(), frame(1, 2));
    assert_eq!((a.next(), b.next(), m.next()), (None, None, None), "nobody gets anything twice");

    let bad = refusal(client.call::<()>(&rule("m", &["m"], Direction::In)));
    assert_eq!(bad.errno, Some(libc::EINVAL));
    assert_eq!(refusal(client.call::<()>(&rule("x", &["a"], Direction::In))).errno, Some(libc::ENOENT));
    client.call::<()>(&Request::MirrorRm { to: "m".into() }).unwrap();
    let gone = refusal(client.call::<()>(&Request::MirrorRm { to: "m".into() }));
    assert_eq!(gone.errno, Some(libc::ENOENT));
    a.send(&frame(0xFF, 1));
    assert_eq!((b.wait(), m.wait()), (frame(0xFF, 1), frame(0xFF, 1)), "an ordinary port again");
    client.call::<()>(&rule("m", &["a"], Direction::In)).unwrap();
    // One that is plugged in again is watched again.
    let names = |client: &mut Client| {
        client.ports().unwrap().iter().map(|port| port.name.clone()).collect::<Vec<_>>()
    };
    drop(a);
    eventually("it is gone", || !names(&mut client).contains(&"a".to_owned()));
    assert_eq!(client.mirrors().unwrap()[0].rule.from, Some(vec!["a".to_owned()]));
    let mut a = Station::new(&served, "a");
    a.send(&frame(0xFF, 1));
    assert_eq!((b.wait(), m.wait()), (frame(0xFF, 1), frame(0xFF, 1)));
    drop(m);
    eventually("a mirror goes with its port", || client.mirrors().unwrap().is_empty());
}

/// What a capture told until now: names are put in.
fn told(capture: &mut Captured, names: &mut Vec<(u32, String)>) -> Vec<(String, Seen, Vec<u8>)> {
    let (mut buffer, mut frames) = (vec![0; BUFFER_LEN], Vec::new());
    while let Some((_, record)) = capture.next(&mut buffer).unwrap() {
        match record {
            Record::Port(number, name) => {
                names.retain(|(known, _)| *known != number);
                names.push((number, name.to_owned()));
            }
            Record::Frame(seen, bytes) => {
                let name = names.iter().find(|(number, _)| *number == seen.port).unwrap().1.clone();
                frames.push((name, seen, bytes.to_vec()));
            }
        }
    }
    frames
}

#[test]
fn a_capture_tells_what_crosses_which_port() {
    let served = Served::new(None);
    let [mut a, mut b] = ["a", "b"].map(|name| Station::new(&served, name));
    let mut all = served.client().capture(&CaptureRule::default()).unwrap();
    let rule = CaptureRule {
        ports: Some(vec!["b".into()]),
        direction: Direction::Out,
        snap: 20,
        filter: "ether src 02:00:00:00:00:01".into(),
    };
    let mut some = served.client().capture(&rule).unwrap();
    a.send(&frame(0xFF, 1));
    b.wait();
    b.send(&frame(1, 2));
    a.wait();
    let mut tagged = frame(1, 2);
    tagged[12..16].copy_from_slice(&[0x81, 0, 0, 99]);
    b.send(&tagged);
    let (mut names, mut frames) = (Vec::new(), Vec::new());
    eventually("three frames are told", || {
        frames.extend(told(&mut all, &mut names));
        frames.len() == 5
    });
    let seen: Vec<_> =
        frames.iter().map(|(name, seen, bytes)| (&name[..], seen.way, seen.dropped, &bytes[..])).collect();
    let not_allowed = Some(DropReason::VlanNotAllowed);
    assert_eq!(
        seen,
        [
            ("a", Way::In, None, &frame(0xFF, 1)[..]),
            ("b", Way::Out, None, &frame(0xFF, 1)),
            ("b", Way::In, None, &frame(1, 2)),
            ("a", Way::Out, None, &frame(1, 2)),
            ("b", Way::In, not_allowed, &tagged),
        ]
    );
    assert!(frames.windows(2).all(|pair| pair[0].1.time_ns <= pair[1].1.time_ns));
    let frames = told(&mut some, &mut Vec::new());
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].1.len, &frames[0].2[..]), (60, &frame(0xFF, 1)[..20]));

    // A port that comes again under its name is told again.
    drop(b);
    let mut client = served.client();
    eventually("it is gone", || client.ports().unwrap().len() == 1);
    let mut b = Station::new(&served, "b");
    a.send(&frame(0xFF, 1));
    b.wait();
    assert_eq!(told(&mut some, &mut Vec::new()).len(), 1);
    let captures: Vec<CaptureInfo> = some.client().call(&Request::CaptureLs).unwrap();
    let own: Vec<_> = captures.iter().map(|c| (c.own, c.frames, c.lost)).collect();
    assert_eq!(own, [(false, 7, 0), (true, 2, 0)]);

    let bad = CaptureRule { filter: "prot 5".into(), ..CaptureRule::default() };
    assert!(refusal(served.client().capture(&bad)).why.contains("`prot`"));
    let bad = CaptureRule { ports: Some(vec!["x".into()]), ..CaptureRule::default() };
    assert_eq!(refusal(served.client().capture(&bad)).errno, Some(libc::ENOENT));
    let none = refusal(client.call::<()>(&Request::Capture(CaptureRule::default())));
    assert!(none.why.contains("three descriptors"));
    let more: Vec<_> = (0..6).map(|_| served.client().capture(&CaptureRule::default()).unwrap()).collect();
    let full = refusal(served.client().capture(&CaptureRule::default()));
    assert_eq!(full.errno, Some(libc::ENOSPC));
    drop(more);
    eventually("they end with their connections", || {
        client.call::<Vec<CaptureInfo>>(&Request::CaptureLs).unwrap().len() == 2
    });
}

#[test]
fn a_slow_reader_loses_frames_and_a_hostile_one_its_capture() {
    let served = Served::new(None);
    let [mut a, mut b] = ["a", "b"].map(|name| Station::new(&served, name));
    let mut slow = served.client().capture(&CaptureRule::default()).unwrap();
    let (hostile, ends) = Ring::create(CAPACITY).unwrap();
    let memory: std::fs::File = ends[0].try_clone().unwrap().into();
    let mut line = Line::connect(&served.path).unwrap();
    let fds = ends.each_ref().map(AsFd::as_fd);
    let _: ((), _) = line.call(&Request::Capture(CaptureRule::default()), &fds).unwrap();
    let long = [&frame(0xFF, 1)[..], &vec![7; 60_000]].concat();
    let mut client = served.client();
    let mut captures = || client.call::<Vec<CaptureInfo>>(&Request::CaptureLs).unwrap();
    for round in 0..200 {
        a.send(&long);
        assert_eq!(b.wait().len(), long.len(), "the others go on");
        if round == 100 {
            // Positions that cannot be: every word of the first page.
            std::os::unix::fs::FileExt::write_at(&memory, &[0xA5; 4096], 0).unwrap();
        }
    }
    eventually("the hostile one is gone", || captures().len() == 1);
    let lost = captures()[0].lost;
    assert!(lost > 0, "8 MiB were enough for 24 MB");
    let mut names = Vec::new();
    let frames = told(&mut slow, &mut names);
    a.send(&frame(0xFF, 1));
    b.wait();
    let last = told(&mut slow, &mut names);
    assert_eq!((last.len(), u64::from(last[0].1.lost)), (2, lost), "and it is told how many");
    assert!(!frames.is_empty());
    drop(hostile);
}

fn get(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn metrics(place: &str) -> Request {
    Request::Set(Settings { metrics: Some(place.into()), ..Settings::default() })
}

#[test]
fn counters_are_given_to_prometheus() {
    let served = Served::new(None);
    let [mut a, mut b] = ["a", "odd\"\\name"].map(|name| Station::new(&served, name));
    a.send(&frame(0xFF, 1));
    b.wait();
    let mut client = served.client();
    let path = served.dir.path().join("counters");
    client.call::<()>(&metrics(&format!("unix:{}", path.display()))).unwrap();
    let answer = get(UnixStream::connect(&path).unwrap(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
    judge(text);
    for line in [
        "viewnet_port_receive_frames_total{switch=\"test\",port=\"a\"} 1",
        "viewnet_port_transmit_bytes_total{switch=\"test\",port=\"odd\\\"\\\\name\"} 60",
        "viewnet_vlan_flooded_frames_total{switch=\"test\",vlan=\"1\"} 1",
        "viewnet_switch_stations{switch=\"test\"} 1",
    ] {
        assert!(text.lines().any(|is| is == line), "{line} is not in\n{text}");
    }
    client.call::<()>(&metrics("127.0.0.1:0")).unwrap();
    assert!(!path.exists(), "the old place is given up");
    let place = client.show().unwrap().metrics.unwrap();
    assert!(get(TcpStream::connect(&place).unwrap(), "GET / HTTP/1.0\r\n\r\n").ends_with('\n'));
    assert!(get(TcpStream::connect(&place).unwrap(), "PUT / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 405"));
    for bad in ["10.0.0.1:9100", "0.0.0.0:0", "unix:relative", "here"] {
        assert!(refusal(client.call::<()>(&metrics(bad))).hint.is_some());
    }
    assert_eq!(client.show().unwrap().metrics, Some(place.clone()), "a refusal changes nothing");
    client.call::<()>(&metrics("off")).unwrap();
    assert!(TcpStream::connect(&place).is_err());
}

/// promtool, or where there is none, the format's grammar line by line.
fn judge(text: &str) {
    let promtool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    if let Ok(mut promtool) = promtool {
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(promtool.wait().unwrap().success());
    }
    let mut family = String::new();
    let mut known = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.split(' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(what == "HELP" || (what == "TYPE" && name == family), "{line}");
            if what == "HELP" {
                assert!(!known.contains(&name), "{name} is told twice");
                known.push(name);
            }
            family = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let labels = series.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        assert!(labels.starts_with('{') && labels.ends_with("\"}"), "{line}");
    }
    assert!(known.len() > 15 && text.ends_with('\n'));
}

#[test]
fn bad_clients_of_the_counters_are_shown_out() {
    let served = Served::new(None);
    let mut client = served.client();
    client.call::<()>(&metrics("127.0.0.1:0")).unwrap();
    let place = client.show().unwrap().metrics.unwrap();
    let connect = || {
        let stream = TcpStream::connect(&place).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    // As many as may be, none of which says anything; the next is closed at once.
    let mut idle: Vec<TcpStream> = (0..8).map(|_| connect()).collect();
    eventually("one too many is turned away", || matches!(connect().read(&mut [0]), Ok(0) | Err(_)));
    client.show().unwrap();
    assert_eq!(idle[0].read(&mut [0]).unwrap(), 0, "who says nothing for long is hung up");
    drop(idle);
    eventually("there is room again", || {
        let mut stream = connect();
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        matches!(stream.read(&mut [0]), Ok(1))
    });
    let mut endless = connect();
    let closed =
        (0..100).any(|_| endless.write_all(&[b'x'; 1024]).is_err()) || endless.read(&mut [0]).is_err();
    assert!(closed || endless.read(&mut [0]).unwrap() == 0);
}

fn events(line: &mut Line, until: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    while !events.last().is_some_and(&until) {
        match line.receive::<Told>().unwrap() {
            Received::Message(told, _) => {
                assert_eq!((told.version, &told.switch[..]), (1, "test"));
                events.push(told.event);
            }
            other => panic!("{other:?} after {} events", events.len()),
        }
    }
    events
}

#[test]
fn events_are_told_as_they_happen() {
    let served = Served::new(None);
    let mut client = served.client();
    client.call::<()>(&Request::Events).unwrap();
    let mut line = client.into_line();
    let [mut a, mut b] = ["a", "b"].map(|name| Station::new(&served, name));
    a.send(&frame(0xFF, 1));
    b.wait();
    b.send(&frame(0xFF, 1));
    let mut other = served.client();
    other.call::<()>(&metrics("off")).unwrap();
    eventually("it moved", || other.stations(Default::default()).unwrap()[0].port == "b");
    drop(a);
    let told = events(&mut line, |event| matches!(event, Event::PortRemoved { .. }));
    let names: Vec<String> = told
        .iter()
        .map(|event| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned())
        .filter(|name| name != "setting")
        .collect();
    assert_eq!(names, ["port_added", "port_added", "station_learned", "station_moved", "port_removed"]);
    // It may ask between events.
    line.send(&Request::Hello, &[]).unwrap();
    let hello: Received<serde_json::Value> = line.receive().unwrap();
    assert!(matches!(hello, Received::Message(answer, _) if answer["ok"]["name"] == "test"));
}

#[test]
fn who_does_not_read_events_is_told_so_and_hung_up() {
    let served = Served::new(None);
    let mut client = served.client();
    client.call::<()>(&Request::Events).unwrap();
    let mut line = client.into_line();
    let mut other = served.client();
    let vid = switch::vlan::Vid::DEFAULT;
    // More than wait, and than the socket holds.
    for n in 0..6000 {
        other.call::<()>(&Request::VlanAdd { vid, name: n.to_string() }).unwrap();
    }
    let told = events(&mut line, |event| *event == Event::TooSlow);
    assert!((4097..6000).contains(&told.len()), "{}", told.len());
    assert!(matches!(line.receive::<Told>().unwrap(), Received::Closed));
    assert!(served.client().show().is_ok());
}

#[test]
fn a_descriptor_that_is_no_ring_is_refused() {
    let served = Served::new(None);
    let mut line = Line::connect(&served.path).unwrap();
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let fds = [file(), file(), file()];
    let fds = fds.each_ref().map(AsFd::as_fd);
    let refused = line.call::<_, ()>(&Request::Capture(CaptureRule::default()), &fds);
    assert!(refusal(refused.map(|_| ())).why.contains("not fit for a ring"));
}

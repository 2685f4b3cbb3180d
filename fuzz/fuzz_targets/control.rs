//! The control socket of a running switch: a hostile client asks anything, in any order, with rings whose memory it writes
//! to at any time. Every line is answered or the client is hung up, and another client is served all the while: nothing
//! panics, and the switch ends when it is told to.
#![no_main]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use switch::client::{Attach, Client, Kind};
use switch::offload::VnetHdr;
use switch::ports::ring::Ring;
use switch::serve::{Options, Server};

const OPS: [&str; 41] = [
    "hello", "show", "set", "port_ls", "port_add", "port_rm", "port_set", "vlan_ls", "vlan_add", "vlan_rm", "mac_ls",
    "mac_flush", "mac_add", "mac_rm", "vlan_set", "port_open", "qos_set", "qos_ls", "guard_set", "guard_ls",
    "reserve_add", "reserve_rm", "reserve_ls", "stp", "stp_set", "stp_port_set", "mirror_ls", "mirror_add",
    "mirror_rm", "capture", "capture_ls", "impair", "impair_ls", "vde_ls", "vde_keep", "vde_release", "events",
    "hello", "show", "port_ls", "reboot",
];
const FIELDS: [&str; 79] = [
    "port", "name", "vid", "vlans", "mode", "native", "allowed", "untagged", "pvid", "mac", "kind", "linger", "peer",
    "peers", "rename", "age_s", "metrics", "vde", "path", "group", "mgmt", "hub", "police", "rate_bps", "burst_bytes",
    "exceed", "open", "priority", "default_pcp", "trust", "ingress", "egress", "shape", "classes", "map",
    "queue_bytes", "reservable_percent", "max_bps", "broadcast_fps", "multicast_fps", "unknown_fps", "mac_limit",
    "violation", "enabled", "protocol", "hello_s", "max_age_s", "forward_delay_s", "tx_hold", "cost", "edge",
    "point_to_point", "bpdu_guard", "root_guard", "migrate", "to", "from", "direction", "ports", "snap", "filter",
    "in", "out", "seed", "number", "allocatable", "user", "offloads", "csum", "tso4", "tso6", "uso", "dying", "guest",
    "mirrored", "vxlan", "vni", "port_add", "op",
];
/// `@` stands for the folder of this run: nothing is made elsewhere.
const WORDS: [&str; 44] = [
    "a", "b", "c", "p1", "vde1", "access", "trunk", "hybrid", "tunnel", "service", "all", "1", "10,20-29", "4095",
    "02:00:00:00:00:07", "ff:ff:ff:ff:ff:ff", "ring", "tap", "dgram", "vxlan", "stream", "drop", "mark", "shutdown", "strict",
    "4@20M", "stp", "rstp", "auto", "both", "delay 20ms normal 5ms, loss 1%", "rate 1k, capacity 9",
    "state a: loss 1%; every 1ms: a>a 5%", "tcp port 80", "not (host 10.0.0.1)", "@/vde", "@/mgmt", "unix:@/metrics",
    "off", "127.0.0.1:0", "127.0.0.1:4789", "0660", "any", "",
];

#[derive(Debug, Arbitrary)]
enum Part {
    Null,
    Bool(bool),
    Small(u8),
    Number(i64),
    Word(u8),
    List(Vec<Part>),
    Table(Vec<(u8, Part)>),
}

#[derive(Debug, Arbitrary)]
enum Step {
    Ask { op: u8, fields: Vec<(u8, Part)> },
    /// Bytes that are no request, most of the time.
    Line(Vec<u8>),
    /// A port of a peer that writes what it likes.
    Ring { name: u8 },
    Scribble { ring: u8, at: u32, bytes: Vec<u8> },
    Frame { ring: u8, bytes: Vec<u8> },
    Unplug(u8),
    /// It goes, and comes again.
    HangUp,
}

fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("viewnet-fuzz-{}", std::process::id()))
}

fn word(at: u8) -> String {
    WORDS[usize::from(at) % WORDS.len()].replace('@', &folder().to_string_lossy())
}

fn table(fields: Vec<(u8, Part)>, depth: usize) -> Map<String, Value> {
    let field = |(at, part): (u8, Part)| (FIELDS[usize::from(at) % FIELDS.len()].to_owned(), value(part, depth + 1));
    fields.into_iter().take(16).map(field).collect()
}

fn value(part: Part, depth: usize) -> Value {
    match part {
        Part::Null => Value::Null,
        Part::Bool(yes) => json!(yes),
        Part::Small(number) => json!(number),
        Part::Number(number) => json!(number),
        Part::Word(at) => json!(word(at)),
        Part::List(list) if depth < 4 => list.into_iter().take(16).map(|part| value(part, depth + 1)).collect(),
        Part::Table(fields) if depth < 4 => Value::Object(table(fields, depth)),
        Part::List(_) | Part::Table(_) => json!([]),
    }
}

/// The hostile client.
struct Visitor {
    lines: BufReader<UnixStream>,
}

impl Visitor {
    fn new() -> Self {
        let stream = UnixStream::connect(folder().join("switch")).expect("the switch is there");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        Self { lines: BufReader::new(stream) }
    }

    /// Sends a line, and waits for its answer: events may come before it. False: it was hung up.
    fn ask(&mut self, line: &[u8]) -> bool {
        if self.lines.get_mut().write_all(&[line, b"\n"].concat()).is_err() {
            return false;
        }
        loop {
            let mut answer = Vec::new();
            let count = self.lines.read_until(b'\n', &mut answer).expect("an answer, in time");
            if count == 0 {
                return false;
            }
            let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
            if answer.get("ok").is_some() || answer.get("error").is_some() {
                return true;
            }
        }
    }
}

/// Rings of the hostile client: each with the connection that keeps its port, and the memory.
struct Plugged {
    ring: Ring,
    memory: File,
    _client: Client,
}

fn plug(name: u8) -> Option<Plugged> {
    let (ring, handover) = Ring::create(128 << 10).expect("a ring");
    let memory = File::from(handover[0].try_clone().expect("a descriptor"));
    let mut client = Client::connect(&folder().join("switch")).expect("the switch is there");
    let attach = Attach { name: Some(["a", "b", "c"][usize::from(name % 3)].into()), ..Attach::new(Kind::Ring) };
    client.add_port_of(&handover, &attach).ok()?;
    Some(Plugged { ring, memory, _client: client })
}

fn perform(step: Step, visitor: &mut Visitor, rings: &mut Vec<Plugged>) {
    let place = |rings: &[Plugged], at: u8| (!rings.is_empty()).then(|| usize::from(at) % rings.len());
    let asked = match step {
        Step::Ask { op, fields } => {
            let mut request = table(fields, 0);
            request.insert("op".into(), OPS[usize::from(op) % OPS.len()].into());
            visitor.ask(Value::Object(request).to_string().as_bytes())
        }
        // No paths but ours, and one line is one line.
        Step::Line(bytes) if bytes.iter().any(|byte| b"/\\\n".contains(byte)) || bytes.is_empty() => true,
        Step::Line(bytes) => visitor.ask(&bytes),
        Step::Ring { name } => {
            rings.extend(if rings.len() < 8 { plug(name) } else { None });
            true
        }
        Step::Scribble { ring, at, bytes } => {
            if let Some(plugged) = place(rings, ring).map(|at| &mut rings[at]) {
                let len = 4096 + (256 << 10);
                let at = at as usize % len;
                let bytes = &bytes[..bytes.len().min(len - at)];
                plugged.memory.write_all_at(bytes, at as u64).expect("within the file");
                plugged.ring.wake_peer();
            }
            true
        }
        Step::Frame { ring, bytes } => {
            if let Some(plugged) = place(rings, ring).map(|at| &mut rings[at]) {
                plugged.ring.send(&VnetHdr::default(), &[&bytes]);
                plugged.ring.wake_peer();
            }
            true
        }
        Step::Unplug(at) => {
            place(rings, at).map(|at| rings.remove(at));
            true
        }
        Step::HangUp => false,
    };
    if !asked {
        *visitor = Visitor::new();
    }
}

fuzz_target!(|steps: Vec<Step>| {
    std::fs::create_dir_all(folder()).expect("a folder");
    let path = folder().join("switch");
    let options = Options::new("test", &path);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let serve = move || {
        let server = Server::new(&options, None).expect("the path is free");
        ready.send(()).expect("somebody waits");
        server.run().expect("nothing a client does ends it");
    };
    let thread = std::thread::spawn(serve);
    is_ready.recv().expect("it begins");
    let mut good = Client::connect(&path).expect("it is there");
    let (mut visitor, mut rings) = (Visitor::new(), Vec::new());
    for step in steps.into_iter().take(64) {
        perform(step, &mut visitor, &mut rings);
    }
    for line in ["port_ls", "vlan_ls", "mac_ls", "qos_ls", "guard_ls", "reserve_ls", "stp", "mirror_ls", "impair_ls", "vde_ls"] {
        let answered = Visitor::new().ask(json!({ "op": line }).to_string().as_bytes());
        assert!(answered, "{line}");
    }
    assert_eq!(good.hello().expect("the good one is served").name, "test");
    good.down().expect("it ends");
    thread.join().expect("nothing panics");
    let _ = std::fs::remove_dir_all(folder());
});

//! What frames cost from ring to ring through a switch: prints frames per second and CPU per frame.
//!
//!     cargo run --release -p switch --example rings [SECONDS [FILTER]]
//!     rings rate SWITCH SWITCH SECONDS SIZE [WINDOW]
//!
//! The second form goes through a switch that runs already, whose socket is SWITCH, and prints what `bench/src/l2.c`
//! prints: for the bench, which compares switches. SIZE is as on the wire there, so 64 are 60 and the FCS.
//!
//! Three threads, as three processes would: a sender, the switch, a receiver. At most [`WINDOW`] bytes or
//! [`BURST`] frames are under way, as TCP between neighbours would have it. A row per frame length, and
//! one of single frames going back and forth. With FILTER there is a capture that wants such frames (`` wants all), which
//! nobody reads: what it costs to look at each, and to have no room for it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use switch::client::{Attach, CaptureRule, Client, Kind};
use switch::offload::VnetHdr;
use switch::ports::BUFFER_LEN;
use switch::ports::ring::{CAPACITY, Ring};
use switch::serve;

/// Bytes under way at most.
const WINDOW: u64 = 2 << 20;
/// Frames under way at most.
const BURST: u64 = 1024;
/// Bytes behind a frame on the wire (IEEE 802.3 clause 3.2.9), which no switch in software sees.
const FCS: usize = 4;
/// Frames put before the switch is told.
const BATCH: u64 = 32;

#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn now() -> Instant {
    Instant::now()
}

fn cpu(usage: &Usage) -> i64 {
    (usage.user_time() + usage.system_time()).num_microseconds()
}

fn thread_cpu() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| cpu(&usage))
}

struct Station {
    ring: Ring,
    epoll: Epoll,
    _client: Client,
}

impl Station {
    fn new(path: &std::path::Path) -> Self {
        let (ring, ends) = Ring::create(CAPACITY).expect("a ring");
        let mut client = Client::connect(path).expect("the switch");
        client.add_ring(&ends, &Attach::new(Kind::Ring)).expect("a port");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(ring.as_fd(), event).expect("a doorbell");
        Self { ring, epoll, _client: client }
    }

    /// Sleeps until there may be frames, or until a moment has passed.
    fn sleep(&mut self) {
        if !self.ring.arm().expect("an honest switch") {
            let _ = self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::from(10u8));
            self.ring.disarm();
        }
    }
}

fn frame(to: u8, from: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xB5];
    frame.resize(len, 0);
    frame
}

/// What came of frames that went one way. CPU times are in microseconds.
struct Flow {
    sent: u64,
    taken: u64,
    sender: i64,
    receiver: i64,
    all: i64,
}

/// One way, as fast as it goes with at most `window` frames under way.
fn flow(path: &std::path::Path, len: usize, time: Duration, window: u64) -> Flow {
    let taken = Arc::new(AtomicU64::new(0));
    let (mut sender, mut receiver) = (Station::new(path), Station::new(path));
    receiver.ring.send(&VnetHdr::default(), &[&frame(1, 2, 60)]);
    receiver.ring.flush();
    std::thread::sleep(Duration::from_millis(20));
    let before = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| cpu(&usage));
    let end = now() + time;
    let count = Arc::clone(&taken);
    let receiving = std::thread::Builder::new().spawn(move || {
        let mut buffer = vec![0; BUFFER_LEN];
        let before = thread_cpu();
        while now() < end + Duration::from_millis(50) {
            let mut got = 0;
            while let Some((_, bytes)) = receiver.ring.receive(&mut buffer).expect("an honest switch") {
                got += u64::from(bytes.len() == len);
                if got == BATCH {
                    break;
                }
            }
            count.fetch_add(got, Ordering::Release);
            if got == 0 {
                receiver.sleep();
            } else {
                // The acknowledgement, by which a sender that waits is woken.
                receiver.ring.send(&VnetHdr::default(), &[&frame(1, 2, 60)]);
                receiver.ring.flush();
            }
        }
        thread_cpu() - before
    });
    let sender_before = thread_cpu();
    let (bytes, mut sent, mut buffer) = (frame(2, 1, len), 0u64, vec![0; BUFFER_LEN]);
    while now() < end {
        let mut put = 0;
        while sent - taken.load(Ordering::Acquire) < window && put < BATCH {
            sender.ring.send(&VnetHdr::default(), &[&bytes]);
            (put, sent) = (put + 1, sent + 1);
        }
        sender.ring.flush();
        while sender.ring.receive(&mut buffer).expect("an honest switch").is_some() {}
        if put == 0 {
            sender.sleep();
        }
    }
    let mine = thread_cpu() - sender_before;
    let theirs = receiving.expect("a thread").join().expect("no panic");
    let all = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| cpu(&usage)) - before;
    Flow { sent, taken: taken.load(Ordering::Relaxed), sender: mine, receiver: theirs, all }
}

/// A row of the table.
fn stream(path: &std::path::Path, len: usize, time: Duration) {
    let flow = flow(path, len, time, (WINDOW / len as u64).clamp(1, BURST));
    let seconds = time.as_secs_f64();
    let each = |cpu: i64| cpu as f64 * 1000.0 / flow.taken.max(1) as f64;
    println!(
        "{len:>6} B  {:>9.0} frames/s {:>6.2} Gbit/s  CPU ns/frame: switch {:>6.0} sender {:>6.0} receiver {:>6.0}  lost {}",
        flow.taken as f64 / seconds,
        flow.taken as f64 * len as f64 * 8.0 / seconds / 1e9,
        each(flow.all - flow.sender - flow.receiver),
        each(flow.sender),
        each(flow.receiver),
        flow.sent - flow.taken,
    );
}

/// Through a switch that somebody else runs.
fn rate(path: &std::path::Path, seconds: f64, size: usize, window: u64) {
    let len = if size == 64 { size - FCS } else { size };
    let flow = flow(path, len, Duration::from_secs_f64(seconds), window);
    println!("rx_pps {:.0}", flow.taken as f64 / seconds);
    println!("tx_pps {:.0}", flow.sent as f64 / seconds);
    println!("loss {:.3}", 100.0 * (flow.sent - flow.taken) as f64 / flow.sent.max(1) as f64);
}

/// Back and forth.
fn ping(path: &std::path::Path, len: usize, time: Duration) {
    let end = now() + time;
    let (mut a, mut b) = (Station::new(path), Station::new(path));
    let echo = std::thread::Builder::new().spawn(move || {
        let (reply, mut buffer) = (frame(1, 2, len), vec![0; BUFFER_LEN]);
        while now() < end {
            while b.ring.receive(&mut buffer).expect("an honest switch").is_some() {
                b.ring.send(&VnetHdr::default(), &[&reply]);
                b.ring.flush();
            }
            b.sleep();
        }
    });
    let (bytes, mut buffer, mut times) = (frame(2, 1, len), vec![0; BUFFER_LEN], Vec::new());
    while now() < end {
        let start = now();
        a.ring.send(&VnetHdr::default(), &[&bytes]);
        a.ring.flush();
        let mut tries = 0;
        while a.ring.receive(&mut buffer).expect("an honest switch").is_none() && tries < 3 {
            a.sleep();
            tries += 1;
        }
        times.push(start.elapsed());
    }
    echo.expect("a thread").join().expect("no panic");
    times.sort_unstable();
    println!(
        "{len:>6} B  round trips: p50 {:?} p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, from, _, seconds, size, window @ ..] = &arguments[..]
        && mode == "rate"
    {
        let number = |text: &String| text.parse().expect("a number");
        let window = window.first().map(number).filter(|&window| window > 0).unwrap_or(BURST).min(BURST);
        let (seconds, size) = (seconds.parse().expect("seconds"), size.parse().expect("a size"));
        return rate(std::path::Path::new(from), seconds, size, window);
    }
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lan");
    let options = serve::Options::new("lan", &path);
    let server = serve::Server::new(&options, None).expect("a free path");
    let switch = std::thread::Builder::new().spawn(move || server.run());
    let capture = std::env::args().nth(2).map(|filter| {
        let rule = CaptureRule { filter, ..CaptureRule::default() };
        Client::connect(&path).expect("the switch").capture(&rule).expect("a filter")
    });
    for len in [64, 1514, 65_535] {
        stream(&path, len, Duration::from_secs(seconds));
    }
    for len in [64, 1514, 65_535] {
        ping(&path, len, Duration::from_secs(seconds));
    }
    drop(capture);
    Client::connect(&path).expect("the switch").down().expect("its end");
    switch.expect("a thread").join().expect("no panic").expect("no error");
}

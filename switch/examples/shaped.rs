//! How well a port keeps its rate, and what that costs: prints what arrives and the switch's CPU time per frame.
//!
//!     cargo run --release -p switch --example shaped [SECONDS]
//!
//! A sender that always has frames of 1,514 bytes, a switch, a receiver behind a port with queues; and the same
//! without queues, with as many frames as 1 Gbit/s has.

use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use switch::client::traffic::{PortQos, QosSet};
use switch::client::{Attach, Client, Kind, Request};
use switch::offload::VnetHdr;
use switch::ports::BUFFER_LEN;
use switch::ports::ring::{CAPACITY, Ring};
use switch::qos::queues::{Class, Shape};
use switch::serve;

const LEN: usize = 1514;
/// Frames put before the switch is told.
const BATCH: usize = 32;

#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn now() -> Instant {
    Instant::now()
}

fn cpu(who: UsageWho) -> i64 {
    let of = |usage: Usage| (usage.user_time() + usage.system_time()).num_microseconds();
    getrusage(who).map_or(0, of)
}

fn station(path: &std::path::Path, name: &str) -> (Ring, Client) {
    let (ring, ends) = Ring::create(CAPACITY).expect("a ring");
    let mut client = Client::connect(path).expect("the switch");
    let attach = Attach { name: Some(name.into()), ..Attach::new(Kind::Ring) };
    client.add_ring(&ends, &attach).expect("a port");
    (ring, client)
}

fn frame(to: u8, from: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xB5];
    frame.resize(len, 0);
    frame
}

/// Offers `offered` bits per second to a port of this shape.
fn run(path: &std::path::Path, what: &str, shape: Option<Shape>, offered: f64, time: Duration) {
    let ((mut sender, _a), (mut receiver, mut client)) = (station(path, "a"), station(path, "b"));
    let qos = PortQos { shape, ..PortQos::default() };
    client.call::<()>(&Request::QosSet(QosSet { port: "b".into(), qos })).expect("queues");
    receiver.send(&VnetHdr::default(), &[&frame(1, 2, 60)]);
    receiver.flush();
    std::thread::sleep(Duration::from_millis(20));
    let (start, before, mine) = (now(), cpu(UsageWho::RUSAGE_SELF), cpu(UsageWho::RUSAGE_THREAD));
    let (bytes, mut buffer, mut sent, mut got) = (frame(2, 1, LEN), vec![0; BUFFER_LEN], 0usize, 0usize);
    while now() < start + time {
        let due = start.elapsed().as_secs_f64() * offered / (8 * LEN) as f64;
        for _ in 0..BATCH.min((due as usize).saturating_sub(sent)) {
            sender.send(&VnetHdr::default(), &[&bytes]);
            sent += 1;
        }
        sender.flush();
        while sender.receive(&mut buffer).expect("an honest switch").is_some() {}
        while receiver.receive(&mut buffer).expect("an honest switch").is_some() {
            got += 1;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    let seconds = start.elapsed().as_secs_f64();
    let switch = cpu(UsageWho::RUSAGE_SELF) - before - (cpu(UsageWho::RUSAGE_THREAD) - mine);
    println!(
        "{what:>24}  {:>9.2} Mbit/s  switch CPU ns/frame: {:>6.0}  frames {got}",
        (got * LEN * 8) as f64 / seconds / 1e6,
        switch as f64 * 1000.0 / sent.max(1) as f64,
    );
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lan");
    let options = serve::Options::new("lan", &path);
    let server = serve::Server::new(&options, None).expect("a free path");
    let switch = std::thread::Builder::new().spawn(move || server.run());
    let time = Duration::from_secs(seconds);
    run(&path, "no queues, 1G offered", None, 1e9, time);
    let classes = vec![Class::weight(1), Class::weight(4), Class::STRICT];
    run(&path, "no rate, 1G offered", Some(Shape { classes, ..Shape::default() }), 1e9, time);
    for rate in ["1M", "10M", "100M", "1G", "2G"] {
        let rate = rate.parse().ok();
        let offered = rate.map_or(0.0, |rate: switch::qos::rate::Rate| rate.bps() as f64 * 1.5);
        let what = rate.map_or_else(String::new, |rate| format!("rate {rate}"));
        run(&path, &what, Some(Shape { rate, ..Shape::default() }), offered, time);
    }
    Client::connect(&path).expect("the switch").down().expect("its end");
    switch.expect("a thread").join().expect("no panic").expect("no error");
}

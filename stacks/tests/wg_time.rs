//! What a tunnel does as time passes, without waiting for it.
//!
//! # Theory of operation
//! The sessions' clock is the kernel's (boringtun reads it), so it is the kernel that lets time pass: a time namespace
//! (time_namespaces(7)) has CLOCK_MONOTONIC and CLOCK_BOOTTIME ahead of the machine's, and a process with one thread can
//! go from one to the next. So this test has a `main` of its own. Needs nothing but user namespaces. The times are those
//! of the WireGuard paper, clause 6.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use stacks::wg::tunnel::{Dropped, Tunnel};
use stacks::wg::{Config, STACK_MAC, TUNNEL_MAC};
use switch::frame::HEADER_LEN;
use switch::offload::VnetHdr;

/// CLONE_NEWTIME, sched.h.
const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);
/// Where the ends are.
const AT: [&str; 2] = ["192.0.2.1:1000", "192.0.2.2:2000"];
/// Their keys, private and public: `wg genkey`, `wg pubkey`.
const KEYS: [[&str; 2]; 2] = [
    ["sE4ZpxGC3zmQkVkZGZ6K9Fydie9v+S+y84OanhApFk0=", "RbOnoDaDpnNniZKc5wEDqItCqGbqNVw7EqYIHKToREE="],
    ["gAxwPBP0XpnrG8oibiuDmVDGSnvVHjUj9RPUYwpKLlc=", "KIFH05Df/VHVQbXJen5aNTI4+cyoGF9iFWIwhl81ATI="],
];
/// A key that nobody knows.
const STRANGER: &str = "IJyKIyRPexZc0tchkOiyi15rEpljsgcXa/xbNIcf9Uc=";
/// Kinds of message (clause 5.4).
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const DATA: u8 = 4;
/// Bytes of a message of data without any: a keepalive.
const EMPTY: usize = 32;

/// What is looked at, by its name.
type Check = (&'static str, fn(&mut Clock));

const CHECKS: [Check; 9] = [
    ("who_began_a_session_renews_it_after_two_minutes", renewed),
    ("who_answered_leaves_that_to_the_other", left_to_the_other),
    ("who_only_listens_renews_it_before_it_ends", renewed_by_a_listener),
    ("after_three_minutes_a_session_is_worth_nothing", worthless),
    ("who_has_nothing_to_say_says_that_it_heard", heard),
    ("a_keepalive_is_never_late", keepalive),
    ("who_is_not_answered_tries_for_a_minute_and_a_half_and_asks_for_the_name", unanswered),
    ("a_cookie_shows_an_address_for_two_minutes", cookie),
    ("without_traffic_there_is_nothing_to_do", idle),
];

fn main() -> ExitCode {
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let mut clock = match Clock::own() {
        Ok(clock) => clock,
        Err(why) => {
            println!("skipped: no time namespace can be made: {why}");
            return ExitCode::SUCCESS;
        }
    };
    let mut passed = 0;
    for (name, check) in CHECKS {
        let name = format!("wg_time::{name}");
        if only.as_ref().is_none_or(|it| name.contains(it)) {
            print!("test {name} ... ");
            check(&mut clock);
            println!("ok");
            passed += 1;
        }
    }
    println!("test result: ok. {passed} passed");
    ExitCode::SUCCESS
}

/// The clock of this process.
struct Clock {
    ahead: Duration,
}

impl Clock {
    fn own() -> Result<Self, Errno> {
        let id = (nix::unistd::geteuid(), nix::unistd::getegid());
        unshare(CloneFlags::CLONE_NEWUSER | NEWTIME)?;
        for (file, line) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {} 1", id.0)),
            ("gid_map", format!("0 {} 1", id.1)),
        ] {
            fs::write(format!("/proc/self/{file}"), line).expect("the map of one's own user namespace");
        }
        let mut clock = Self { ahead: Duration::ZERO };
        clock.advance(Duration::ZERO);
        Ok(clock)
    }

    #[expect(clippy::disallowed_methods, reason = "the kernel's clock is what this test is about")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Lets `time` pass.
    fn advance(&mut self, time: Duration) {
        self.ahead += time;
        unshare(NEWTIME).expect("a time namespace");
        let (seconds, rest) = (self.ahead.as_secs(), self.ahead.subsec_nanos());
        let offsets = format!("monotonic {seconds} {rest}\nboottime {seconds} {rest}");
        fs::write("/proc/self/timens_offsets", offsets).expect("offsets that nobody lives by yet");
        let next = fs::File::open("/proc/self/ns/time_for_children").expect("the next namespace");
        setns(next.as_fd(), NEWTIME).expect("one thread");
    }
}

/// An end with this private key, which is 10.9.0.(1 + number) inside.
fn end(private: &str, number: usize, more: &str) -> Tunnel {
    let other = 1 - number;
    let endpoint = if more.contains("Endpoint") { String::new() } else { format!("Endpoint={}", AT[other]) };
    let text = format!(
        "[Interface]\nPrivateKey={private}\n[Peer]\nPublicKey={}\nAllowedIPs=10.9.0.{}/32\n{endpoint}\n{more}\n",
        KEYS[other][1],
        other + 1,
    );
    Tunnel::new(&Config::parse(&text).expect("a configuration"), 0, &[])
}

/// What was sent when, by whom.
struct Sent {
    at: Instant,
    from: usize,
    bytes: Vec<u8>,
}

/// Two ends and a network between them.
struct Pair {
    ends: [Tunnel; 2],
    /// Datagrams get lost.
    lossy: bool,
    log: Vec<Sent>,
}

impl Pair {
    fn new(more: [&str; 2]) -> Self {
        let end = |number: usize| end(KEYS[number][0], number, more[number]);
        Self { ends: [end(0), end(1)], lossy: false, log: Vec::new() }
    }

    /// What an end wants to send.
    fn take(&mut self, clock: &Clock, from: usize) -> Vec<Vec<u8>> {
        let outbox = &mut self.ends[from].outbox;
        let trains =
            outbox.trains().flat_map(|(train, bytes)| bytes.chunks(usize::from(train.segment).max(1)));
        let all: Vec<Vec<u8>> = trains.map(<[u8]>::to_vec).collect();
        outbox.clear();
        self.log.extend(all.iter().map(|bytes| Sent { at: clock.now(), from, bytes: bytes.clone() }));
        all
    }

    /// Datagrams go back and forth until nobody has anything to say.
    fn settle(&mut self, clock: &Clock) {
        loop {
            let mut silent = true;
            for from in [0, 1] {
                let sent = self.take(clock, from);
                silent &= sent.is_empty();
                for datagram in sent.iter().filter(|_| !self.lossy) {
                    let at: SocketAddr = AT[from].parse().expect("an address");
                    self.ends[1 - from].handle_datagram(clock.now(), at, datagram);
                }
            }
            if silent {
                return;
            }
        }
    }

    /// Time passes, in which both do what is due.
    fn pass(&mut self, clock: &mut Clock, time: Duration) {
        let end = clock.now() + time;
        loop {
            let due = self.ends.iter().filter_map(Tunnel::poll_timeout).min();
            let next = due.map_or(end, |at| at.min(end));
            clock.advance(next.saturating_duration_since(clock.now()));
            let now = clock.now();
            for tunnel in &mut self.ends {
                if tunnel.poll_timeout().is_some_and(|at| at <= now) {
                    tunnel.handle_timeout(now);
                }
            }
            self.settle(clock);
            if now >= end {
                return;
            }
        }
    }

    fn send(&mut self, clock: &Clock, from: usize) {
        let (source, destination) = (from as u8 + 1, 2 - from as u8);
        let mut frame = [&TUNNEL_MAC[..], &STACK_MAC, &[8, 0]].concat();
        frame.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 9, 0, source, 10, 9, 0, destination]);
        self.ends[from].handle_frame(clock.now(), &VnetHdr::default(), &frame);
    }

    /// A packet goes from one end to the other.
    fn passes(&mut self, clock: &Clock, from: usize) -> bool {
        self.send(clock, from);
        self.settle(clock);
        self.came(1 - from) == 1
    }

    /// How many packets came out of an end.
    fn came(&mut self, to: usize) -> usize {
        let inbox = &mut self.ends[to].inbox;
        let count = inbox.frames().filter(|(_, frame)| frame.len() == HEADER_LEN + 20).count();
        inbox.clear();
        count
    }

    /// How many messages of this kind an end has sent since the last question.
    fn sent(&mut self, from: usize, kind: u8) -> usize {
        let (these, others) =
            std::mem::take(&mut self.log).into_iter().partition(|it| it.from == from && it.bytes[0] == kind);
        self.log = others;
        let these: Vec<Sent> = these;
        these.len()
    }

    fn age(&self, clock: &Clock, end: usize) -> Option<u64> {
        self.ends[end].peers(clock.now())[0].handshake_s
    }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A pair with a session that the first one began.
fn met(clock: &Clock) -> Pair {
    let mut pair = Pair::new(["", ""]);
    assert!(pair.passes(clock, 0) && pair.passes(clock, 1));
    assert_eq!((pair.sent(0, INITIATION), pair.sent(1, INITIATION)), (1, 0));
    pair
}

/// REKEY_AFTER_TIME
fn renewed(clock: &mut Clock) {
    let mut pair = met(clock);
    for _ in 0..11 {
        pair.pass(clock, seconds(10));
        assert!(pair.passes(clock, 0) && pair.passes(clock, 1));
    }
    assert_eq!(pair.sent(0, INITIATION) + pair.sent(1, INITIATION), 0, "not before 120 s");
    pair.pass(clock, seconds(12));
    assert_eq!((pair.sent(0, INITIATION), pair.sent(1, INITIATION)), (1, 0));
    assert!(pair.age(clock, 0) < Some(5) && pair.age(clock, 1) < Some(5));
    for _ in 0..100 {
        assert!(pair.passes(clock, 0) && pair.passes(clock, 1), "nothing is lost on the way");
        pair.pass(clock, seconds(7));
    }
    assert!((5..=6).contains(&pair.sent(0, INITIATION)), "each 120 s");
    assert_eq!(pair.ends.each_ref().map(Tunnel::dropped), [Dropped::default(); 2]);
}

fn left_to_the_other(clock: &mut Clock) {
    let mut pair = met(clock);
    for _ in 0..17 {
        pair.pass(clock, seconds(10));
        assert!(pair.passes(clock, 1), "only the second one speaks");
    }
    assert_eq!(pair.sent(1, INITIATION), 0);
}

/// REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
fn renewed_by_a_listener(clock: &mut Clock) {
    let mut pair = met(clock);
    for _ in 0..40 {
        assert!(pair.passes(clock, 1));
        pair.pass(clock, seconds(4));
    }
    assert_eq!(pair.sent(0, INITIATION) + pair.sent(1, INITIATION), 0, "not before 165 s");
    assert!(pair.passes(clock, 1));
    pair.pass(clock, seconds(6));
    assert_eq!((pair.sent(0, INITIATION), pair.sent(1, INITIATION)), (1, 0));
    assert!(pair.age(clock, 0) < Some(5));
}

/// REJECT_AFTER_TIME
fn worthless(clock: &mut Clock) {
    let mut pair = met(clock);
    pair.send(clock, 0);
    let late = pair.take(clock, 0);
    assert_eq!(late[0][0], DATA);
    pair.lossy = true;
    pair.pass(clock, seconds(181));
    let at: SocketAddr = AT[0].parse().expect("an address");
    pair.ends[1].handle_datagram(clock.now(), at, &late[0]);
    assert_eq!((pair.came(1), pair.ends[1].dropped().not_authentic), (0, 1));
    // Nor is anything sent by it.
    pair.log.clear();
    pair.send(clock, 0);
    pair.settle(clock);
    assert_eq!(pair.sent(0, DATA), 0);
    pair.lossy = false;
    pair.pass(clock, seconds(6));
    assert_eq!(pair.came(1), 1, "what waited for a new one");
    assert!(pair.passes(clock, 0) && pair.passes(clock, 1));
}

/// KEEPALIVE_TIMEOUT
fn heard(clock: &mut Clock) {
    let mut pair = met(clock);
    pair.pass(clock, seconds(2));
    assert!(pair.passes(clock, 0));
    pair.log.clear();
    pair.pass(clock, seconds(12));
    let from_second: Vec<usize> =
        pair.log.iter().filter(|it| it.from == 1).map(|it| it.bytes.len()).collect();
    assert_eq!(from_second, [EMPTY], "once");
    pair.log.clear();
    pair.pass(clock, seconds(60));
    assert!(pair.log.is_empty(), "there is no end of it otherwise");
}

fn keepalive(clock: &mut Clock) {
    let mut pair = Pair::new(["PersistentKeepalive=25", ""]);
    let began = clock.now();
    pair.ends[0].handle_timeout(began);
    pair.settle(clock);
    assert_eq!(pair.age(clock, 0), Some(0), "it begins with a handshake");
    pair.pass(clock, seconds(1000));
    let mut last = began;
    for sent in pair.log.iter().filter(|sent| sent.from == 0) {
        let pause = sent.at.duration_since(last);
        assert!(pause < seconds(28), "{pause:?} without a word");
        last = sent.at;
    }
    assert!(clock.now().duration_since(last) < seconds(28));
    assert!(pair.passes(clock, 1), "the way is open");
}

/// REKEY_TIMEOUT, REKEY_ATTEMPT_TIME
fn unanswered(clock: &mut Clock) {
    let mut pair = Pair::new(["Endpoint=vpn.example:7", ""]);
    pair.ends[0].handle_timeout(clock.now());
    pair.ends[0].unresolved.clear();
    pair.ends[0].handle_resolved(clock.now(), 0, AT[1].parse().expect("an address"));
    pair.lossy = true;
    pair.send(clock, 0);
    pair.settle(clock);
    pair.pass(clock, seconds(14));
    let first = pair.sent(0, INITIATION);
    assert!((2..=3).contains(&first), "each 5 s: {first}");
    pair.pass(clock, seconds(40));
    assert!(!pair.ends[0].unresolved.is_empty(), "the name is asked for again");
    pair.pass(clock, seconds(60));
    pair.log.clear();
    pair.pass(clock, seconds(300));
    assert!(pair.log.is_empty(), "it gave up");
    // Until there is something to say, and somebody who listens.
    pair.lossy = false;
    assert!(pair.passes(clock, 0) && pair.passes(clock, 1));
}

/// Clause 5.4.7: the secret behind it changes every two minutes.
fn cookie(clock: &mut Clock) {
    let mut pair = Pair::new(["", ""]);
    let mut stranger = Pair::new(["", ""]);
    stranger.ends[0] = end(STRANGER, 0, "");
    stranger.send(clock, 0);
    let strangers = stranger.take(clock, 0).remove(0);
    // Handshakes of a stranger, until the second end asks for cookies, and then one more: what is it answered? All at one
    // moment, as load is counted by the second.
    let answer = |pair: &mut Pair, clock: &mut Clock, from: &str, attempt: &[u8]| {
        clock.advance(seconds(1));
        let now = clock.now();
        for _ in 0..=200 {
            pair.ends[1].handle_datagram(now, "192.0.2.7:7".parse().expect("an address"), &strangers);
        }
        pair.take(clock, 1);
        pair.ends[1].handle_datagram(now, from.parse().expect("an address"), attempt);
        pair.take(clock, 1).pop().expect("an answer")
    };
    let attempt = |pair: &mut Pair| {
        let last = pair.log.iter().rfind(|it| it.from == 0 && it.bytes[0] == INITIATION);
        let bytes = last.expect("an attempt").bytes.clone();
        (bytes[132..].iter().any(|byte| *byte != 0), bytes)
    };
    pair.lossy = true;
    pair.send(clock, 0);
    pair.settle(clock);
    let (has_cookie, first) = attempt(&mut pair);
    assert!(!has_cookie);
    let reply = answer(&mut pair, clock, AT[0], &first);
    assert_eq!(reply[0], COOKIE);
    pair.ends[0].handle_datagram(clock.now(), AT[1].parse().expect("an address"), &reply);
    pair.pass(clock, seconds(6));
    let (has_cookie, second) = attempt(&mut pair);
    assert!(has_cookie);
    assert_eq!(answer(&mut pair, clock, AT[0], &second)[0], RESPONSE);
    // From elsewhere it is worth nothing.
    pair.pass(clock, seconds(6));
    let (has_cookie, third) = attempt(&mut pair);
    assert_eq!((has_cookie, answer(&mut pair, clock, "192.0.2.9:1000", &third)[0]), (true, COOKIE));
    pair.pass(clock, seconds(130));
    pair.send(clock, 0);
    pair.pass(clock, seconds(6));
    let (_, late) = attempt(&mut pair);
    assert_eq!(answer(&mut pair, clock, AT[0], &late)[0], COOKIE);
}

fn idle(clock: &mut Clock) {
    let mut pair = met(clock);
    pair.pass(clock, seconds(200));
    pair.log.clear();
    assert_eq!(pair.ends.each_ref().map(Tunnel::poll_timeout), [None, None]);
    pair.pass(clock, seconds(100_000));
    assert!(pair.log.is_empty());
    assert!(pair.passes(clock, 1));
}

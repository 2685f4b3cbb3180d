//! What a peer may send, and what it does not achieve.
//!
//! The first two are smoltcp 0.14's: without the guard the one ends the process, the other shows the program
//! bytes that nobody sent.

use proptest::prelude::*;

use super::super::segment::{Bare, Flags};
use super::*;

const ACK: Flags = Flags::ACK;

/// A peer that says what a test wants it to say.
struct Rogue {
    end: End,
    now: Instant,
    /// Its next sequence number, and the one that it acknowledges.
    seq: u32,
    ack: u32,
    window: u16,
    out: Vec<u8>,
}

/// A segment as the peer sees it.
#[derive(Debug, Clone)]
struct Seen {
    seq: u32,
    ack: u32,
    flags: Flags,
    window: u16,
    payload: Vec<u8>,
}

impl Rogue {
    /// It connects to us; no timestamps, window scale 7.
    fn connect(settings: Settings) -> Self {
        let now = beginning();
        let end = End::new(now, ends(), settings, 3);
        let mut rogue =
            Self { end, now, seq: 0xffff_ff00, ack: 0, window: 1000, out: vec![0; 65_535 + HEADROOM] };
        rogue.say_syn();
        let answer = rogue.hear().remove(0);
        assert!(answer.flags.has(Flags::SYN.with(ACK)));
        rogue.seq = rogue.seq.wrapping_add(1);
        rogue.ack = answer.seq.wrapping_add(1);
        rogue.say(ACK, &[]);
        assert_eq!(rogue.end.state(), State::Established);
        rogue
    }

    fn say_syn(&mut self) {
        let syn = Bare {
            ports: (80, 40_000),
            seq: self.seq,
            flags: Flags::SYN,
            window: 64_000,
            mss: Some(1460),
            scale: Some(7),
            sack_permitted: true,
            ..Bare::default()
        };
        let mut bytes = [0; 60];
        let length = syn.emit(&mut bytes);
        match &mut self.end.connection {
            Some(connection) => {
                self.end.machine.handle_segment(self.now, connection, &bytes[..length], false);
            }
            None => {
                let (ends, settings) = (self.end.ends, self.end.settings.clone());
                self.end.connection =
                    Some(self.end.machine.accept(self.now, &ends, &settings, &bytes[..length]).unwrap());
            }
        }
    }

    /// Says it where it belongs.
    fn say(&mut self, flags: Flags, payload: &[u8]) {
        self.say_at(self.seq, self.ack, flags, payload);
        self.seq = self.seq.wrapping_add(payload.len() as u32 + flags.length());
    }

    fn say_at(&mut self, seq: u32, ack: u32, flags: Flags, payload: &[u8]) {
        let header = Bare { ports: (80, 40_000), seq, ack, flags, window: self.window, ..Bare::default() };
        let mut bytes = vec![0; 60];
        let length = header.emit(&mut bytes);
        bytes.truncate(length);
        bytes.extend_from_slice(payload);
        self.end.machine.handle_segment(self.now, self.end.connection.as_mut().unwrap(), &bytes, false);
    }

    /// What we say now.
    fn hear(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        let connection = self.end.connection.as_mut().unwrap();
        while let Some(segment) = self.end.machine.poll_segment(self.now, connection, &mut self.out, HEADROOM)
        {
            let it = Incoming::parse(&self.out[segment.range]).unwrap();
            let payload = it.payload.to_vec();
            all.push(Seen { seq: it.seq, ack: it.ack, flags: it.flags, window: it.window, payload });
            assert!(all.len() < 10_000);
        }
        all
    }

    /// What we say until then.
    fn wait(&mut self, time: Duration) -> Vec<(Duration, Seen)> {
        let (start, until) = (self.now, self.now + time);
        let mut all = Vec::new();
        for turns in 0.. {
            assert!(turns < 300 + 2 * all.len(), "busy with nothing: {:?}", self.end.connection);
            let at = self.now - start;
            all.extend(self.hear().into_iter().map(|seen| (at, seen)));
            let next = self.end.machine.poll_timeout(self.now, self.end.connection.as_ref().unwrap());
            let Some(next) = next.filter(|&next| next <= until) else { break };
            assert!(next > self.now);
            self.now = next;
        }
        self.now = until;
        all
    }

    fn error(&mut self) -> Option<Errno> {
        self.end.machine.take_error(self.end.connection.as_mut().unwrap())
    }

    /// Only an acknowledgement of what it said in order.
    fn hears_one_acknowledgement(&mut self) {
        let heard = self.hear();
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(heard[0].flags == ACK && heard[0].ack == self.seq && heard[0].payload.is_empty());
    }
}

#[test]
fn data_beyond_the_window_of_the_syn_does_no_harm() {
    for receive_buffer in [64 << 10, 256 << 10, 1 << 20] {
        let mut rogue = Rogue::connect(Settings { receive_buffer, ..settings() });
        // Behind our ring, but within the window of our SYN if that were scaled.
        let beyond = rogue.seq.wrapping_add(receive_buffer as u32 + 1000);
        rogue.say_at(beyond, rogue.ack, ACK, &[0xbd; 1000]);
        rogue.say_at(rogue.seq.wrapping_add(65_535), rogue.ack, ACK, &[0xbd; 1000]);
        let data = pattern(65_535);
        for piece in data.chunks(1000) {
            rogue.say(ACK, piece);
        }
        rogue.hear();
        let whole = vec![1; receive_buffer];
        for piece in whole.chunks(1000) {
            rogue.say(ACK, piece);
            rogue.hear();
        }
        let got = rogue.end.receive();
        assert!(got.len() >= 65_535 && got.len() <= receive_buffer);
        assert!(got[..65_535] == data);
        assert!(got[65_535..].iter().all(|&byte| byte == 1), "{receive_buffer}");
    }
}

#[test]
fn data_beyond_the_window_shows_no_old_bytes_to_a_program_that_reads() {
    let mut rogue = Rogue::connect(Settings { receive_buffer: 64 << 10, ..settings() });
    let beyond = rogue.seq.wrapping_add(65_000 + 1000);
    rogue.say_at(beyond, rogue.ack, ACK, &[0xbd; 2000]);
    let mut got = Vec::new();
    for _ in 0..65 {
        rogue.say(ACK, &[1; 1000]);
        got.extend(rogue.end.receive());
    }
    for _ in 0..20 {
        rogue.hear();
        rogue.say(ACK, &[1; 1000]);
        got.extend(rogue.end.receive());
    }
    let strange = got.iter().filter(|&&byte| byte != 1).count();
    assert_eq!(strange, got.iter().filter(|&&byte| byte == 0xbd).count(), "bytes that nobody sent");
    assert_eq!(strange, 0, "data that was out of the window");
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_answered_and_loses_nothing() {
    let mut rogue = Rogue::connect(settings());
    let data = pattern(20_000);
    assert_eq!(rogue.end.send(&data), 20_000);
    let first = rogue.hear();
    let sent: usize = first.iter().map(|seen| seen.payload.len()).sum();
    assert!(sent < 20_000);
    rogue.say_at(rogue.seq, rogue.ack.wrapping_add(20_000), ACK, &[]);
    rogue.hears_one_acknowledgement();
    // The same from far behind.
    rogue.now += Duration::from_secs(1);
    rogue.say_at(rogue.seq, rogue.ack.wrapping_sub(1 << 30), ACK, &[]);
    assert_eq!(rogue.hear().iter().filter(|seen| seen.payload.is_empty()).count(), 1);
    let connection = rogue.end.connection();
    assert_eq!(connection.info().unacked + connection.info().unsent, 20_000);
}

#[test]
fn an_old_acknowledgement_with_new_data_delivers_the_data() {
    let mut rogue = Rogue::connect(settings());
    rogue.end.send(b"abcdef");
    rogue.hear();
    rogue.say_at(rogue.seq, rogue.ack.wrapping_add(6), ACK, &[]);
    rogue.say(ACK, b"new");
    assert_eq!(rogue.end.receive(), b"new");
    assert_eq!(rogue.end.connection().info().unacked, 0);
}

#[test]
fn a_syn_on_a_connection_is_challenged() {
    for offset in [0, 1000, 1 << 31] {
        let mut rogue = Rogue::connect(settings());
        rogue.say_at(rogue.seq.wrapping_add(offset), 0, Flags::SYN, &[]);
        rogue.hears_one_acknowledgement();
        rogue.say_at(rogue.seq.wrapping_add(offset), 0, Flags::SYN, &[]);
        assert!(rogue.hear().is_empty(), "not twice in half a second");
        rogue.now += Duration::from_secs(1);
        rogue.say_at(rogue.seq.wrapping_add(offset), rogue.ack, Flags::SYN.with(ACK), &[]);
        rogue.hears_one_acknowledgement();
        assert_eq!(rogue.end.state(), State::Established);
    }
}

#[test]
fn a_reset_counts_only_where_it_belongs() {
    let mut rogue = Rogue::connect(settings());
    rogue.say_at(rogue.seq.wrapping_add(1), 0, Flags::RST, &[]);
    rogue.hears_one_acknowledgement();
    rogue.now += Duration::from_secs(1);
    for seq in [rogue.seq.wrapping_sub(1), rogue.seq.wrapping_add(1 << 20)] {
        rogue.say_at(seq, 0, Flags::RST, &[]);
        assert!(rogue.hear().is_empty(), "out of the window");
    }
    assert_eq!(rogue.end.state(), State::Established);
    rogue.say(ACK, b"unread");
    rogue.say_at(rogue.seq, 0, Flags::RST, &[]);
    assert_eq!(rogue.end.state(), State::Closed);
    assert_eq!(rogue.error(), Some(Errno::ECONNRESET));
    assert_eq!(rogue.end.receive(), b"unread");
    assert!(rogue.hear().is_empty());
}

#[test]
fn a_reset_after_the_peers_fin_is_a_broken_pipe() {
    let mut rogue = Rogue::connect(settings());
    rogue.say(ACK.with(Flags::FIN), &[]);
    rogue.hears_one_acknowledgement();
    assert_eq!(rogue.end.state(), State::CloseWait);
    rogue.say_at(rogue.seq, 0, Flags::RST, &[]);
    assert_eq!(rogue.error(), Some(Errno::EPIPE));
}

#[test]
fn segments_without_acknowledgement_or_out_of_the_window_change_nothing() {
    let mut rogue = Rogue::connect(settings());
    rogue.say_at(rogue.seq, 0, Flags::default(), b"nothing");
    assert!(rogue.hear().is_empty());
    rogue.say_at(rogue.seq.wrapping_sub(5000), rogue.ack, ACK, b"old");
    rogue.hears_one_acknowledgement();
    rogue.say_at(rogue.seq.wrapping_add(1 << 24), rogue.ack, ACK.with(Flags::FIN), b"far");
    rogue.hears_one_acknowledgement();
    assert_eq!(rogue.end.state(), State::Established);
    assert!(rogue.end.receive().is_empty());
}

#[test]
fn a_fin_out_of_order_waits_for_what_is_before_it() {
    let mut rogue = Rogue::connect(settings());
    let (seq, ack) = (rogue.seq, rogue.ack);
    rogue.say_at(seq.wrapping_add(3), ack, ACK.with(Flags::FIN), b"def");
    assert_eq!(rogue.end.state(), State::Established);
    rogue.say_at(seq.wrapping_add(7), ack, ACK, b"behind the end");
    rogue.say_at(seq, ack, ACK, b"abc");
    assert_eq!(rogue.end.state(), State::CloseWait);
    assert_eq!(rogue.end.receive(), b"abcdef");
    assert!(rogue.end.connection().is_drained());
    assert_eq!(rogue.hear().last().unwrap().ack, seq.wrapping_add(7));
    rogue.say_at(seq.wrapping_add(7), ack, ACK, b"more");
    assert!(rogue.end.receive().is_empty());
}

#[test]
fn holes_are_told() {
    let mut rogue = Rogue::connect(settings());
    let (seq, ack) = (rogue.seq, rogue.ack);
    for at in [5, 3, 1] {
        rogue.say_at(seq.wrapping_add(at * 1000), ack, ACK, &[0; 1000]);
    }
    let mut blocks = Vec::new();
    let connection = rogue.end.connection.as_mut().unwrap();
    while let Some(segment) = rogue.end.machine.poll_segment(rogue.now, connection, &mut rogue.out, HEADROOM)
    {
        let packet = smoltcp::wire::TcpPacket::new_checked(&rogue.out[segment.range]).unwrap();
        blocks.push(packet.selective_ack_ranges().unwrap());
    }
    let block = |at: u32| Some((seq.wrapping_add(at * 1000), seq.wrapping_add(at * 1000 + 1000)));
    assert_eq!(blocks.len(), 3, "one acknowledgement for each");
    assert_eq!(blocks[2], [block(1), block(3), block(5)]);
}

#[test]
fn a_shut_window_is_probed_until_it_opens_and_no_longer_than_the_peer_answers() {
    let mut rogue = Rogue::connect(settings());
    rogue.window = 0;
    rogue.say(ACK, &[]);
    rogue.end.send(b"waiting");
    for _ in 0..100 {
        let probes = rogue.wait(Duration::from_secs(60));
        assert!(probes.len() <= 30 && probes.iter().all(|(_, seen)| seen.payload.len() <= 1), "{probes:?}");
        rogue.say(ACK, &[]);
    }
    assert_eq!(rogue.end.state(), State::Established);
    rogue.window = 1000;
    rogue.say(ACK, &[]);
    let heard: Vec<Seen> = rogue.wait(Duration::from_secs(1)).into_iter().map(|(_, seen)| seen).collect();
    assert!(heard.iter().any(|seen| seen.payload.ends_with(b"aiting")), "{heard:?}");
    rogue.window = 0;
    rogue.say_at(rogue.seq, rogue.ack.wrapping_add(7), ACK, &[]);
    rogue.end.send(b"never");
    rogue.wait(Duration::from_secs(1000));
    assert_eq!(rogue.error(), Some(Errno::ETIMEDOUT));
}

/// smoltcp 0.14, left to itself, acknowledges without end here.
#[test]
fn a_shut_window_after_the_last_byte_is_not_probed() {
    let mut rogue = Rogue::connect(settings());
    rogue.end.send(&[1; 3000]);
    let end = &mut rogue.end;
    end.machine.finish(rogue.now, end.connection.as_mut().unwrap());
    assert!(rogue.hear().last().unwrap().flags.has(Flags::FIN));
    rogue.window = 0;
    rogue.say_at(rogue.seq, rogue.ack.wrapping_add(1000), ACK, &[]);
    rogue.say_at(rogue.seq, rogue.ack.wrapping_add(3001), ACK, &[]);
    assert_eq!(rogue.end.state(), State::FinWait2);
    assert!(rogue.wait(Duration::from_secs(1000)).is_empty());
}

#[test]
fn our_window_does_not_open_by_a_few_bytes() {
    let mut rogue = Rogue::connect(Settings { receive_buffer: 20_000, ..settings() });
    for _ in 0..20 {
        rogue.say(ACK, &[1; 1000]);
    }
    rogue.hear();
    let take = |rogue: &mut Rogue, most: usize| {
        let connection = rogue.end.connection.as_mut().unwrap();
        let mut left = most;
        rogue.end.machine.receive_with(connection, &mut |bytes| {
            let length = bytes.len().min(left);
            left -= length;
            length
        });
    };
    for _ in 0..5 {
        take(&mut rogue, 200);
        assert!(rogue.wait(Duration::from_secs(1)).is_empty());
        rogue.say_at(rogue.seq, rogue.ack, ACK, &[2]);
        assert_eq!(rogue.hear().pop().unwrap().window, 0);
    }
    take(&mut rogue, 1000);
    assert_eq!(rogue.hear().pop().unwrap().window, 2000);
}

#[test]
fn our_window_shuts_when_nobody_reads_and_opens_by_itself() {
    let mut rogue = Rogue::connect(Settings { receive_buffer: 20_000, ..settings() });
    for _ in 0..20 {
        rogue.say(ACK, &[1; 1000]);
    }
    let last = rogue.hear().pop().unwrap();
    assert_eq!((last.ack, last.window), (rogue.seq, 0));
    // A probe is answered, its byte not taken.
    rogue.say_at(rogue.seq, rogue.ack, ACK, &[2]);
    rogue.hears_one_acknowledgement();
    assert_eq!(rogue.end.receive().len(), 20_000);
    let opened = rogue.hear().pop().unwrap();
    assert_eq!((opened.ack, opened.window), (rogue.seq, 20_000));
}

#[test]
fn a_large_window_is_for_programs_that_read() {
    let mut rogue = Rogue::connect(Settings { receive_buffer: 3 << 20, ..settings() });
    let mut last = None;
    for _ in 0..1100 {
        rogue.say(ACK, &[1; 1000]);
        last = rogue.hear().pop().or(last);
    }
    assert_eq!(last.unwrap().window, 0);
    let got = rogue.end.receive().len();
    assert!(got > 1_000_000 && got <= 1 << 20, "{got}");
    assert!(rogue.hear().pop().unwrap().window > 1000, "it opens by itself");
}

#[test]
fn a_vanished_peer_is_given_up_after_tcp_retries2() {
    let mut rogue = Rogue::connect(settings());
    rogue.end.send(b"anybody?");
    let heard = rogue.wait(Duration::from_secs(1000));
    let times: Vec<u128> = heard.iter().map(|(at, _)| at.as_millis()).collect();
    assert!(heard.len() >= 15 && heard.len() < 30, "{times:?}");
    assert!(times[1] >= 200 && times[1] < 400, "{times:?}");
    assert_eq!(rogue.error(), Some(Errno::ETIMEDOUT));
    assert_eq!(rogue.end.state(), State::Closed);
}

#[test]
fn a_user_timeout_is_kept() {
    let user_timeout = Some(Duration::from_secs(5));
    let mut rogue = Rogue::connect(Settings { user_timeout, ..settings() });
    rogue.wait(Duration::from_secs(100));
    assert_eq!(rogue.end.state(), State::Established, "nothing to send: nothing to wait for");
    rogue.end.send(b"anybody?");
    rogue.wait(Duration::from_millis(4900));
    assert_eq!(rogue.end.state(), State::Established);
    rogue.wait(Duration::from_millis(200));
    assert_eq!(rogue.error(), Some(Errno::ETIMEDOUT));
}

#[test]
fn keep_alive_finds_out() {
    let keep_alive = Some((Duration::from_secs(60), Duration::from_secs(5), 3));
    let mut rogue = Rogue::connect(Settings { keep_alive, ..settings() });
    rogue.hear();
    let heard = rogue.wait(Duration::from_secs(62));
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].1.seq, rogue.ack.wrapping_sub(1));
    rogue.say(ACK, &[]);
    let heard = rogue.wait(Duration::from_secs(100));
    let times: Vec<u64> = heard.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times, [60, 65, 70, 75]);
    assert!(heard[3].1.flags.has(Flags::RST));
    assert_eq!(rogue.error(), Some(Errno::ETIMEDOUT));
}

#[test]
fn an_abort_resets_where_the_peer_expects_it() {
    let mut rogue = Rogue::connect(settings());
    rogue.end.send(b"abc");
    rogue.hear();
    let end = &mut rogue.end;
    end.machine.abort(rogue.now, end.connection.as_mut().unwrap());
    let heard = rogue.hear();
    assert_eq!(heard.len(), 1);
    assert!(heard[0].flags.has(Flags::RST) && heard[0].seq == rogue.ack.wrapping_add(3));
    assert_eq!(rogue.end.state(), State::Closed);
}

#[test]
fn time_wait_answers_and_makes_way_for_a_new_connection() {
    let mut rogue = Rogue::connect(settings());
    let end = &mut rogue.end;
    end.machine.finish(rogue.now, end.connection.as_mut().unwrap());
    rogue.hear();
    rogue.ack = rogue.ack.wrapping_add(1);
    rogue.say(ACK.with(Flags::FIN), &[]);
    rogue.hears_one_acknowledgement();
    assert_eq!(rogue.end.state(), State::TimeWait);
    rogue.now += Duration::from_secs(50);
    rogue.say_at(rogue.seq.wrapping_sub(1), rogue.ack, ACK.with(Flags::FIN), &[]);
    rogue.hears_one_acknowledgement();
    rogue.wait(Duration::from_secs(50));
    assert_eq!(rogue.end.state(), State::TimeWait, "begun anew");
    rogue.say_at(rogue.seq.wrapping_sub(100), 0, Flags::SYN, &[]);
    assert_eq!(rogue.end.state(), State::TimeWait);
    rogue.say_at(rogue.seq.wrapping_add(100), 0, Flags::SYN, &[]);
    assert_eq!(rogue.end.state(), State::Closed);
    assert_eq!(rogue.error(), None);
}

#[test]
fn a_syn_that_comes_again_is_answered_again() {
    let now = beginning();
    let end = End::new(now, ends(), settings(), 3);
    let mut rogue = Rogue { end, now, seq: 7, ack: 0, window: 1000, out: vec![0; 65_535 + HEADROOM] };
    rogue.say_syn();
    let first = rogue.hear();
    rogue.say_syn();
    let second = rogue.hear();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!((first[0].seq, first[0].ack, first[0].flags), (second[0].seq, second[0].ack, second[0].flags));
    // A wrong acknowledgement is reset and changes nothing.
    rogue.say_at(8, first[0].seq.wrapping_add(5), ACK, &[]);
    let heard = rogue.hear();
    assert!(heard.len() == 1 && heard[0].flags == Flags::RST && heard[0].seq == first[0].seq.wrapping_add(5));
    assert_eq!(rogue.end.state(), State::SynReceived);
    // The program has finished already; its FIN comes behind the handshake.
    let end = &mut rogue.end;
    end.machine.finish(rogue.now, end.connection.as_mut().unwrap());
    rogue.seq = 8;
    rogue.ack = first[0].seq.wrapping_add(1);
    rogue.say(ACK, &[]);
    assert_eq!(rogue.end.state(), State::FinWait1);
    assert!(rogue.hear()[0].flags.has(Flags::FIN));
}

#[test]
fn an_old_timestamp_is_an_old_segment() {
    let mut pair = Pair::established();
    pair.log = Some(Vec::new());
    pair.ends[0].send(b"first");
    pair.settle();
    let old = pair.log.take().unwrap().remove(0).1;
    pair.run(Duration::from_secs(1));
    pair.ends[0].send(b"second");
    pair.settle();
    assert_eq!(pair.ends[1].receive(), b"firstsecond");
    // Its sequence number moved into the window: only the timestamp tells.
    let next = pair.ends[1].connection().receiving.next;
    let mut replay = old;
    replay[4..8].copy_from_slice(&next.to_be_bytes());
    pair.arrive(1, &replay);
    assert!(pair.ends[1].receive().is_empty());
}

/// One thing that a peer does.
#[derive(Debug, Clone)]
enum Act {
    Say { seq: i32, ack: i32, flags: u8, window: u16, length: usize },
    Junk(Vec<u8>),
    Send(usize),
    Receive,
    Finish,
    Wait(u64),
    Mtu(u32),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let near = prop_oneof![6 => Just(0), 4 => -3000..3000i32, 2 => 60_000..70_000i32, 1 => any::<i32>()];
    let flags = prop_oneof![6 => Just(0x10u8), 1 => Just(0x11u8), 1 => any::<u8>()];
    let length = prop_oneof![3 => Just(0usize), 3 => 1..1500usize, 1 => 1..65_000usize];
    let window = prop_oneof![Just(0u16), any::<u16>()];
    let act = prop_oneof![
        20 => (near.clone(), near, flags, window, length)
            .prop_map(|(seq, ack, flags, window, length)| Act::Say { seq, ack, flags, window, length }),
        1 => proptest::collection::vec(any::<u8>(), 0..100).prop_map(Act::Junk),
        3 => (1..100_000usize).prop_map(Act::Send),
        3 => Just(Act::Receive),
        1 => Just(Act::Finish),
        3 => (0..5000u64).prop_map(Act::Wait),
        1 => (40..70_000u32).prop_map(Act::Mtu),
    ];
    proptest::collection::vec(act, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_a_peer_sends_panics(acts in acts(), ring in prop_oneof![Just(4096usize), Just(65_536), Just(300_000)], super_segments: bool) {
        let mut rogue = Rogue::connect(Settings { receive_buffer: ring, super_segments, ..settings() });
        for act in acts {
            match act {
                Act::Say { seq, ack, flags, window, length } => {
                    rogue.window = window;
                    let connection = rogue.end.connection();
                    let seq = connection.receiving.next.wrapping_add_signed(seq);
                    let ack = connection.sending.max.wrapping_add_signed(ack);
                    rogue.say_at(seq, ack, Flags::of(flags), &vec![7; length]);
                }
                Act::Junk(bytes) => {
                    let end = &mut rogue.end;
                    end.machine.handle_segment(rogue.now, end.connection.as_mut().unwrap(), &bytes, false);
                }
                Act::Send(length) => { rogue.end.send(&vec![9; length]); }
                Act::Receive => prop_assert!(rogue.end.receive().iter().all(|&byte| byte == 7)),
                Act::Finish => {
                    let end = &mut rogue.end;
                    end.machine.finish(rogue.now, end.connection.as_mut().unwrap());
                }
                Act::Wait(millis) => { rogue.wait(Duration::from_millis(millis)); }
                Act::Mtu(mtu) => {
                    let end = &mut rogue.end;
                    end.machine.set_mtu(rogue.now, end.connection.as_mut().unwrap(), mtu);
                }
            }
            let heard = rogue.hear();
            prop_assert!(heard.iter().all(|seen| seen.payload.iter().all(|&byte| byte == 9)));
            let connection = rogue.end.connection();
            prop_assert!(connection.received() <= ring);
            connection.info();
        }
    }
}

//! What a connection does on a good day, and its timers.

use super::*;

#[test]
fn opens_transfers_and_closes() {
    let mut pair = Pair::established();
    assert_eq!(pair.ends[0].send(b"hello"), 5);
    pair.settle();
    assert_eq!(pair.ends[1].receive(), b"hello");
    let now = pair.now;
    let end = &mut pair.ends[0];
    end.machine.finish(now, end.connection.as_mut().unwrap());
    pair.settle();
    assert_eq!(pair.states(), [State::FinWait2, State::CloseWait]);
    assert!(pair.ends[1].connection().is_drained());
    assert_eq!(pair.ends[1].send(b"last words"), 10);
    let end = &mut pair.ends[1];
    end.machine.finish(now, end.connection.as_mut().unwrap());
    pair.settle();
    assert_eq!(pair.states(), [State::TimeWait, State::Closed]);
    assert_eq!(pair.ends[0].receive(), b"last words");
    pair.run(Duration::from_secs(59));
    assert_eq!(pair.ends[0].state(), State::TimeWait);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.ends[0].state(), State::Closed);
    for end in &mut pair.ends {
        assert_eq!(end.connection.as_mut().unwrap().error, None);
    }
}

#[test]
fn a_nobody_refuses() {
    let mut pair = Pair::plain();
    let now = pair.now;
    let end = &mut pair.ends[0];
    let segment =
        end.machine.poll_segment(now, end.connection.as_mut().unwrap(), &mut pair.out, HEADROOM).unwrap();
    let mut reset = [0; 20];
    let length = refuse(&pair.out[segment.range], &mut reset).unwrap();
    assert!(refuse(&reset[..length], &mut [0; 20]).is_none());
    pair.arrive(0, &reset[..length]);
    assert_eq!(pair.ends[0].state(), State::Closed);
    let end = &mut pair.ends[0];
    assert_eq!(end.machine.take_error(end.connection.as_mut().unwrap()), Some(Errno::ECONNREFUSED));
    assert_eq!(end.machine.take_error(end.connection.as_mut().unwrap()), None);
}

#[test]
fn ten_segments_go_at_once() {
    for mtu in [1500, 9000, 65_536] {
        let mut both = [settings(), settings()];
        both[0].mtu = mtu;
        both[1].mtu = mtu;
        let mut pair = Pair::new(Model { delay: Duration::from_millis(10), ..Model::default() }, 1, both);
        pair.run(Duration::from_millis(100));
        pair.log = Some(Vec::new());
        assert_eq!(pair.ends[0].send(&pattern(200_000)), 200_000);
        pair.run(Duration::from_millis(5));
        let sent: usize = pair.log.take().unwrap().iter().map(|(_, bytes)| bytes.len() - 32).sum();
        let ten = 10 * (mtu as usize - 52);
        assert!(sent >= ten.min(60_000) && sent <= ten + 1460, "{mtu}: {sent}");
        pair.run(Duration::from_secs(2));
        assert!(pair.ends[1].receive() == pattern(200_000));
    }
}

#[test]
fn a_connect_that_nobody_answers_gives_up_as_linux_does() {
    let lost = Model { loss: 1000, ..Model::default() };
    let mut pair = Pair::new(lost, 1, [settings(), settings()]);
    pair.log = Some(Vec::new());
    pair.run(Duration::from_millis(130_900));
    assert_eq!(pair.ends[0].state(), State::SynSent);
    assert_eq!(pair.log.as_ref().unwrap().len(), 11);
    pair.run(Duration::from_millis(200));
    assert_eq!(pair.ends[0].state(), State::Closed);
    assert_eq!(pair.ends[0].connection().error, Some(Errno::ETIMEDOUT));
}

#[test]
fn an_answer_that_gets_lost_is_repeated_and_given_up() {
    let mut both = [settings(), settings()];
    both[1].syn_retries = 5;
    let mut pair = Pair::new(Model { delay: Duration::from_millis(5), ..Model::default() }, 1, both);
    pair.step(pair.now + Duration::from_millis(5));
    assert_eq!(pair.states(), [State::SynSent, State::SynReceived]);
    pair.ends[0].connection = None;
    pair.link.clear();
    pair.model.loss = 1000;
    pair.log = Some(Vec::new());
    pair.run(Duration::from_millis(62_900));
    assert_eq!(pair.ends[1].state(), State::SynReceived);
    assert_eq!(pair.log.as_ref().unwrap().len(), 5);
    pair.run(Duration::from_millis(200));
    assert_eq!(pair.ends[1].state(), State::Closed);
}

#[test]
fn a_lost_syn_costs_a_second() {
    let mut pair = Pair::plain();
    pair.drain(0);
    pair.link.clear();
    pair.run(Duration::from_millis(1010));
    assert_eq!(pair.states(), [State::Established; 2]);
    assert_eq!(pair.ends[0].connection().info().retransmits, 1);
}

#[test]
fn both_may_begin() {
    let mut pair = Pair::plain();
    let now = pair.now;
    let second = &mut pair.ends[1];
    second.connection = Some(second.machine.connect(now, &second.ends, &second.settings));
    // Neither hears of the other before its own SYN is on its way.
    pair.model.delay = Duration::from_millis(5);
    pair.settle();
    assert_eq!(pair.states(), [State::Established; 2]);
    pair.ends[0].send(b"to the second");
    pair.ends[1].send(b"to the first");
    pair.settle();
    assert_eq!(pair.ends[0].receive(), b"to the first");
    assert_eq!(pair.ends[1].receive(), b"to the second");
}

#[test]
fn both_may_finish_at_once() {
    let mut pair = Pair::established();
    pair.model.delay = Duration::from_millis(5);
    let now = pair.now;
    for end in &mut pair.ends {
        end.machine.finish(now, end.connection.as_mut().unwrap());
    }
    pair.settle();
    assert_eq!(pair.states(), [State::TimeWait; 2]);
}

#[test]
fn initial_sequence_numbers_are_ours() {
    let mut pair = Pair::plain();
    pair.log = Some(Vec::new());
    pair.settle();
    for (from, bytes) in pair.log.take().unwrap().into_iter().take(2) {
        let end = &pair.ends[from];
        let expected = isn::Secret::new(&[[1, !1][from]; 32]).initial_sequence(&end.ends, Duration::ZERO);
        assert_eq!(Incoming::parse(&bytes).unwrap().seq, expected);
    }
}

#[test]
fn a_narrowed_way_gets_shorter_segments_at_once() {
    for super_segments in [false, true] {
        let both = [settings(), settings()].map(|it| Settings { super_segments, ..it });
        let mut pair = Pair::new(Model { delay: Duration::from_millis(5), ..Model::default() }, 1, both);
        pair.settle();
        assert_eq!(pair.ends[0].send(&pattern(10_000)), 10_000);
        pair.drain(0);
        // All of it was too long for somebody on the way, who says so.
        pair.link.clear();
        let now = pair.now;
        let end = &mut pair.ends[0];
        end.machine.set_mtu(now, end.connection.as_mut().unwrap(), 1280);
        end.settings.mtu = 1280;
        pair.run(Duration::from_millis(150));
        assert!(pair.ends[1].receive() == pattern(10_000), "{super_segments}");
        assert_eq!(pair.ends[0].connection().info().send_mss, 1228);
    }
}

#[test]
fn a_corked_connection_sends_whole_segments_only_until_it_is_uncorked() {
    for uncork in [false, true] {
        let mut pair = Pair::established();
        let mut corked = Settings { cork: true, super_segments: true, ..settings() };
        let now = pair.now;
        let end = &mut pair.ends[0];
        end.machine.set(now, end.connection.as_mut().unwrap(), &corked);
        pair.ends[0].send(&[5; 2000]);
        pair.run(Duration::from_millis(100));
        assert_eq!(pair.ends[1].receive().len(), 1448);
        if uncork {
            corked.cork = false;
            let now = pair.now;
            let end = &mut pair.ends[0];
            end.machine.set(now, end.connection.as_mut().unwrap(), &corked);
            pair.run(Duration::from_millis(1));
        } else {
            pair.run(Duration::from_millis(110));
        }
        assert_eq!(pair.ends[1].receive().len(), 2000 - 1448, "{uncork}");
    }
}

#[test]
fn nagle_waits_and_nodelay_does_not() {
    for no_delay in [false, true] {
        let both = [settings(), settings()].map(|it| Settings { no_delay, ..it });
        let mut pair = Pair::new(Model { delay: Duration::from_millis(20), ..Model::default() }, 1, both);
        pair.settle();
        for _ in 0..10 {
            pair.ends[0].send(b"x");
            pair.drain(0);
        }
        assert_eq!(pair.link.len(), if no_delay { 10 } else { 1 });
    }
}

#[test]
fn acknowledgements_wait_a_little_unless_asked_not_to() {
    for quick_ack in [false, true] {
        let both = [settings(), settings()].map(|it| Settings { quick_ack, ..it });
        let mut pair = Pair::new(Model::default(), 1, both);
        pair.settle();
        pair.ends[0].send(b"x");
        pair.run(Duration::from_millis(5));
        assert_eq!(pair.ends[0].connection().info().unacked, usize::from(!quick_ack));
        pair.run(Duration::from_millis(10));
        assert_eq!(pair.ends[0].connection().info().unacked, 0);
    }
}

#[test]
fn what_was_read_is_acknowledged_unless_an_answer_does_that() {
    let mut pair = Pair::established();
    pair.log = Some(Vec::new());
    for round in 0..5 {
        pair.ends[0].send(b"one");
        pair.run(Duration::from_millis(1));
        assert_eq!(pair.ends[1].receive(), b"one");
        pair.run(Duration::from_millis(1));
        assert_eq!(pair.ends[0].connection().info().unacked, 0, "{round}");
    }
    assert!(pair.log.as_ref().unwrap().len() <= 12);
    for _ in 0..5 {
        pair.ends[0].send(b"question");
        pair.run(Duration::from_millis(1));
        pair.ends[1].receive();
        pair.ends[1].send(b"answer");
        pair.run(Duration::from_millis(1));
        pair.ends[0].receive();
    }
    let messages = pair.log.as_ref().unwrap().iter().skip(12);
    let bare = messages.filter(|(_, bytes)| bytes.len() == 32).count();
    assert!(bare <= 3, "{bare} acknowledgements without data");
}

#[test]
fn numbers_for_people() {
    let mut pair = Pair::new(
        Model { delay: Duration::from_millis(10), ..Model::default() },
        1,
        [settings(), settings()],
    );
    pair.settle();
    pair.ends[0].send(&pattern(100_000));
    pair.settle();
    let info = pair.ends[0].connection().info();
    assert!(info.rtt >= Duration::from_millis(20) && info.rtt < Duration::from_millis(35), "{info:?}");
    assert!(info.rto >= Duration::from_millis(220) && info.rto < Duration::from_millis(400), "{info:?}");
    assert_eq!((info.send_mss, info.receive_mss), (1448, 1448));
    assert_eq!((info.unacked, info.unsent, info.retransmits), (0, 0, 0));
    assert_eq!(info.bytes_acked, 100_001);
    assert!(info.timestamps && info.sack && info.cwnd >= 14_000);
    assert_eq!(pair.ends[1].connection().info().bytes_received, 100_000);
    assert_eq!(pair.ends[1].received(), 100_000);
}

#[test]
fn a_connection_that_is_over_keeps_no_buffers() {
    let mut pair = Pair::established();
    pair.ends[0].send(b"rest");
    let now = pair.now;
    for at in [0, 1] {
        let end = &mut pair.ends[at];
        end.machine.finish(now, end.connection.as_mut().unwrap());
        pair.settle();
    }
    assert!(pair.ends[0].connection().body.is_none(), "TIME-WAIT");
    assert!(pair.ends[1].connection().body.is_some(), "something to read");
    assert_eq!(pair.ends[1].receive(), b"rest");
    assert!(pair.ends[1].connection().body.is_none());
}

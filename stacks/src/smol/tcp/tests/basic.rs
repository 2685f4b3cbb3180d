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

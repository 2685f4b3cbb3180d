//! 32-bit programs.

use super::*;
use crate::handlers::smol::layout::{narrow_control, widen_control};

fn narrow(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn cmsg(level: i32, kind: i32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + payload.len()) as u64).to_ne_bytes().to_vec();
    bytes.extend([level.to_ne_bytes(), kind.to_ne_bytes()].concat());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn cmsg_32(level: i32, kind: i32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = narrow(&[12 + payload.len() as u32, level as u32, kind as u32]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn a_narrow_message_is_read_and_written_in_its_own_layout() {
    let mut memory = Memory::default();
    let (data, name) = (memory.put(b"....") as u32, memory.put(&[3; 16]) as u32);
    let control = memory.put(&cmsg_32(0, 8, &[1, 2, 3, 4])) as u32;
    let vectors = memory.put(&narrow(&[data, 2, data + 2, 2])) as u32;
    let header = memory.put(&narrow(&[name, 16, vectors, 2, control, 16, 0]));
    let mut target = memory.program();
    // What is in the upper halves of registers is not there for such a program.
    let args = [3, header | 0xffff_ffff << 32, 0];
    let sent = ask_as(Abi::I386, "sendmsg", &args, &mut target).unwrap().call;
    let expected = SocketCall::Send {
        to: Some(vec![3; 16]),
        control: cmsg(0, 8, &[1, 2, 3, 4])[..20].to_vec(),
        data: b"....".to_vec(),
        flags: 0,
    };
    assert_eq!(sent, expected);
    let mut ask = ask_as(Abi::I386, "recvmsg", &args, &mut target).unwrap();
    assert!(matches!(ask.call, SocketCall::Receive { length: 4, control: 32, .. }));
    let message = Message {
        data: b"abc".to_vec(),
        length: 3,
        from: vec![9; 16],
        control: cmsg(0, 8, &[5, 6, 7, 8]),
        flags: 0,
    };
    assert_eq!(ask.give.give(&Done::Received(message), &mut target), Ok(Given::Value(3)));
    assert_eq!(at(&target, data.into(), 4), b"abc.");
    assert_eq!(at(&target, control.into(), 16), cmsg_32(0, 8, &[5, 6, 7, 8]));
    assert_eq!(at(&target, header, 28), narrow(&[name, 16, vectors, 2, control, 16, 0]));
}

#[test]
fn narrow_entries_stand_closer() {
    let mut memory = Memory::default();
    let data = memory.put(b"ab") as u32;
    let (a, b) = (memory.put(&narrow(&[data, 1])) as u32, memory.put(&narrow(&[data + 1, 1])) as u32);
    let array = memory.put(&narrow(&[0, 0, a, 1, 0, 0, 0, 9, 0, 0, b, 1, 0, 0, 0, 9]));
    let mut target = memory.program();
    let mut ask = ask_as(Abi::I386, "sendmmsg", &[3, array, 2, 0], &mut target).unwrap();
    let second = next(ask.give.give(&Done::Value(1), &mut target));
    assert!(matches!(second, SocketCall::Send { data, .. } if data == b"b"));
    assert_eq!(ask.give.give(&Done::Value(1), &mut target), Ok(Given::Value(2)));
    assert_eq!((number(&target, array + 28), number(&target, array + 60)), (1, 1));
}

#[test]
fn narrow_times_and_groups_are_widened() {
    let mut memory = Memory::default();
    let time = memory.put(&narrow(&[u32::MAX, 5]));
    let group = memory.put(&[narrow(&[2]), vec![7; 128]].concat());
    let (value, length) = (memory.put(&[0; 8]), memory.put(&8i32.to_ne_bytes()));
    let mut target = memory.program();
    let mut set = |level: i32, name: u64, value, length| match ask_as(
        Abi::I386,
        "setsockopt",
        &[3, level as u64, name, value, length],
        &mut target,
    )
    .unwrap()
    .call
    {
        SocketCall::SetOption { value, .. } => value,
        other => panic!("{other:?}"),
    };
    assert_eq!(set(libc::SOL_SOCKET, 20, time, 8), [(-1i64).to_ne_bytes(), 5i64.to_ne_bytes()].concat());
    assert_eq!(set(libc::SOL_IP, 42, group, 132), [narrow(&[2, 0]), vec![7; 128]].concat());
    assert_eq!(set(libc::SOL_TCP, 42, group, 132).len(), 132);
    let mut ask = ask_as(Abi::I386, "getsockopt", &[3, 1, 20, value, length], &mut target).unwrap();
    assert!(matches!(&ask.call, SocketCall::GetOption { value, .. } if value.len() == 16));
    let wide = [3i64.to_ne_bytes(), 4i64.to_ne_bytes()].concat();
    assert_eq!(ask.give.give(&Done::Bytes(wide), &mut target), Ok(Given::Value(0)));
    assert_eq!((at(&target, value, 8), number(&target, length)), (&narrow(&[3, 4])[..], 8));
}

#[test]
fn ancillary_data_is_cut_as_put_cmsg_cuts_it() {
    let wide = [cmsg(0, 8, &[1, 2, 3, 4]), cmsg(41, 50, &[9; 20])].concat();
    let narrowed = [cmsg_32(0, 8, &[1, 2, 3, 4]), cmsg_32(41, 50, &[9; 20])].concat();
    assert_eq!(narrow_control(&wide, 100), (narrowed.clone(), false));
    assert_eq!(narrow_control(&wide, 48), (narrowed.clone(), false));
    // In the middle of the second: its header says how much there is.
    let cut = [&narrowed[..16], &narrow(&[22, 41, 50]), &[9; 10]].concat();
    assert_eq!(narrow_control(&wide, 38), (cut, true));
    assert_eq!(narrow_control(&wide, 27), (narrowed[..16].to_vec(), true));
    assert_eq!(narrow_control(&wide, 0), (vec![], true));
    assert_eq!(narrow_control(&[], 0), (vec![], false));
}

#[test]
fn time_stamps_are_made_of_longs() {
    let wide = cmsg(libc::SOL_SOCKET, 35, &[7i64.to_ne_bytes(), 8i64.to_ne_bytes()].concat());
    let expected = cmsg_32(libc::SOL_SOCKET, 35, &narrow(&[7, 8]));
    assert_eq!(narrow_control(&wide, 100), (expected, false));
}

#[test]
fn malformed_ancillary_data_is_invalid() {
    for length in [0, 11, 17, u32::MAX] {
        assert_eq!(widen_control(&narrow(&[length, 0, 8, 0])), Err(Errno::EINVAL), "{length}");
    }
    assert_eq!(widen_control(&[0; 11]), Ok(vec![]));
}

proptest::proptest! {
    #[test]
    fn what_was_widened_is_narrowed_to_itself(payloads in proptest::collection::vec(0usize..40, 0..5)) {
        let narrow: Vec<u8> = payloads.iter().flat_map(|n| cmsg_32(41, 50, &vec![*n as u8; *n])).collect();
        let wide = widen_control(&narrow).unwrap();
        proptest::prop_assert_eq!(narrow_control(&wide, narrow.len()), (narrow, false));
    }

    #[test]
    fn no_ancillary_data_is_too_odd(bytes: Vec<u8>, room in 0usize..100) {
        let _ = widen_control(&bytes);
        proptest::prop_assert!(narrow_control(&bytes, room).0.len() <= room);
    }
}

//! The filter of a view whose stack is a library.

use proptest::strategy::Strategy;

use super::*;
use crate::handlers::smol::{EXEMPT, TABLE};
use crate::handlers::table;

fn native(nr: i64, args: &[u64]) -> Fate {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    judge(&program(&table(true, false)).unwrap(), ARCH_NATIVE, nr as u32, all)
}

/// A pointer whose lower half is null.
const HIGH: u64 = 0x7f00_0000_0000;

#[test]
fn bytes_of_a_stream_are_not_trapped() {
    let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_PEEK | libc::MSG_WAITALL) as u64;
    for call in [libc::SYS_sendto, libc::SYS_recvfrom] {
        assert_eq!(native(call, &[3, 0x1000, 100, flags, 0, 0]), Fate::Allowed, "{call}");
        assert_eq!(native(call, &[3, 0x1000, 100, 0, HIGH, 16]), Fate::Trapped, "{call}");
        assert_eq!(native(call, &[3, 0x1000, 100, libc::MSG_OOB as u64, 0, 0]), Fate::Trapped, "{call}");
    }
    for flags in [libc::MSG_TRUNC, libc::MSG_ERRQUEUE, libc::MSG_TRUNC | libc::MSG_PEEK] {
        assert_eq!(native(libc::SYS_recvfrom, &[3, 0x1000, 100, flags as u64, 0, 0]), Fate::Trapped);
    }
    let open = libc::MSG_FASTOPEN as u64;
    assert_eq!(native(libc::SYS_sendto, &[3, 0x1000, 100, open, 0, 0]), Fate::Trapped);
    let calls = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_poll,
        libc::SYS_epoll_wait,
        libc::SYS_close,
        libc::SYS_sendfile,
        libc::SYS_splice,
        libc::SYS_dup,
        libc::SYS_fcntl,
    ];
    for call in calls {
        assert_eq!(native(call, &[3, HIGH, 100, 0, HIGH, 16]), Fate::Allowed, "{call}");
    }
}

#[test]
fn what_a_socket_of_another_kind_would_answer_otherwise_is_always_trapped() {
    let calls = [
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_listen,
        // Also without an address: the stack must know which connection was taken.
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_setsockopt,
        libc::SYS_getsockopt,
        libc::SYS_shutdown,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvmmsg,
    ];
    for call in calls {
        for length in [12, 16, 110] {
            assert_eq!(native(call, &[3, 0x1000, length, 0, 0, 0]), Fate::Trapped, "{call}");
        }
    }
}

#[test]
fn requests_of_sockets_are_trapped_and_those_of_files_are_not() {
    for (request, fate) in [
        (0x5411, Fate::Trapped),
        (0x8905, Fate::Trapped),
        (0x890b, Fate::Trapped),
        (0x8912, Fate::Trapped),
        (0x894b, Fate::Trapped),
        (0x89ff, Fate::Trapped),
        (0x8b01, Fate::Trapped),
        (0x8904, Fate::Allowed),
        (0x8901, Fate::Allowed),
        (0x5413, Fate::Allowed),
        (0x5421, Fate::Allowed),
        (0x541b, Fate::Allowed),
    ] {
        assert_eq!(native(libc::SYS_ioctl, &[1, request, 0x1000]), fate, "{request:#x}");
    }
    assert_eq!(native(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, 0]), Fate::Trapped);
    assert_eq!(native(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, 1]), Fate::Allowed);
    assert_eq!(native(libc::SYS_prctl, &[libc::PR_SET_NAME as u64, 0]), Fate::Allowed);
}

#[test]
fn memory_is_mapped_natively_but_for_what_may_be_a_ring() {
    let (shared, private, anonymous) =
        (libc::MAP_SHARED as u64, libc::MAP_PRIVATE as u64, libc::MAP_ANONYMOUS as u64);
    let map = |protection, flags, fd: i32| {
        native(libc::SYS_mmap, &[0, 4096, protection, flags, fd as u32 as u64, 0])
    };
    assert_eq!(map(3, shared, 4), Fate::Trapped);
    assert_eq!(map(1, shared | libc::MAP_LOCKED as u64, 4), Fate::Trapped);
    assert_eq!(map(3, private, 4), Fate::Allowed);
    assert_eq!(map(5, private, 4), Fate::Allowed);
    assert_eq!(map(3, private | anonymous, -1), Fate::Allowed);
    assert_eq!(map(3, shared | anonymous, -1), Fate::Allowed);
    assert_eq!(map(3, libc::MAP_SHARED_VALIDATE as u64, 4), Fate::Allowed, "how the supervisor has it made");
}

#[test]
fn a_marked_descriptor_is_exempt_and_nothing_else_is() {
    let marked = u64::from(EXEMPT) << 32 | 3;
    for row in TABLE.iter().filter(|row| row.native >= 0) {
        // Arguments with which every row is trapped.
        let args = match row.name {
            "ioctl" => [3, 0x8933, 0x1000, 0, 0, 0],
            "socket" | "socketpair" => [2, 1, 0, 0, 0, 0],
            "prctl" => [4, 0, 0, 0, 0, 0],
            "unshare" => [libc::CLONE_NEWNET as u64, 0, 0, 0, 0, 0],
            "mmap" => [3, 0x1000, 3, 1, 4, 0],
            _ => [3, 0x1000, 0x1000, 0, 0x1000, 0x1000],
        };
        assert_eq!(native(row.native, &args), Fate::Trapped, "{}", row.name);
        for (upper, exempt) in [(EXEMPT, true), (EXEMPT + 1, false), (1, false)] {
            let mut args = args;
            args[0] |= u64::from(upper) << 32;
            let fate = if exempt && row.asks.is_some() && row.descriptor() == 0 {
                Fate::Allowed
            } else {
                Fate::Trapped
            };
            assert_eq!(native(row.native, &args), fate, "{} {upper:#x}", row.name);
        }
    }
    assert_eq!(native(libc::SYS_io_uring_setup, &[marked, 0]), Fate::Fails(libc::EPERM));
    assert_eq!(native(libc::SYS_read, &[marked, 0]), Fate::Allowed);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn narrow_programs_are_judged_by_their_own_numbers() {
    let program = program(&table(true, false)).unwrap();
    let i386 = |nr, args| judge(&program, ARCH_I386, nr, args);
    let trapped = [361, 362, 363, 364, 365, 366, 367, 368, 370, 372, 373, 337, 345, 417];
    for nr in trapped {
        assert_eq!(i386(nr, [3, 0, 0, 0, 0, 0]), Fate::Trapped, "{nr}");
        // No register of theirs has an upper half: nothing is exempt.
        assert_eq!(i386(nr, [u64::from(EXEMPT) << 32 | 3, 0, 0, 0, 0, 0]), Fate::Trapped, "{nr}");
    }
    for nr in [369, 371, 172, 54, 3, 4] {
        assert_eq!(i386(nr, [3, 0, 0, 0, 0, 0]), Fate::Allowed, "{nr}");
    }
    for number in 0..25 {
        assert_eq!(i386(102, [number, 0x1000, 0, 0, 0, 0]), Fate::Trapped);
    }
}

proptest::proptest! {
    #[test]
    fn the_filter_is_the_table(
        row in 0..TABLE.len(),
        mut args in proptest::array::uniform6(proptest::prop_oneof![
            0..6u64,
            0x8900..0x8c00u64,
            proptest::prelude::Just(0x5411),
            proptest::prelude::any::<u32>().prop_map(u64::from),
            proptest::prelude::any::<u64>(),
        ]),
    ) {
        let program = program(&table(true, false)).unwrap();
        let row = &TABLE[row];
        if args[0] >> 32 == u64::from(EXEMPT) {
            args[0] = 3;
        }
        for (arch, number) in [(ARCH_NATIVE, row.native), (ARCH_I386, row.i386.unwrap_or(-1))] {
            let expected = if row.applies(&args) { Fate::Trapped } else { Fate::Allowed };
            if number >= 0 {
                proptest::prop_assert_eq!(judge(&program, arch, number as u32, args), expected, "{}", row.name);
            }
        }
    }
}

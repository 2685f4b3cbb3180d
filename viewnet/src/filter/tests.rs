//! The filter against the table, judged by an interpreter of classic BPF.

use super::*;
use crate::handlers::{Table, find, table};

mod smol;

/// What the kernel would do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Allowed,
    Trapped,
    Fails(i32),
    Other(u32),
}

/// Runs the program on a call; every path must end in a return within its length.
fn judge(program: &[sock_filter], arch: u32, nr: u32, args: [u64; 6]) -> Fate {
    let load = |offset: u32| match offset {
        NR => nr,
        ARCH => arch,
        _ => {
            let at = (offset as usize).checked_sub(16).expect("an argument");
            (args[at / 8] >> (8 * (at % 8))) as u32
        }
    };
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
        match u32::from(step.code) {
            c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => accumulator = load(step.k),
            c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= step.k,
            c if c == libc::BPF_JMP | libc::BPF_JA => at += step.k as usize,
            c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => at += jump(accumulator == step.k),
            c if c == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => at += jump(accumulator > step.k),
            c if c == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => at += jump(accumulator >= step.k),
            c if c == libc::BPF_RET | libc::BPF_K => {
                return match step.k {
                    libc::SECCOMP_RET_ALLOW => Fate::Allowed,
                    libc::SECCOMP_RET_USER_NOTIF => Fate::Trapped,
                    k if k & 0xffff_0000 == libc::SECCOMP_RET_ERRNO => Fate::Fails((k & 0xffff) as i32),
                    k => Fate::Other(k),
                };
            }
            code => panic!("instruction {code:#x} at {at}"),
        }
    }
}

fn native(nr: i64, args: &[u64]) -> Fate {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    judge(&program(&table(false, false)).unwrap(), ARCH_NATIVE, nr as u32, all)
}

fn family(domain: i32, protocol: i32) -> Fate {
    native(libc::SYS_socket, &[domain as u64, libc::SOCK_STREAM as u64, protocol as u64])
}

#[test]
fn sockets_of_a_network_are_trapped_others_are_not() {
    for domain in
        [libc::AF_INET, libc::AF_INET6, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_BLUETOOTH, 9999, -1]
    {
        assert_eq!(family(domain, 0), Fate::Trapped, "family {domain}");
    }
    assert_eq!(family(libc::AF_UNIX, 0), Fate::Allowed);
    assert_eq!(family(libc::AF_ALG, 0), Fate::Allowed);
    assert_eq!(family(libc::AF_NETLINK, libc::NETLINK_ROUTE), Fate::Trapped);
    assert_eq!(family(libc::AF_NETLINK, libc::NETLINK_SOCK_DIAG), Fate::Trapped);
    assert_eq!(family(libc::AF_NETLINK, libc::NETLINK_KOBJECT_UEVENT), Fate::Allowed);
}

#[test]
fn the_upper_half_of_an_argument_cannot_hide_a_family() {
    assert_eq!(native(libc::SYS_socket, &[0xdead_0000_0000_0002, 1, 0]), Fate::Trapped);
    assert_eq!(native(libc::SYS_socket, &[0x1_0000_0001, 1, 0]), Fate::Allowed);
}

#[test]
fn the_data_path_is_not_trapped() {
    let calls = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvmmsg,
        libc::SYS_poll,
        libc::SYS_epoll_wait,
        libc::SYS_close,
        libc::SYS_accept4,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_clone,
        libc::SYS_execve,
        libc::SYS_splice,
        libc::SYS_sendfile,
        libc::SYS_setsockopt,
        libc::SYS_getsockopt,
        libc::SYS_dup,
        libc::SYS_fcntl,
    ];
    for call in calls {
        assert_eq!(native(call, &[3, 0x7fff_0000, 100, 0, 0x7fff_1000, 16]), Fate::Allowed, "call {call}");
    }
}

#[test]
fn only_a_connect_that_may_be_to_a_unix_path_is_trapped() {
    for (length, fate) in
        [(16, Fate::Allowed), (28, Fate::Allowed), (12, Fate::Allowed), (110, Fate::Trapped)]
    {
        assert_eq!(native(libc::SYS_connect, &[3, 0x1000, length]), fate, "length {length}");
    }
}

#[test]
fn interface_requests_are_trapped_and_nothing_else_of_ioctl() {
    for (request, fate) in [
        (0x8933, Fate::Trapped),
        (0x8912, Fate::Trapped),
        (0x8946, Fate::Trapped),
        (0x89a0, Fate::Trapped),
        (0x89f1, Fate::Trapped),
        (0x89e0, Fate::Allowed),
        (0x894b, Fate::Allowed),
        (0x541b, Fate::Allowed),
        (0x5421, Fate::Allowed),
        (0x890b, Fate::Allowed),
        (0xc020_660b, Fate::Allowed),
    ] {
        assert_eq!(native(libc::SYS_ioctl, &[3, request, 0]), fate, "request {request:#x}");
    }
}

#[test]
fn leaving_the_network_namespace_is_seen() {
    let newnet = libc::CLONE_NEWNET as u64;
    assert_eq!(native(libc::SYS_unshare, &[newnet | libc::CLONE_NEWUSER as u64]), Fate::Trapped);
    assert_eq!(native(libc::SYS_unshare, &[libc::CLONE_NEWNS as u64]), Fate::Allowed);
    assert_eq!(native(libc::SYS_setns, &[3, 0]), Fate::Trapped);
}

#[test]
fn rings_are_refused_in_the_kernel() {
    assert_eq!(native(libc::SYS_io_uring_setup, &[8, 0x1000]), Fate::Fails(libc::EPERM));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn foreign_numbers_are_judged_or_refused() {
    let program = program(&table(false, false)).unwrap();
    let i386 = |nr, args| judge(&program, ARCH_I386, nr, args);
    assert_eq!(i386(359, [2, 1, 0, 0, 0, 0]), Fate::Trapped);
    assert_eq!(i386(359, [1, 1, 0, 0, 0, 0]), Fate::Allowed);
    assert_eq!(i386(102, [1, 0x1000, 0, 0, 0, 0]), Fate::Trapped);
    assert_eq!(i386(102, [9, 0x1000, 0, 0, 0, 0]), Fate::Allowed);
    assert_eq!(i386(425, [8, 0x1000, 0, 0, 0, 0]), Fate::Fails(libc::EPERM));
    assert_eq!(i386(4, [1, 0, 0, 0, 0, 0]), Fate::Allowed);
    // x32, and an architecture nobody has heard of.
    for nr in [41, 53, 42, 0] {
        assert_eq!(judge(&program, ARCH_NATIVE, X32_BIT | nr, [2, 1, 0, 0, 0, 0]), Fate::Fails(libc::ENOSYS));
    }
    assert_eq!(judge(&program, 0x1234, 41, [2, 1, 0, 0, 0, 0]), Fate::Fails(libc::ENOSYS));
}

#[test]
fn what_names_a_destination_is_trapped_for_rules_alone() {
    let judge_with = |steered, nr: i64, args| {
        judge(&program(&table(false, steered)).unwrap(), ARCH_NATIVE, nr as u32, args)
    };
    for (nr, args) in [
        (libc::SYS_bind, [3, 0x1000, 16, 0, 0, 0]),
        (libc::SYS_connect, [3, 0x1000, 16, 0, 0, 0]),
        (libc::SYS_sendto, [3, 0x1000, 1, 0, 0x2000, 16]),
        (libc::SYS_sendmsg, [3, 0x1000, 0, 0, 0, 0]),
        (libc::SYS_sendmmsg, [3, 0x1000, 2, 0, 0, 0]),
    ] {
        assert_eq!(
            (judge_with(false, nr, args), judge_with(true, nr, args)),
            (Fate::Allowed, Fate::Trapped),
            "{nr}"
        );
    }
    assert_eq!(judge_with(true, libc::SYS_sendto, [3, 0x1000, 1, 0, 0, 0]), Fate::Allowed, "send(2)");
}

#[test]
fn every_trapped_number_has_a_row() {
    for table in tables() {
        every_trapped_number_is_in(&table);
    }
}

fn tables() -> [Table; 3] {
    [table(false, false), table(false, true), table(true, false)]
}

fn every_trapped_number_is_in(table: &Table) {
    let program = program(table).unwrap();
    let samples = [[2, 1, 0, 0, 0, 0], [1, 0x8933, 110, 0, 0, 0], [u64::MAX; 6], [3, 0x1000, 9, 0, 0, 0]];
    for (abi, arch) in [(Abi::Native, ARCH_NATIVE), (Abi::I386, ARCH_I386)] {
        for nr in 0..600 {
            for args in samples {
                if judge(&program, arch, nr, args) == Fate::Trapped {
                    assert!(
                        find(table, abi, nr.into()).is_some(),
                        "{abi:?} {nr} is trapped and nobody answers"
                    );
                }
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn every_call_comes_to_an_end(arch: u32, nr: u32, args: [u64; 6]) {
        for table in tables() {
            let program = program(&table).unwrap();
            for arch in [arch, ARCH_NATIVE, ARCH_I386] {
                let fate = judge(&program, arch, nr, args);
                proptest::prop_assert!(!matches!(fate, Fate::Other(_)), "{fate:?}");
            }
        }
    }
}

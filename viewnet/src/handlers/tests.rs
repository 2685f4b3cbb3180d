//! The handlers, on a program that exists only here.

use super::*;
use crate::answer::Reply;
use crate::target::{BASE, Pretend};

/// A thread whose stack remembers what it was asked for.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(super) asked: Vec<SocketSpec>,
    pub(super) kind: Kind,
    left: bool,
    forgotten: bool,
}

impl Default for Thread {
    fn default() -> Self {
        Self { asked: Vec::new(), kind: Kind::Kernel, left: false, forgotten: false }
    }
}

impl Caller for Thread {
    fn stack(&mut self, _family: i32, _target: &mut dyn Target) -> Result<Option<Kind>, Errno> {
        Ok(if self.left { None } else { Some(self.kind) })
    }

    fn socket(&mut self, spec: SocketSpec, _target: &mut dyn Target) -> Result<OwnedFd, Errno> {
        self.asked.push(spec);
        Ok(std::fs::File::open("/dev/null").unwrap().into())
    }

    fn is_on_host(&mut self, _target: &mut dyn Target) -> Result<bool, Errno> {
        Ok(false)
    }

    fn identity(&mut self, target: &mut dyn Target) -> Result<Who, Errno> {
        let seen = target.inspect()?;
        Ok(Who { pid: seen.pid, uid: seen.euid, fd: -1, rights: seen.has_rights(1000) })
    }

    fn forget(&mut self) {
        self.forgotten = true;
    }

    fn owner(&self) -> u32 {
        1000
    }

    fn control(&mut self) -> Result<OwnedFd, Errno> {
        Ok(std::fs::File::open("/dev/null").unwrap().into())
    }
}

fn call(name: &str, abi: Abi, args: &[u64], target: &mut Pretend, thread: &mut Thread) -> Answer {
    let row = TABLE.iter().find(|row| row.name == name).unwrap();
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    (row.handler)(&mut Call { abi, args: all, target, caller: thread })
}

fn socket_of(domain: i32, kind: i32, target: &mut Pretend, thread: &mut Thread) -> Answer {
    call("socket", Abi::Native, &[domain as u64, kind as u64, 0], target, thread)
}

#[test]
fn a_socket_comes_from_the_stack_with_the_flags_asked_for() {
    let (mut target, mut thread) = (Pretend::default(), Thread::default());
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let answer = socket_of(libc::AF_INET, kind, &mut target, &mut thread);
    assert!(matches!(answer, Ok(Reply::Descriptor { cloexec: true, .. })));
    assert_eq!(thread.asked, [SocketSpec { domain: libc::AF_INET, kind, protocol: 0 }]);
}

#[test]
fn families_past_the_view_are_refused() {
    let (mut target, mut thread) = (Pretend::default(), Thread::default());
    for domain in [libc::AF_VSOCK, libc::AF_BLUETOOTH, libc::AF_TIPC, 77, -1] {
        let answer = socket_of(domain, libc::SOCK_STREAM, &mut target, &mut thread);
        assert_eq!(answer.unwrap_err(), Stop::Fail(Errno::EAFNOSUPPORT), "family {domain}");
    }
}

#[test]
fn raw_sockets_need_the_rights_of_the_stacks_owner() {
    for (euid, net_raw, home_user, given) in [
        (1000, false, true, true),
        (1001, false, true, false),
        (0, true, true, false),
        (1000, false, false, false),
    ] {
        let (mut target, mut thread) = (Pretend::default(), Thread::default());
        target.inspection.euid = euid;
        target.inspection.net_raw = net_raw;
        target.inspection.home_user = home_user;
        for (domain, kind) in [(libc::AF_INET, libc::SOCK_RAW), (libc::AF_PACKET, libc::SOCK_DGRAM)] {
            let answer = socket_of(domain, kind, &mut target, &mut thread);
            assert_eq!(answer.is_ok(), given, "euid {euid} {answer:?}");
        }
        assert!(socket_of(libc::AF_INET, libc::SOCK_DGRAM, &mut target, &mut thread).is_ok());
    }
}

#[test]
fn whoever_left_the_network_gets_its_own() {
    let (mut target, mut thread) = (Pretend::default(), Thread { left: true, ..Thread::default() });
    assert_eq!(socket_of(libc::AF_INET, 1, &mut target, &mut thread).unwrap_err(), Stop::Native);
    assert_eq!(socket_of(libc::AF_PACKET, 3, &mut target, &mut thread).unwrap_err(), Stop::Native);
    assert_eq!(call("unshare", Abi::Native, &[0], &mut target, &mut thread).unwrap_err(), Stop::Native);
    assert!(thread.forgotten);
}

fn sockaddr_un(path: &str) -> Vec<u8> {
    let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    bytes.extend(path.as_bytes());
    bytes.resize(110, 0);
    bytes
}

#[test]
fn a_host_resolver_refuses_the_rest_is_the_kernels() {
    let (mut target, mut thread) = (Pretend::default(), Thread::default());
    target.memory = sockaddr_un("/run/nscd/socket");
    let refused = Stop::Fail(Errno::ECONNREFUSED);
    assert_eq!(call("connect", Abi::Native, &[3, BASE, 110], &mut target, &mut thread).unwrap_err(), refused);
    target.memory = sockaddr_un("/run/user/1000/bus");
    for (address, length) in
        [(BASE, 110), (BASE, 20), (0, 110), (BASE + 50, 110), (BASE, 1), (BASE, u64::MAX)]
    {
        let answer = call("connect", Abi::Native, &[3, address, length], &mut target, &mut thread);
        assert_eq!(answer.unwrap_err(), Stop::Native, "{address:#x} {length}");
    }
}

#[test]
fn socketcall_reads_its_arguments_once() {
    let (mut target, mut thread) = (Pretend::default(), Thread::default());
    target.memory = [libc::AF_INET, libc::SOCK_DGRAM, 17].iter().flat_map(|n| n.to_ne_bytes()).collect();
    assert!(call("socketcall", Abi::I386, &[1, BASE], &mut target, &mut thread).is_ok());
    let expected = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_DGRAM, protocol: 17 };
    assert_eq!(thread.asked, [expected]);
    // AF_UNIX too, for the kernel would read the family again.
    target.memory[..4].copy_from_slice(&libc::AF_UNIX.to_ne_bytes());
    assert!(call("socketcall", Abi::I386, &[1, BASE], &mut target, &mut thread).is_ok());
    let fault = call("socketcall", Abi::I386, &[1, BASE + 4], &mut target, &mut thread);
    assert_eq!(fault.unwrap_err(), Stop::Fail(Errno::EFAULT));
}

#[test]
fn interface_requests_on_other_sockets_are_the_kernels() {
    let (mut target, mut thread) = (Pretend::default(), Thread::default());
    target.sockets = vec![libc::AF_INET, libc::AF_UNIX];
    for fd in [0, 7] {
        let answer = call("ioctl", Abi::Native, &[fd, 0x8933, BASE], &mut target, &mut thread);
        assert_eq!(answer.unwrap_err(), Stop::Native);
    }
    // On a Unix socket, a bad pointer is a fault, and to change something needs rights.
    let mut ask = |request, address| {
        call("ioctl", Abi::Native, &[1, request, address], &mut target, &mut thread).unwrap_err()
    };
    assert_eq!(ask(0x8933, 0x10), Stop::Fail(Errno::EFAULT));
    assert_eq!(ask(0x8914, 0x10), Stop::Fail(Errno::EFAULT));
    target.memory = vec![0; 40];
    target.inspection.euid = 1001;
    let mut ask =
        |request| call("ioctl", Abi::Native, &[1, request, BASE], &mut target, &mut thread).unwrap_err();
    assert_eq!(ask(0x8914), Stop::Fail(Errno::EPERM));
    assert_eq!(ask(0x8b01), Stop::Fail(Errno::ENOTTY));
    let wireless = call("ioctl", Abi::I386, &[1, 0x8b01, BASE], &mut target, &mut thread);
    assert_eq!(wireless.unwrap_err(), Stop::Fail(Errno::EINVAL));
}

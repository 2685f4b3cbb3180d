//! Trials: calls that change or end the process that makes them, so a child makes them.
//!
//! `doctor` asks here what it cannot read from a file. A trial runs in a forked child; what it made
//! (namespaces, filters) ends with it. Between fork and exit the child makes system calls and small
//! allocations, takes no lock of ours, and never returns into the parent's code.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    /// Every call succeeded.
    Works,
    /// A call failed.
    Refused(Errno),
    /// The child was killed: a filter above us, or an instruction the kernel does not know.
    Killed(Signal),
    /// No child could be made, or none could be waited for.
    NotMade(Errno),
}

/// Runs `trial` in a child process; its error travels back as the child's exit status.
pub(crate) fn in_child(trial: impl FnOnce() -> Result<(), Errno>) -> Trial {
    // SAFETY: the child runs `trial`, which takes no lock, and leaves by _exit(2).
    let child = match unsafe { fork() } {
        Err(errno) => return Trial::NotMade(errno),
        Ok(ForkResult::Parent { child }) => child,
        Ok(ForkResult::Child) => {
            let status = match catch_unwind(AssertUnwindSafe(trial)) {
                Ok(Ok(())) => 0,
                Ok(Err(errno)) => errno as i32,
                Err(_) => Errno::ENOTRECOVERABLE as i32,
            };
            // SAFETY: ends this process at once; no destructor of the parent's runs twice.
            unsafe { libc::_exit(status) }
        }
    };
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => return Trial::Works,
            Ok(WaitStatus::Exited(_, status)) => return Trial::Refused(Errno::from_raw(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Trial::Killed(signal),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Trial::NotMade(errno),
        }
    }
}

/// Does the kernel know this filter action? seccomp(2), SECCOMP_GET_ACTION_AVAIL.
pub(crate) fn action_avail(action: u32) -> Result<(), Errno> {
    // SAFETY: the kernel reads four bytes from `action`, which outlives the call.
    let rc =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    Errno::result(rc).map(drop)
}

/// Does the kernel tell the sizes of its notification structures? seccomp(2), SECCOMP_GET_NOTIF_SIZES.
pub(crate) fn notif_sizes() -> Result<libc::seccomp_notif_sizes, Errno> {
    let mut sizes = libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    // SAFETY: the kernel writes one `seccomp_notif_sizes` into `sizes`, which outlives the call.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, &raw mut sizes) };
    Errno::result(rc).map(|_| sizes)
}

/// Installs a filter that allows everything and has a listener. It cannot be taken off again: for a child.
pub(crate) fn allow_all_with_listener(flags: libc::c_ulong) -> Result<OwnedFd, Errno> {
    const ALLOW: libc::sock_filter = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let mut program = [ALLOW];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    let flags = flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the kernel copies one `sock_fprog` and the one instruction it points to; both outlive the call.
    let rc =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let fd = Errno::result(rc)?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// getpid(2) as a 32-bit program calls it. A kernel without the i386 ABI ends the child: [`Trial::Killed`].
#[cfg(target_arch = "x86_64")]
pub(crate) fn int80_getpid() -> Result<(), Errno> {
    const I386_GETPID: i64 = 20;
    let mut rax = I386_GETPID;
    // SAFETY: getpid takes no argument and touches no memory; the registers that old kernels clobber are
    // named. Without the ABI the processor raises a fault that ends this process, which is a trial's child.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") rax,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
    if rax > 0 { Ok(()) } else { Err(Errno::from_raw((-rax) as i32)) }
}

/// getpid(2) in the x32 ABI: the 64-bit entry with bit 30 set in the number.
#[cfg(target_arch = "x86_64")]
pub(crate) fn x32_getpid() -> Result<(), Errno> {
    const X32_BIT: libc::c_long = 0x4000_0000;
    // SAFETY: getpid takes no argument and touches no memory.
    let rc = unsafe { libc::syscall(X32_BIT | libc::SYS_getpid) };
    Errno::result(rc).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_tells_how_it_ended() {
        assert_eq!(in_child(|| Ok(())), Trial::Works);
        assert_eq!(in_child(|| Err(Errno::EUSERS)), Trial::Refused(Errno::EUSERS));
        let killed = in_child(|| nix::sys::signal::raise(Signal::SIGKILL));
        assert_eq!(killed, Trial::Killed(Signal::SIGKILL));
    }

    #[test]
    fn this_kernel_knows_allow_and_no_nonsense() {
        assert_eq!(action_avail(libc::SECCOMP_RET_ALLOW), Ok(()));
        assert!(action_avail(0x1234_5678).is_err());
    }
}

//! ptrace(2) of one thread: to have it make calls in the middle of one that it makes itself.
//!
//! What is particular to a machine is in [`Registers`]: a system call's number and arguments (syscall(2)), where the
//! thread stands after it, and how long the instruction is.

use std::os::raw::c_void;

use nix::errno::Errno;

/// PTRACE_EVENT_STOP, linux/ptrace.h.
const EVENT_STOP: i32 = 128;
/// A stop at a system call, with PTRACE_O_TRACESYSGOOD.
const SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;
/// The general registers (NT_PRSTATUS, linux/elf.h).
const GENERAL: usize = 1;
/// sizeof(sigset_t) in the kernel.
const MASK_LEN: usize = 8;

/// Why a thread does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was told to, or its process is stopped.
    Told,
    /// At the beginning or the end of a system call.
    Call,
    /// A signal is about to be delivered.
    Signal(i32),
    /// It has ended.
    Ended,
}

fn request(number: u32, tid: i32, address: usize, data: *mut c_void) -> Result<(), Errno> {
    // SAFETY: the callers pass what `number` reads or writes, alive for the call, or plain numbers.
    let done = unsafe { libc::ptrace(number as _, tid, address as *mut c_void, data) };
    Errno::result(done).map(drop)
}

/// Becomes a thread's tracer, which does not stop it. EPERM: it has one, or is not ours to trace.
pub(crate) fn seize(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SEIZE, tid, 0, libc::PTRACE_O_TRACESYSGOOD as *mut c_void)
}

/// Tells it to stop.
pub(crate) fn interrupt(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, tid, 0, std::ptr::null_mut())
}

/// Lets a stopped thread go on to the beginning or the end of a system call.
pub(crate) fn go_on(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SYSCALL, tid, 0, std::ptr::null_mut())
}

/// Lets a stopped thread go for good, with a signal if it is not 0.
pub(crate) fn let_go(tid: i32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize as *mut c_void)
}

/// The signals that a stopped thread blocks.
pub(crate) fn blocked(tid: i32) -> Result<u64, Errno> {
    let mut mask = 0u64;
    request(libc::PTRACE_GETSIGMASK as _, tid, MASK_LEN, (&raw mut mask).cast()).map(|()| mask)
}

/// Has it block these.
pub(crate) fn block(tid: i32, mut mask: u64) -> Result<(), Errno> {
    request(libc::PTRACE_SETSIGMASK as _, tid, MASK_LEN, (&raw mut mask).cast())
}

/// Whether a traced thread has stopped, or ended. Its end is left for its parent to see, if that is us.
pub(crate) fn poll(tid: i32) -> Result<Option<Stop>, Errno> {
    let news = |flags: i32| {
        // SAFETY: all-zero is a valid siginfo_t, which the kernel writes.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = flags | libc::WNOHANG | libc::__WALL;
        // SAFETY: as above.
        Errno::result(unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &raw mut info, flags) })?;
        // SAFETY: waitid(2) fills these, or leaves them 0.
        Ok::<_, Errno>((info.si_code, unsafe { info.si_status() }))
    };
    match news(libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT)? {
        (0, _) => Ok(None),
        (libc::CLD_TRAPPED, status) => {
            news(libc::WSTOPPED)?;
            Ok(Some(match (status & 0xff, status >> 8) {
                (_, EVENT_STOP) => Stop::Told,
                (SYSTEM_CALL, _) => Stop::Call,
                (signal, _) => Stop::Signal(signal),
            }))
        }
        _ => {
            if !is_child(tid) {
                // Only then does its own parent hear of it.
                news(libc::WEXITED)?;
            }
            Ok(Some(Stop::Ended))
        }
    }
}

/// Whether it is a child of this process.
fn is_child(tid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
    field("PPid:") == Some(std::process::id()) && field("Tgid:") == u32::try_from(tid).ok()
}

/// The registers of a stopped thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registers(libc::user_regs_struct);

impl Registers {
    /// Those of a thread.
    pub(crate) fn of(tid: i32) -> Result<Self, Errno> {
        // SAFETY: all-zero is a valid struct of numbers.
        let mut registers = Self(unsafe { std::mem::zeroed() });
        let mut piece = registers.piece();
        request(libc::PTRACE_GETREGSET, tid, GENERAL, (&raw mut piece).cast()).map(|()| registers)
    }

    /// Gives them to a thread.
    pub(crate) fn give(mut self, tid: i32) -> Result<(), Errno> {
        let mut piece = self.piece();
        request(libc::PTRACE_SETREGSET, tid, GENERAL, (&raw mut piece).cast())
    }

    fn piece(&mut self) -> libc::iovec {
        libc::iovec { iov_base: (&raw mut self.0).cast(), iov_len: size_of::<libc::user_regs_struct>() }
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// Whether the thread comes from this call, right behind its instruction.
    pub(crate) fn is_in(&self, number: i64, args: &[u64; 6]) -> bool {
        let Self(r) = self;
        r.orig_rax as i64 == number && [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] == *args
    }

    /// The same, about to make another call by the same instruction.
    pub(crate) fn before(self, number: i64, args: [u64; 6]) -> Self {
        let Self(mut r) = self;
        // `syscall` has two bytes. There is no call that the kernel could begin anew.
        (r.rip, r.rax, r.orig_rax) = (r.rip - 2, number as u64, u64::MAX);
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args;
        Self(r)
    }

    /// The same, with a call's result.
    pub(crate) fn after(self, result: i64) -> Self {
        let Self(mut r) = self;
        (r.rax, r.orig_rax) = (result as u64, u64::MAX);
        Self(r)
    }

    /// The result of a call that has ended.
    pub(crate) fn result(&self) -> i64 {
        self.0.rax as i64
    }
}

/// Here the kernel may have gone back to the instruction before the thread stopped, to begin the call anew, and then
/// the first argument is in its register again (arch/arm64/kernel/signal.c, do_signal).
#[cfg(target_arch = "aarch64")]
impl Registers {
    /// Whether the thread comes from this call, right behind its instruction or right before it.
    pub(crate) fn is_in(&self, number: i64, args: &[u64; 6]) -> bool {
        self.0.regs[8] as i64 == number && self.0.regs[1..6] == args[1..]
    }

    /// The same, about to make another call by the same instruction.
    pub(crate) fn before(self, number: i64, args: [u64; 6]) -> Self {
        let Self(mut r) = self;
        // `svc` has four bytes.
        if (r.regs[0] as i64) < 0 {
            r.pc -= 4;
        }
        r.regs[8] = number as u64;
        r.regs[..6].copy_from_slice(&args);
        Self(r)
    }

    /// The same, with a call's result.
    pub(crate) fn after(self, result: i64) -> Self {
        let Self(mut r) = self;
        if r.regs[0] as i64 >= 0 {
            r.pc += 4;
        }
        r.regs[0] = result as u64;
        Self(r)
    }

    /// The result of a call that has ended.
    pub(crate) fn result(&self) -> i64 {
        self.0.regs[0] as i64
    }
}

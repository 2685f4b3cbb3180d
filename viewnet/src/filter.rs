//! The BPF program of a view, built from the table of calls.
//!
//! # Theory of operation
//! seccompiler compiles the conditions; it has no user-notify action, so it is told to trace with a number
//! nobody uses and that return value is replaced. It checks one architecture only and kills others; here
//! foreign numbers must be judged too, so its prologue is replaced by this layout:
//! ```text
//! ld arch; native? -> ld nr; x32 bit? -> ENOSYS; refused? -> errno; native table
//!          i386?   -> ld nr;                     refused? -> errno; i386 table
//!          other   -> ENOSYS
//! ```
//! Most calls have numbers that no condition mentions: the kernel finds out once that the program allows
//! them whatever their arguments and keeps that in a bitmap (seccomp_cache_prepare), which is why the
//! length of the program does not matter to them.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use crate::handlers::{ARCH_I386, Abi, Cond, REFUSED, Row, TABLE};

/// Stands for "notify" until it is replaced; ptrace sees it never.
const MARK: u32 = 0x6e77;
/// The bit that marks a call of the x32 ABI in its number (arch/x86/include/uapi/asm/unistd.h).
const X32_BIT: u32 = 0x4000_0000;
/// Instructions of seccompiler's prologue: load the architecture, compare, kill.
const PROLOGUE: usize = 3;
/// Offsets into struct seccomp_data.
const NR: u32 = 0;
const ARCH: u32 = 4;

#[cfg(target_arch = "x86_64")]
const NATIVE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "x86_64")]
const ARCH_NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "aarch64")]
const ARCH_NATIVE: u32 = 0xc000_00b7;

/// The whole program.
pub(crate) fn program() -> Result<BpfProgram, seccompiler::Error> {
    let native = section(Abi::Native)?;
    let i386 = if cfg!(target_arch = "x86_64") { section(Abi::I386)? } else { Vec::new() };
    let mut program = vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, ARCH),
        jump_unless_equal(ARCH_NATIVE, native.len() as u8),
    ];
    // A conditional jump reaches 255 instructions; a longer section is jumped over by the long form.
    assert!(native.len() <= usize::from(u8::MAX), "the filter's native section has grown too long");
    program.extend(native);
    if !i386.is_empty() {
        assert!(i386.len() <= usize::from(u8::MAX), "the filter's i386 section has grown too long");
        program.push(jump_unless_equal(ARCH_I386, i386.len() as u8));
        program.extend(i386);
    }
    program.push(fail_with(libc::ENOSYS));
    Ok(program)
}

/// What happens to the calls of one ABI; every path through it returns.
fn section(abi: Abi) -> Result<BpfProgram, seccompiler::Error> {
    let mut section = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NR)];
    if abi == Abi::Native && cfg!(target_arch = "x86_64") {
        section.push(sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: X32_BIT,
        });
        section.push(fail_with(libc::ENOSYS));
    }
    for refused in REFUSED {
        let number = if abi == Abi::Native { Some(refused.native) } else { refused.i386 };
        if let Some(number) = number {
            section.push(jump_unless_equal(number as u32, 1));
            section.push(fail_with(refused.errno as i32));
        }
    }
    let rules: BTreeMap<i64, Vec<SeccompRule>> = TABLE
        .iter()
        .filter_map(|row| {
            let number = if abi == Abi::Native { Some(row.native).filter(|nr| *nr >= 0) } else { row.i386 };
            number.map(|number| (row, number))
        })
        .map(|(row, number)| Ok((number, rules_of(row)?)))
        .collect::<Result<_, seccompiler::BackendError>>()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trace(MARK), NATIVE)?;
    let compiled: BpfProgram = filter.try_into()?;
    section.extend(compiled.into_iter().skip(PROLOGUE).map(notify_where_marked));
    Ok(section)
}

fn rules_of(row: &Row) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    row.when
        .iter()
        .map(|all| SeccompRule::new(all.iter().map(conditions).collect::<Result<Vec<_>, _>>()?.concat()))
        .collect()
}

fn conditions(cond: &Cond) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let one = |arg, op, value: u32| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, u64::from(value));
    Ok(match *cond {
        Cond::Is(arg, value) => vec![one(arg, SeccompCmpOp::Eq, value)?],
        Cond::Not(arg, value) => vec![one(arg, SeccompCmpOp::Ne, value)?],
        Cond::Between(arg, low, high) => {
            vec![one(arg, SeccompCmpOp::Ge, low)?, one(arg, SeccompCmpOp::Le, high)?]
        }
        Cond::Has(arg, bits) => vec![one(arg, SeccompCmpOp::MaskedEq(u64::from(bits)), bits)?],
    })
}

fn notify_where_marked(mut instruction: sock_filter) -> sock_filter {
    let returns = instruction.code == (libc::BPF_RET | libc::BPF_K) as u16;
    if returns && instruction.k == libc::SECCOMP_RET_TRACE | MARK {
        instruction.k = libc::SECCOMP_RET_USER_NOTIF;
    }
    instruction
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump_unless_equal(value: u32, skip: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: skip, k: value }
}

fn fail_with(errno: i32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32)
}

#[cfg(test)]
mod tests;

//! The BPF program of a view, built from the table of calls.
//!
//! # Theory of operation
//! seccompiler compiles the conditions; it has no user-notify action, so it is told to trace with a number
//! nobody uses and that return value is replaced. It checks one architecture only and kills others; here
//! foreign numbers must be judged too, so its prologue is replaced by this layout:
//! ```text
//! ld arch; native? -> ld nr; x32 bit? -> ENOSYS; refused? -> errno; exempt? -> allow; native table
//!          i386?   -> ld nr;                     refused? -> errno;                   i386 table
//!          other   -> ENOSYS
//! ```
//! Exempt are calls on a descriptor whose number has [`EXEMPT`] in its upper half, in the tables that have any:
//! a library in the program can so reach the kernel. Only their numbers lead to that test.
//!
//! Most calls have numbers that no condition mentions: the kernel finds out once that the program allows
//! them whatever their arguments and keeps that in a bitmap (seccomp_cache_prepare), which is why the
//! length of the program does not matter to them.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use crate::handlers::smol::EXEMPT;
use crate::handlers::{ARCH_I386, Abi, Cond, REFUSED, Row};

/// Stands for "notify" until it is replaced; ptrace sees it never.
const MARK: u32 = 0x6e77;
/// The bit that marks a call of the x32 ABI in its number (arch/x86/include/uapi/asm/unistd.h).
const X32_BIT: u32 = 0x4000_0000;
/// Instructions of seccompiler's prologue: load the architecture, compare, kill.
const PROLOGUE: usize = 3;
/// Offsets into struct seccomp_data; of the first argument, the half that a descriptor leaves free.
const NR: u32 = 0;
const ARCH: u32 = 4;
const UPPER: u32 = if cfg!(target_endian = "little") { 20 } else { 16 };

#[cfg(target_arch = "x86_64")]
const NATIVE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "x86_64")]
const ARCH_NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "aarch64")]
const ARCH_NATIVE: u32 = 0xc000_00b7;

/// The whole program for the calls of `table`.
pub(crate) fn program(table: &[&Row]) -> Result<BpfProgram, seccompiler::Error> {
    let native = section(table, Abi::Native)?;
    let i386 = if cfg!(target_arch = "x86_64") { section(table, Abi::I386)? } else { Vec::new() };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, ARCH)];
    for (arch, section) in
        [(ARCH_NATIVE, native), (ARCH_I386, i386)].into_iter().filter(|(_, s)| !s.is_empty())
    {
        // A conditional jump reaches 255 instructions, the long form any.
        program.push(jump_if_equal(arch, 1));
        program.push(statement(libc::BPF_JMP | libc::BPF_JA, section.len() as u32));
        program.extend(section);
    }
    program.push(fail_with(libc::ENOSYS));
    Ok(program)
}

/// What happens to the calls of one ABI; every path through it returns.
fn section(table: &[&Row], abi: Abi) -> Result<BpfProgram, seccompiler::Error> {
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
    let rows = || {
        table.iter().filter_map(|row| {
            let number = if abi == Abi::Native { Some(row.native).filter(|nr| *nr >= 0) } else { row.i386 };
            number.map(|number| (*row, number))
        })
    };
    if abi == Abi::Native {
        let on_descriptors: Vec<_> =
            rows().filter(|(row, _)| row.can_be_exempt()).map(|(_, nr)| nr).collect();
        section.extend(exemption(&on_descriptors));
    }
    let rules: BTreeMap<i64, Vec<SeccompRule>> = rows()
        .map(|(row, number)| Ok((number, rules_of(row)?)))
        .collect::<Result<_, seccompiler::BackendError>>()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trace(MARK), NATIVE)?;
    let compiled: BpfProgram = filter.try_into()?;
    section.extend(compiled.into_iter().skip(PROLOGUE).map(notify_where_marked));
    Ok(section)
}

/// Allows calls of these numbers on a descriptor marked as exempt. Clobbers the number in the accumulator, which
/// what follows loads again.
fn exemption(numbers: &[i64]) -> BpfProgram {
    let mut program: BpfProgram = (0..numbers.len())
        .rev()
        .zip(numbers)
        .map(|(behind, nr)| jump_if_equal(*nr as u32, behind as u8 + 1))
        .collect();
    if !program.is_empty() {
        program.push(statement(libc::BPF_JMP | libc::BPF_JA, 3));
        program.push(statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, UPPER));
        program.push(jump_unless_equal(EXEMPT, 1));
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    }
    program
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
        Cond::Masked(arg, mask, bits) => vec![one(arg, SeccompCmpOp::MaskedEq(u64::from(mask)), bits)?],
        Cond::Has(arg, bits) => vec![one(arg, SeccompCmpOp::MaskedEq(u64::from(bits)), bits)?],
        Cond::Given(arg) => vec![SeccompCondition::new(arg, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?],
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

fn jump_if_equal(value: u32, skip: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: skip, jf: 0, k: value }
}

fn fail_with(errno: i32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32)
}

#[cfg(test)]
mod tests;

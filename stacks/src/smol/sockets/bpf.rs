//! Classic BPF: the filters of SO_ATTACH_FILTER.
//!
//! # Theory of operation
//! A [`Program`] is checked once (known instructions, jumps forwards and inside, a return at the end, no
//! division by a constant zero: net/core/filter.c, bpf_check_classic) and then run on packets: each run ends,
//! since nothing jumps back. A load outside the packet ends it with 0, which refuses the packet; else the
//! result is how many bytes of it are wanted. Loads at negative offsets ask for other things than bytes
//! (linux/filter.h, SKF_*).
//!
//! Read: McCanne and Jacobson, The BSD Packet Filter (1993); Documentation/networking/filter.rst.

use nix::errno::Errno;

/// BPF_MAXINSNS
pub(crate) const MAX_INSTRUCTIONS: usize = 4096;
/// Bytes of an instruction (struct sock_filter).
const INSTRUCTION: usize = 8;
/// Words of scratch memory (BPF_MEMWORDS).
const MEMORY: usize = 16;
/// SKF_AD_OFF, SKF_NET_OFF, SKF_LL_OFF
const AD_OFF: i32 = -0x1000;
const NET_OFF: i32 = -0x10_0000;
const LL_OFF: i32 = -0x20_0000;

/// An instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// A checked filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program(Box<[Instruction]>);

/// A packet as a filter sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct View<'a> {
    /// From where the socket's kind begins to look.
    pub(crate) data: &'a [u8],
    /// The network layer's header on, in two pieces.
    pub(crate) network: (&'a [u8], &'a [u8]),
    /// The link layer's header on.
    pub(crate) link: &'a [u8],
    /// ETH_P_*
    pub(crate) protocol: u16,
    /// PACKET_HOST …
    pub(crate) kind: u8,
    /// Interface.
    pub(crate) index: u32,
    /// Tag control information.
    pub(crate) tag: Option<u16>,
    /// For SKF_AD_RANDOM.
    pub(crate) random: u32,
}

impl Program {
    /// Checks the instructions of a `struct sock_fprog`. EINVAL.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, Errno> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(INSTRUCTION) {
            return Err(Errno::EINVAL);
        }
        if bytes.len() / INSTRUCTION > MAX_INSTRUCTIONS {
            return Err(Errno::EINVAL);
        }
        let parse = |b: &[u8]| Instruction {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        let program: Box<[_]> = bytes.chunks_exact(INSTRUCTION).map(parse).collect();
        for (at, instruction) in program.iter().enumerate() {
            if !instruction.is_sound(program.len() - at - 1) {
                return Err(Errno::EINVAL);
            }
        }
        match program.last() {
            Some(last) if last.code == 0x06 || last.code == 0x16 => Ok(Self(program)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The program again (SO_GET_FILTER).
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let emit = |i: &Instruction| {
            let (code, k) = (i.code.to_ne_bytes(), i.k.to_ne_bytes());
            [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
        };
        self.0.iter().flat_map(emit).collect()
    }

    /// How many bytes of the packet are wanted; 0: it is not.
    pub(crate) fn run(&self, view: &View<'_>) -> u32 {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY]);
        let mut at = 0;
        while let Some(&Instruction { code, jt, jf, k }) = self.0.get(at) {
            at += 1;
            let class = code & 7;
            let operand = if code & 8 != 0 { x } else { k };
            match class {
                0 | 1 => {
                    let Some(value) = load(view, code, k, x, &memory) else { return 0 };
                    if class == 0 { a = value } else { x = value }
                }
                2 => memory[k as usize % MEMORY] = a,
                3 => memory[k as usize % MEMORY] = x,
                4 => match compute(code & 0xf0, a, operand) {
                    Some(value) => a = value,
                    None => return 0,
                },
                5 => {
                    let jump = match code & 0xf0 {
                        0x00 => k as usize,
                        0x10 => usize::from(if a == operand { jt } else { jf }),
                        0x20 => usize::from(if a > operand { jt } else { jf }),
                        0x30 => usize::from(if a >= operand { jt } else { jf }),
                        _ => usize::from(if a & operand != 0 { jt } else { jf }),
                    };
                    at += jump;
                }
                6 => return if code & 0x18 == 0x10 { a } else { k },
                _ => {
                    if code == 0x07 {
                        x = a
                    } else {
                        a = x
                    }
                }
            }
        }
        0
    }
}

impl Instruction {
    /// Whether it is known and does no harm with `behind` instructions after it (chk_code_allowed).
    fn is_sound(&self, behind: usize) -> bool {
        let memory = (self.k as usize) < MEMORY;
        let jumps = usize::from(self.jt) < behind && usize::from(self.jf) < behind;
        match self.code {
            // ADD SUB MUL OR AND XOR by K and X; NEG; DIV and MOD by X.
            0x04 | 0x0c | 0x14 | 0x1c | 0x24 | 0x2c | 0x44 | 0x4c | 0x54 | 0x5c | 0xa4 | 0xac => true,
            0x84 | 0x3c | 0x9c | 0x6c | 0x7c => true,
            0x34 | 0x94 => self.k != 0,
            0x64 | 0x74 => self.k < 32,
            // LD W|H|B ABS|IND, W LEN, IMM; LDX MSH, W LEN, IMM.
            0x20 | 0x28 | 0x30 => self.loads_something(),
            0x40 | 0x48 | 0x50 | 0x80 | 0x00 | 0xb1 | 0x81 | 0x01 => true,
            // LD MEM, LDX MEM, ST, STX.
            0x60 | 0x61 | 0x02 | 0x03 => memory,
            // RET K, RET A, TAX, TXA.
            0x06 | 0x16 | 0x07 | 0x87 => true,
            0x05 => (self.k as usize) < behind,
            0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d => jumps,
            _ => false,
        }
    }

    /// Among the offsets of what is no byte, only those that mean something.
    fn loads_something(&self) -> bool {
        let ancillary = (self.k as i32).wrapping_sub(AD_OFF);
        !(0..0x1000).contains(&ancillary) || ancillary < 64
    }
}

fn compute(operation: u16, a: u32, b: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a.wrapping_shl(b),
        0x70 => a.wrapping_shr(b),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(b)?,
        _ => a ^ b,
    })
}

fn load(view: &View<'_>, code: u16, k: u32, x: u32, memory: &[u32; MEMORY]) -> Option<u32> {
    let size = match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        _ => 1,
    };
    match code & 0xe0 {
        0x00 => Some(k),
        0x20 => fetch(view, k as i32, size),
        0x40 => fetch(view, x.wrapping_add(k) as i32, size),
        0x60 => Some(memory[k as usize % MEMORY]),
        0x80 => Some(view.data.len() as u32),
        _ => fetch(view, k as i32, 1).map(|byte| (byte & 0xf) << 2),
    }
}

/// Bytes of the packet, or what negative offsets stand for.
fn fetch(view: &View<'_>, at: i32, size: usize) -> Option<u32> {
    let value = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    let slice = |bytes: &[u8], at: usize| bytes.get(at..at + size).map(value);
    match at {
        0.. => slice(view.data, at as usize),
        AD_OFF.. => ancillary(view, at - AD_OFF),
        NET_OFF.. => {
            let (at, (header, rest)) = ((at - NET_OFF) as usize, view.network);
            let byte = |at: usize| header.get(at).or_else(|| rest.get(at.checked_sub(header.len())?));
            (at..at + size).try_fold(0, |sum, at| Some(sum << 8 | u32::from(*byte(at)?)))
        }
        LL_OFF.. => slice(view.link, (at - LL_OFF) as usize),
        _ => None,
    }
}

/// SKF_AD_*
fn ancillary(view: &View<'_>, what: i32) -> Option<u32> {
    Some(match what {
        0 => view.protocol.into(),
        4 => view.kind.into(),
        8 => view.index,
        28 => {
            let loopback = view.index == 1;
            if loopback { libc::ARPHRD_LOOPBACK.into() } else { libc::ARPHRD_ETHER.into() }
        }
        44 => u32::from(view.tag.unwrap_or(0)),
        48 => u32::from(view.tag.is_some()),
        56 => view.random,
        60 => 0x8100,
        // Netlink attributes, mark, queue, hash, CPU, payload offset.
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Result<Program, Errno> {
        let bytes: Vec<u8> = instructions
            .iter()
            .flat_map(|(code, jt, jf, k)| {
                let mut bytes = code.to_ne_bytes().to_vec();
                bytes.extend([*jt, *jf]);
                bytes.extend(k.to_ne_bytes());
                bytes
            })
            .collect();
        Program::new(&bytes)
    }

    /// `tcpdump -dd 'udp port 53'` of IPv4 only, on Ethernet.
    const UDP_53: [(u16, u8, u8, u32); 12] = [
        (0x28, 0, 0, 12),
        (0x15, 0, 9, 0x800),
        (0x30, 0, 0, 23),
        (0x15, 0, 7, 17),
        (0x28, 0, 0, 20),
        (0x45, 5, 0, 0x1fff),
        (0xb1, 0, 0, 14),
        (0x48, 0, 0, 14),
        (0x15, 1, 0, 53),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0x40000),
        (0x06, 0, 0, 0),
    ];

    #[test]
    fn a_filter_of_tcpdump() {
        let program = program(&UDP_53).unwrap();
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = 17;
        frame[34..36].copy_from_slice(&53u16.to_be_bytes());
        let run = |frame: &[u8]| program.run(&View { data: frame, ..View::default() });
        assert_eq!(run(&frame), 0x40000);
        frame[35] = 54;
        assert_eq!(run(&frame), 0);
        assert_eq!(run(&frame[..20]), 0, "a load outside refuses");
        assert_eq!(Program::new(&program.bytes()), Ok(program.clone()));
    }

    #[test]
    fn unsound_programs_are_refused() {
        let bad: [&[(u16, u8, u8, u32)]; 8] = [
            &[],
            &[(0x28, 0, 0, 12)],
            &[(0x15, 1, 0, 5), (0x06, 0, 0, 0)],
            &[(0x05, 0, 0, 1), (0x06, 0, 0, 0)],
            &[(0x34, 0, 0, 0), (0x06, 0, 0, 0)],
            &[(0x02, 0, 0, 16), (0x06, 0, 0, 0)],
            &[(0xff, 0, 0, 0), (0x06, 0, 0, 0)],
            &[(0x64, 0, 0, 32), (0x06, 0, 0, 0)],
        ];
        for instructions in bad {
            assert_eq!(program(instructions), Err(Errno::EINVAL), "{instructions:?}");
        }
    }

    #[test]
    fn what_is_no_byte() {
        let load = |at: i32| program(&[(0x20, 0, 0, at as u32), (0x16, 0, 0, 0)]).unwrap();
        let view = View {
            data: &[0; 8],
            network: (&[1, 2], &[3, 4]),
            protocol: 0x86dd,
            index: 7,
            ..View::default()
        };
        assert_eq!(load(AD_OFF).run(&view), 0x86dd);
        assert_eq!(load(AD_OFF + 8).run(&view), 7);
        assert_eq!(load(NET_OFF).run(&view), 0x0102_0304);
        assert_eq!(load(LL_OFF).run(&view), 0);
    }

    proptest! {
        /// Whatever is accepted runs to an end, on any packet.
        #[test]
        fn every_sound_program_ends(
            words in prop::collection::vec((any::<u16>(), 0u8..4, 0u8..4, any::<u32>()), 0..40),
            data in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut words: Vec<_> = words
                .into_iter()
                .map(|(code, jt, jf, k)| (code & 0xbf, jt, jf, if k % 3 == 0 { k % 40 } else { k }))
                .collect();
            words.retain(|w| Instruction { code: w.0, jt: w.1, jf: w.2, k: w.3 }.is_sound(64));
            words.push((0x16, 0, 0, 0));
            if let Ok(program) = program(&words) {
                program.run(&View { data: &data, network: (&data, &data), link: &data, ..View::default() });
            }
        }
    }
}

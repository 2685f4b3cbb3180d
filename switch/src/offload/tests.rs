//! A super-segment, cut, must be the same bytes with every header right, judged by code of its own.

use proptest::prelude::*;

use super::*;
use crate::frame::{TPID, TagKind, Tci};
use crate::vlan::Vid;

/// RFC 1071 to the letter.
fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[derive(Debug, Clone)]
struct Super {
    v6: bool,
    tcp: bool,
    tagged: bool,
    options: usize,
    extension: bool,
    payload: Vec<u8>,
    gso_size: u16,
    seq: u32,
    id: u16,
    flags: u8,
}

fn supers() -> impl Strategy<Value = Super> {
    let bools = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let payload = prop::collection::vec(any::<u8>(), 0..6000);
    (bools, 0..=10usize, payload, 48..2000u16, any::<u32>(), any::<u16>(), any::<u8>()).prop_map(
        |((v6, tcp, tagged, extension), options, payload, gso_size, seq, id, flags)| Super {
            v6,
            tcp,
            tagged,
            options: options * 4,
            extension: extension && v6,
            payload,
            gso_size,
            seq,
            id,
            flags,
        },
    )
}

impl Super {
    fn frame(&self) -> (VnetHdr, Vec<u8>) {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if self.tagged {
            f.extend(TPID.to_be_bytes());
            f.extend(0x6007u16.to_be_bytes());
        }
        let l4 = if self.tcp { 20 + self.options } else { 8 } + self.payload.len();
        let protocol = if self.tcp { 6 } else { 17 };
        if self.v6 {
            let ext: &[u8] = if self.extension { &[protocol, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
            f.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
            f.extend(((ext.len() + l4) as u16).to_be_bytes());
            f.extend([if self.extension { 60 } else { protocol }, 64]);
            f.extend((0..32).map(|i| i * 7));
            f.extend(ext);
        } else {
            f.extend([0x08, 0x00, 0x45, 0]);
            f.extend(((20 + l4) as u16).to_be_bytes());
            f.extend(self.id.to_be_bytes());
            f.extend([0x40, 0, 64, protocol, 0xAA, 0xAA, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let start = f.len();
        f.extend([0x12, 0x34, 0, 80]);
        if self.tcp {
            f.extend(self.seq.to_be_bytes());
            f.extend([1, 2, 3, 4, ((20 + self.options) / 4 * 16) as u8, self.flags, 9, 9, 0xBB, 0xBB, 0, 0]);
            f.extend(std::iter::repeat_n(1, self.options));
        } else {
            f.extend((l4 as u16).to_be_bytes());
            f.extend([0xBB, 0xBB]);
        }
        let hdr = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: match (self.tcp, self.v6) {
                (false, _) => GSO_UDP_L4,
                (true, false) => GSO_TCPV4,
                (true, true) => GSO_TCPV6,
            },
            hdr_len: f.len() as u16,
            gso_size: self.gso_size,
            csum_start: start as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        };
        f.extend(&self.payload);
        (hdr, f)
    }
}

fn collect(
    hdr: &VnetHdr,
    bytes: &[u8],
    edit: TagEdit,
    takes: Offloads,
) -> Result<Vec<(VnetHdr, Vec<u8>)>, Malformed> {
    let mut out = Vec::new();
    emit(hdr, Frame::new(bytes).unwrap(), edit, takes, |hdr, pieces| {
        out.push((*hdr, pieces.concat()));
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// Checks the checksums of one frame and returns (IP header, transport header, payload).
fn judge<'a>(s: &Super, hdr: &VnetHdr, frame: &'a [u8]) -> (&'a [u8], &'a [u8], &'a [u8]) {
    let view = Frame::new(frame).unwrap();
    let (ip, l4) = frame[view.header_len()..].split_at(match (s.v6, s.extension) {
        (false, _) => 20,
        (true, false) => 40,
        (true, true) => 48,
    });
    let total = frame.len() - view.header_len();
    let protocol = if s.tcp { 6 } else { 17 };
    let mut pseudo = if s.v6 {
        assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])), total - 40);
        ip[8..40].to_vec()
    } else {
        assert_eq!(plain_sum(ip), 0xFFFF, "IPv4 header checksum");
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), total);
        ip[12..20].to_vec()
    };
    pseudo.extend((l4.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    let at = if s.tcp { 16 } else { 6 };
    if hdr.needs_csum() {
        assert_eq!(usize::from(hdr.csum_start), frame.len() - l4.len());
        assert_eq!(usize::from(hdr.csum_offset), at);
        assert_eq!(u16::from_be_bytes([l4[at], l4[at + 1]]), plain_sum(&pseudo), "partial checksum");
    } else {
        assert_eq!(*hdr, VnetHdr::default());
        pseudo.extend(l4);
        assert_eq!(plain_sum(&pseudo), 0xFFFF, "transport checksum");
    }
    if !s.tcp {
        assert_ne!([l4[6], l4[7]], [0, 0]);
        assert_eq!(usize::from(u16::from_be_bytes([l4[4], l4[5]])), l4.len());
    }
    let (head, payload) = l4.split_at(if s.tcp { 20 + s.options } else { 8 });
    (ip, head, payload)
}

proptest! {
    #[test]
    fn segments_are_the_super_segment(s in supers(), csum: bool, retag in 0..3u8) {
        let (hdr, bytes) = s.frame();
        prop_assert!(hdr.fits(bytes.len(), Frame::new(&bytes).unwrap().header_len()));
        let edit = match (s.tagged, retag) {
            (_, 0) => TagEdit::Keep,
            (false, _) => TagEdit::Push(Tci(9).into()),
            (true, 1) => TagEdit::Pop,
            (true, _) => TagEdit::Set(Tci(0x6007).with_vid(Vid::new(9).unwrap()).into()),
        };
        let out = collect(&hdr, &bytes, edit, Offloads { csum, ..Offloads::NONE }).unwrap();
        prop_assert_eq!(out.len(), s.payload.len().div_ceil(s.gso_size.into()).max(1));
        let mut payload = Vec::new();
        for (i, (hdr, frame)) in out.iter().enumerate() {
            let tag = Frame::new(frame).unwrap().tag();
            prop_assert_eq!(tag, match edit {
                TagEdit::Keep => s.tagged.then_some(Tci(0x6007)),
                TagEdit::Pop => None,
                TagEdit::Push(t) | TagEdit::Set(t) => Some(t.tci),
            });
            prop_assert_eq!(hdr.needs_csum(), csum);
            let (ip, head, part) = judge(&s, hdr, frame);
            let last = i + 1 == out.len();
            prop_assert!(last || part.len() == usize::from(s.gso_size));
            if !s.v6 {
                prop_assert_eq!(u16::from_be_bytes([ip[4], ip[5]]), s.id.wrapping_add(i as u16));
            }
            if s.tcp {
                let seq = u32::from_be_bytes(head[4..8].try_into().unwrap());
                prop_assert_eq!(seq, s.seq.wrapping_add(payload.len() as u32));
                prop_assert_eq!(head[13] & 0x76, s.flags & 0x76);
                prop_assert_eq!(head[13] & 0x09, if last { s.flags & 0x09 } else { 0 });
                prop_assert_eq!(head[13] & 0x80, if i == 0 { s.flags & 0x80 } else { 0 });
            }
            payload.extend_from_slice(part);
        }
        prop_assert_eq!(payload, s.payload);
    }

    /// Behind more tags, whether or not the outermost one is a tag here, the segments are the same.
    #[test]
    fn stacked_tags_change_nothing_else(mut s in supers(), service: bool, opaque: bool) {
        s.tagged = false;
        let (hdr, bytes) = s.frame();
        let tags = [if service { 0x88 } else { 0x81 }, if service { 0xA8 } else { 0 }, 0xA0, 100, 0x81, 0, 0x20, 7];
        let stack = |frame: &[u8]| [&frame[..12], &tags, &frame[12..]].concat();
        let kind = if service { TagKind::Service } else { TagKind::Customer };
        let (stacked, shifted) = (stack(&bytes), hdr.shifted(8));
        let view = Frame::with(&stacked, (!opaque).then_some(kind)).unwrap();
        let mut cut = Vec::new();
        emit(&shifted, view, TagEdit::Keep, Offloads::NONE, |_, pieces| {
            cut.push(pieces.concat());
            ControlFlow::Continue(())
        }).unwrap();
        let plain = collect(&hdr, &bytes, TagEdit::Keep, Offloads::NONE).unwrap();
        let expected: Vec<_> = plain.iter().map(|(_, frame)| stack(frame)).collect();
        prop_assert_eq!(cut, expected);
    }

    #[test]
    fn a_partial_checksum_is_filled(mut s in supers(), push: bool) {
        s.gso_size = u16::MAX;
        let (mut hdr, mut bytes) = s.frame();
        // What a sender leaves in the field: the sum of the pseudo-header.
        let whole = collect(&hdr, &bytes, TagEdit::Keep, Offloads { csum: true, ..Offloads::NONE }).unwrap();
        prop_assert_eq!(whole.len(), 1);
        bytes.copy_from_slice(&whole[0].1);
        hdr = whole[0].0;
        let edit = if push && !s.tagged { TagEdit::Push(Tci(3).into()) } else { TagEdit::Keep };
        let out = collect(&hdr, &bytes, edit, Offloads::NONE).unwrap();
        prop_assert_eq!(out.len(), 1);
        let (_, _, payload) = judge(&s, &out[0].0, &out[0].1);
        prop_assert_eq!(payload, &s.payload[..]);
    }

    #[test]
    fn a_port_with_offloads_gets_the_frame_whole(s in supers(), push: bool) {
        let (hdr, bytes) = s.frame();
        let edit = match (s.tagged, push) {
            (false, true) => TagEdit::Push(Tci(3).into()),
            (true, true) => TagEdit::Pop,
            _ => TagEdit::Keep,
        };
        let out = collect(&hdr, &bytes, edit, Offloads::ALL).unwrap();
        prop_assert_eq!(out.len(), 1);
        let moved = edit.shift();
        prop_assert_eq!(out[0].1.len() as isize, bytes.len() as isize + moved);
        prop_assert_eq!(out[0].0.csum_start as isize, hdr.csum_start as isize + moved);
        prop_assert_eq!(out[0].0.hdr_len as isize, hdr.hdr_len as isize + moved);
        prop_assert_eq!(&out[0].1[usize::from(out[0].0.csum_start)..], &bytes[usize::from(hdr.csum_start)..]);
    }

    #[test]
    fn lies_never_panic(
        s in supers(),
        raw: [u8; 10],
        gso in prop::sample::select(vec![0, 1, 3, 4, 5, 0x81, 0x85, 0xFF]),
        noise in prop::collection::vec((0..120usize, any::<u8>()), 0..8),
        len in 0..200usize,
        edit in 0..4u8,
    ) {
        let (good, mut bytes) = s.frame();
        noise.into_iter().for_each(|(at, b)| if let Some(byte) = bytes.get_mut(at) { *byte = b });
        bytes.truncate(len);
        let Some(frame) = Frame::new(&bytes) else { return Ok(()) };
        let tagged = frame.tag().is_some();
        let edit = match edit {
            0 if tagged => TagEdit::Pop,
            1 if tagged => TagEdit::Set(Tci(1).into()),
            2 => TagEdit::Push(Tci(1).into()),
            _ => TagEdit::Keep,
        };
        for hdr in [VnetHdr { gso_type: gso, ..VnetHdr::parse(raw) }, VnetHdr { gso_type: gso, ..good }] {
            prop_assert_eq!(VnetHdr::parse(hdr.to_bytes()), hdr);
            if hdr.fits(bytes.len(), frame.header_len()) {
                for takes in [Offloads::NONE, Offloads::ALL, Offloads { csum: true, ..Offloads::NONE }] {
                    if let Ok(out) = collect(&hdr, &bytes, edit, takes) {
                        prop_assert!(out.len() <= segment::MAX_SEGMENTS);
                    }
                }
            }
        }
    }
}

#[test]
fn one_byte_segments_are_refused() {
    let s = Super {
        v6: false,
        tcp: true,
        tagged: false,
        options: 0,
        extension: false,
        payload: vec![0; 5000],
        gso_size: 1,
        seq: 0,
        id: 0,
        flags: 0x10,
    };
    let (hdr, bytes) = s.frame();
    assert_eq!(collect(&hdr, &bytes, TagEdit::Keep, Offloads::NONE), Err(Malformed));
}

//! The decisions about one frame: may it come in, and how does it leave.
//!
//! # Theory of operation
//! Pure functions between the tables of [`crate::vlan`] and [`crate::fdb`] and the mutable
//! [`crate::switch::Switch`]. [`admit`] is everything that is decided from the frame and its ingress port
//! alone, in the order of 802.1Q-2018 clause 8.6 (the order decides which drop is counted); [`tag_edit`]
//! is what one egress port does to the tag.

use crate::frame::{Frame, MAX_FRAME, Priority, TAG_LEN, Tag, TagEdit, TagKind, Tci};
use crate::offload::VnetHdr;
use crate::port::DropReason;
use crate::vlan::{Egress, PortVlans, Refused, Vid};

/// A frame that may come in.
#[derive(Debug, Clone, Copy)]
pub struct Admitted<'a> {
    /// The frame.
    pub frame: Frame<'a>,
    /// Its VLAN.
    pub vid: Vid,
    /// The tag it came with.
    pub tag: Option<Tag>,
}

/// Judges a frame that arrived on a port with these rules.
///
/// # Errors
/// The reason it is dropped for.
// What it returns is large, and is better not moved.
#[inline(always)]
pub fn admit<'a>(vlans: &PortVlans, hdr: &VnetHdr, bytes: &'a [u8]) -> Result<Admitted<'a>, DropReason> {
    let frame = Frame::with(bytes, vlans.tagging()).ok_or(DropReason::Short)?;
    let tag = frame.whole_tag();
    let room = if tag.is_some() { 0 } else { TAG_LEN };
    if bytes.len() + room > MAX_FRAME {
        return Err(DropReason::Long);
    }
    let (destination, source) = (frame.destination(), frame.source());
    if !source.is_station() {
        return Err(DropReason::BadSource);
    }
    if destination.is_link_local() {
        return Err(DropReason::LinkLocal);
    }
    if !hdr.fits(bytes.len(), frame.header_len()) {
        return Err(DropReason::BadOffload);
    }
    let vid = vlans.ingress(tag.map(|tag| tag.tci)).map_err(|refused| match refused {
        Refused::Reserved => DropReason::BadTag,
        Refused::NotAllowed => DropReason::VlanNotAllowed,
    })?;
    Ok(Admitted { frame, vid, tag })
}

/// Judges a frame that a hub repeats: it need only be one.
///
/// # Errors
/// The reason it is dropped for.
pub fn check<'a>(hdr: &VnetHdr, bytes: &'a [u8]) -> Result<Frame<'a>, DropReason> {
    let frame = Frame::new(bytes).ok_or(DropReason::Short)?;
    match hdr.fits(bytes.len(), frame.header_len()) {
        _ if bytes.len() > MAX_FRAME => Err(DropReason::Long),
        true => Ok(frame),
        false => Err(DropReason::BadOffload),
    }
}

/// What happens to the tag of a frame of `vid` that came with `tag`, leaves as `egress` says and with `priority`,
/// if there is a tag to tell it.
#[inline]
pub fn tag_edit(tag: Option<Tag>, vid: Vid, egress: Egress, priority: Priority) -> TagEdit {
    let kind = match (egress, tag) {
        (Egress::Untagged, None) => return TagEdit::Keep,
        (Egress::Untagged, Some(_)) => return TagEdit::Pop,
        (Egress::Tagged, _) => TagKind::Customer,
        (Egress::Service, _) => TagKind::Service,
    };
    let new = Tag { kind, tci: Tci::of(priority, vid) };
    match tag {
        None => TagEdit::Push(new),
        Some(old) if old == new => TagEdit::Keep,
        Some(_) => TagEdit::Set(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::TPID;

    fn frame(destination: u8, source: u8, tci: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![destination, 0, 0, 0, 0, 1, source, 0, 0, 0, 0, 2];
        if let Some(tci) = tci {
            bytes.extend(TPID.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend([0x08, 0x00]);
        bytes.extend([0; 46]);
        bytes
    }

    #[test]
    fn each_bad_frame_has_its_reason() {
        let rules = PortVlans::default();
        let judge = |bytes: &[u8], hdr: VnetHdr| admit(&rules, &hdr, bytes).err();
        let none = VnetHdr::default();
        assert_eq!(judge(&frame(2, 2, None), none), None);
        assert_eq!(judge(&frame(2, 2, None)[..13], none), Some(DropReason::Short));
        assert_eq!(judge(&frame(2, 3, None), none), Some(DropReason::BadSource));
        assert_eq!(judge(&frame(2, 2, Some(5)), none), Some(DropReason::VlanNotAllowed));
        assert_eq!(judge(&frame(2, 2, Some(4095)), none), Some(DropReason::BadTag));
        let mut lldp = frame(2, 2, None);
        lldp[..6].copy_from_slice(&[0x01, 0x80, 0xC2, 0, 0, 0x0E]);
        assert_eq!(judge(&lldp, none), Some(DropReason::LinkLocal));
        let wild = VnetHdr { flags: 1, csum_start: 59, ..VnetHdr::default() };
        assert_eq!(judge(&frame(2, 2, None), wild), Some(DropReason::BadOffload));
        let mut long = frame(2, 2, None);
        long.resize(MAX_FRAME, 0);
        assert_eq!(judge(&long, none), Some(DropReason::Long));
        long.truncate(MAX_FRAME - TAG_LEN);
        assert_eq!(judge(&long, none), None);
    }

    #[test]
    fn tags_in_and_out() {
        let vid = Vid::new(10).unwrap();
        let tag = |n| Some(Tag::from(Tci(n)));
        let service = |n| Tag { kind: TagKind::Service, tci: Tci(n) };
        let table = [
            (None, Egress::Untagged, TagEdit::Keep),
            (None, Egress::Tagged, TagEdit::Push(Tci(10).into())),
            (None, Egress::Service, TagEdit::Push(service(10))),
            (tag(10), Egress::Untagged, TagEdit::Pop),
            (tag(0xA00A), Egress::Tagged, TagEdit::Keep),
            (tag(0xA000), Egress::Tagged, TagEdit::Set(Tci(0xA00A).into())),
            (tag(0xA000), Egress::Untagged, TagEdit::Pop),
            (tag(0xB00A), Egress::Service, TagEdit::Set(service(0xB00A))),
            (Some(service(10)), Egress::Service, TagEdit::Keep),
            (Some(service(0x200A)), Egress::Tagged, TagEdit::Set(Tci(0x200A).into())),
        ];
        for (tag, egress, expected) in table {
            let priority = tag.map_or_else(Priority::default, |tag| tag.tci.priority());
            assert_eq!(tag_edit(tag, vid, egress, priority), expected);
        }
    }
}

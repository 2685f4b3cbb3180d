//! Recording the frames of a port.
//!
//! # Theory of operation
//! A pcapng file: a section header, one interface, and an enhanced packet block for each frame, with its
//! direction and, in nanoseconds, its time. Frames are recorded as they pass, so super-segments whole and
//! checksums that are yet to be filled wrong; with `cut` they are recorded as a wire would have them. The file
//! is written when enough has gathered, and whenever the port's owner is about to sleep. A file that cannot be
//! written any more ends the recording, not the port.
//!
//! Read: draft-ietf-opsawg-pcapng, clauses 4.1 to 4.3.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant, SystemTime};

use msocket_proto::line::Refusal;
use switch::frame::{Frame, TagEdit};
use switch::offload::{Pieces, VnetHdr, emit};
use switch::port::Offloads;

use crate::config::Pcap;

/// Bytes that gather before they are written: some super-segments.
const GATHER: usize = 256 << 10;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// Options of an interface: its name, its time's resolution.
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// Ten to the power of minus nine.
const NANOSECONDS: u8 = 9;
/// The option of a packet that holds its direction.
const EPB_FLAGS: u16 = 2;

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It arrived.
    In = 1,
    /// It was sent.
    Out = 2,
}

/// A recording.
#[derive(Debug)]
pub struct Recorder {
    /// Absent once it cannot be written.
    file: Option<File>,
    gathered: Vec<u8>,
    cut: bool,
    snap: usize,
    /// One moment by two clocks.
    began: (Instant, Duration),
}

impl Recorder {
    /// Begins a recording of `interface`, at the moment that two clocks show.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn begin(interface: &str, pcap: &Pcap, clocks: (Instant, SystemTime)) -> Result<Self, Refusal> {
        let refused = |why| {
            let file = pcap.file.display();
            Refusal::new(format!("cannot record the frames of {interface} into {file}"), why)
        };
        // What the view's programs say is its owner's business.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file =
            options.custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&pcap.file).map_err(refused)?;
        let wall = clocks.1.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut recorder = Self {
            file: Some(file),
            gathered: Vec::with_capacity(GATHER),
            cut: pcap.cut,
            snap: pcap.snap.map_or(usize::MAX, |snap| snap as usize),
            began: (clocks.0, wall),
        };
        recorder.put_header(interface, pcap.snap.unwrap_or(0));
        recorder.flush();
        Ok(recorder)
    }

    /// A frame passed.
    pub fn record(&mut self, now: Instant, direction: Direction, header: &VnetHdr, bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let time = self.began.1 + now.saturating_duration_since(self.began.0);
        let frame = Frame::new(bytes).filter(|frame| header.fits(bytes.len(), frame.header_len()));
        match frame.filter(|_| self.cut) {
            Some(frame) => {
                let put = |_: &VnetHdr, pieces: &Pieces<'_>| {
                    self.put_packet(time, direction, pieces);
                    ControlFlow::Continue(())
                };
                let _ = emit(header, frame, TagEdit::Keep, Offloads::NONE, put);
            }
            None => self.put_packet(time, direction, &[bytes, &[], &[], &[]]),
        }
    }

    /// Writes what has gathered.
    pub fn flush(&mut self) {
        let Some(file) = self.file.as_mut().filter(|_| !self.gathered.is_empty()) else { return };
        if let Err(why) = file.write_all(&self.gathered) {
            log::warn!("a recording ends: {why}");
            self.file = None;
        }
        self.gathered.clear();
    }

    fn put_header(&mut self, interface: &str, snap: u32) {
        self.put_block(0x0A0D_0D0A, |block| {
            block.extend(0x1A2B_3C4Du32.to_ne_bytes());
            [1u16, 0].iter().for_each(|version| block.extend(version.to_ne_bytes()));
            // The section's length is not known.
            block.extend((-1i64).to_ne_bytes());
        });
        self.put_block(1, |block| {
            [ETHERNET, 0].iter().for_each(|half| block.extend(half.to_ne_bytes()));
            block.extend(snap.to_ne_bytes());
            put_option(block, IF_NAME, interface.as_bytes());
            put_option(block, IF_TSRESOL, &[NANOSECONDS]);
            put_option(block, 0, &[]);
        });
    }

    fn put_packet(&mut self, time: Duration, direction: Direction, pieces: &Pieces<'_>) {
        let snap = self.snap;
        self.put_block(6, |block| {
            let nanoseconds = time.as_nanos() as u64;
            let len: usize = pieces.iter().map(|piece| piece.len()).sum();
            let kept = len.min(snap);
            let words = [0, (nanoseconds >> 32) as u32, nanoseconds as u32, kept as u32, len as u32];
            words.iter().for_each(|word| block.extend(word.to_ne_bytes()));
            let mut left = kept;
            for piece in pieces {
                let part = &piece[..piece.len().min(left)];
                block.extend(part);
                left -= part.len();
            }
            pad(block, kept);
            put_option(block, EPB_FLAGS, &(direction as u32).to_ne_bytes());
            put_option(block, 0, &[]);
        });
        if self.gathered.len() >= GATHER {
            self.flush();
        }
    }

    /// A block of pcapng: its type, its length, its body, a multiple of four bytes, and its length again.
    fn put_block(&mut self, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.gathered.len();
        self.gathered.extend(kind.to_ne_bytes());
        self.gathered.extend([0; 4]);
        fill(&mut self.gathered);
        let len = (self.gathered.len() - start + 4) as u32;
        self.gathered[start + 4..start + 8].copy_from_slice(&len.to_ne_bytes());
        self.gathered.extend(len.to_ne_bytes());
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
    }
}

fn put_option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend(code.to_ne_bytes());
    block.extend((value.len() as u16).to_ne_bytes());
    block.extend(value);
    pad(block, value.len());
}

/// Fills up to a multiple of four bytes.
fn pad(block: &mut Vec<u8>, len: usize) {
    block.extend(&[0; 4][..len.next_multiple_of(4) - len]);
}

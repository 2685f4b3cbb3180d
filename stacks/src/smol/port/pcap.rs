//! Recording the frames of a port.
//!
//! # Theory of operation
//! A pcapng file: a section header, one interface, and an enhanced packet block for each frame, with its
//! direction and, in nanoseconds, its time. Frames are recorded as they pass, so super-segments whole and
//! checksums that are yet to be filled wrong; with `cut` they are recorded as a wire would have them. The file
//! is written when enough has gathered, and whenever the port's owner is about to sleep. A file that cannot be
//! written any more ends the recording, not the port.
//!
//! Read: [`switch::capture::pcapng`].

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant, SystemTime};

use msocket_proto::line::Refusal;
pub use switch::capture::Way as Direction;
use switch::capture::pcapng::{self, Pcapng};
use switch::frame::{Frame, TagEdit};
use switch::offload::{Pieces, VnetHdr, emit};
use switch::port::Offloads;

use crate::config::Pcap;

/// Bytes that gather before they are written: some super-segments.
const GATHER: usize = 256 << 10;

/// A recording.
#[derive(Debug)]
pub struct Recorder {
    /// Absent once it cannot be written.
    file: Option<File>,
    gathered: Pcapng,
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
            gathered: Pcapng::new("viewnet"),
            cut: pcap.cut,
            snap: pcap.snap.map_or(usize::MAX, |snap| snap as usize),
            began: (clocks.0, wall),
        };
        recorder.gathered.interface(interface, pcap.snap.unwrap_or(0));
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
        let Some(file) = self.file.as_mut().filter(|_| !self.gathered.bytes().is_empty()) else { return };
        if let Err(why) = file.write_all(self.gathered.bytes()) {
            log::warn!("a recording ends: {why}");
            self.file = None;
        }
        self.gathered.clear();
    }

    fn put_packet(&mut self, time: Duration, way: Direction, pieces: &Pieces<'_>) {
        let time_ns = time.as_nanos() as u64;
        let snap = self.snap;
        self.gathered.packet(&pcapng::Packet {
            interface: 0,
            time_ns,
            way,
            snap,
            len: 0,
            pieces,
            comment: "",
        });
        if self.gathered.bytes().len() >= GATHER {
            self.flush();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
    }
}

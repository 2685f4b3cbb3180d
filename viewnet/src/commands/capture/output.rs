//! Where captured frames go: a pcapng file, or lines of text.

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;

use rustc_hash::FxHashMap;
use switch::capture::pcapng::{Packet, Pcapng};
use switch::capture::{Way, summary};
use switch::frame::{Frame, TagEdit};
use switch::offload::{GSO_NONE, Pieces, VnetHdr, emit};
use switch::port::{DropReason, Offloads};

use super::Args;
use crate::exit::Failure;

/// Bytes that gather before they are written while frames keep coming.
const GATHER: usize = 256 << 10;

/// Frames' last stop.
pub(super) struct Output {
    writer: Box<dyn Write>,
    /// The file's blocks; for text, `None`.
    pcapng: Option<Pcapng>,
    text: String,
    cut: bool,
    snap: usize,
    left: Option<u64>,
    interfaces: Vec<Interface>,
    /// From the source's numbers to ours.
    numbers: FxHashMap<u32, u32>,
    first_ns: Option<u64>,
    last_ns: u64,
}

struct Interface {
    name: String,
    frames: u64,
}

/// A frame and what is known about it.
pub(super) struct Captured<'a> {
    /// The source's number of the interface.
    pub(super) interface: u32,
    pub(super) way: Way,
    pub(super) dropped: Option<DropReason>,
    pub(super) time_ns: u64,
    pub(super) hdr: VnetHdr,
    pub(super) bytes: &'a [u8],
    /// Bytes it had, of which `bytes` may be the first only.
    pub(super) len: usize,
}

impl Output {
    /// Opens what the user asked for.
    pub(super) fn open(args: &Args) -> Result<Self, Failure> {
        let writer: Box<dyn Write> = match &args.write {
            Some(path) if path.as_os_str() != "-" => {
                // What others say to each other is not everybody's business.
                let mut options = File::options();
                let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
                Box::new(file.map_err(|e| Failure::io(format!("cannot record into {}", path.display()), &e))?)
            }
            Some(_) if rustix::termios::isatty(io::stdout()) => {
                return Err(Failure::new("cannot record to standard output", "it is a terminal")
                    .hint("give a file, or leave out -w for lines of text"));
            }
            // Written as it comes, without a buffer of std's between.
            _ => Box::new(File::from(
                rustix::io::dup(io::stdout())
                    .map_err(|e| Failure::io("cannot write to standard output", &e.into()))?,
            )),
        };
        let mut output = Self {
            writer,
            pcapng: args.write.is_some().then(|| Pcapng::new(concat!("viewnet ", env!("CARGO_PKG_VERSION")))),
            text: String::new(),
            cut: args.cut,
            snap: args.snaplen.map_or(usize::MAX, |snap| snap as usize),
            left: args.count,
            interfaces: Vec::new(),
            numbers: FxHashMap::default(),
            first_ns: None,
            last_ns: 0,
        };
        output.flush()?;
        Ok(output)
    }

    /// The source's interface `number` is, from now on, the one of this name.
    pub(super) fn name(&mut self, number: u32, name: &str) {
        let known = self.interfaces.iter().position(|interface| interface.name == name);
        let ours = known.unwrap_or_else(|| {
            self.interfaces.push(Interface { name: name.to_owned(), frames: 0 });
            if let Some(pcapng) = &mut self.pcapng {
                pcapng.interface(name, u32::try_from(self.snap).unwrap_or(0));
            }
            self.interfaces.len() - 1
        });
        self.numbers.insert(number, ours as u32);
    }

    /// Has the interface been named?
    pub(super) fn knows(&self, number: u32) -> bool {
        self.numbers.contains_key(&number)
    }

    /// Takes a frame; [`ControlFlow::Break`] once there are as many as were wanted.
    pub(super) fn take(&mut self, frame: &Captured<'_>) -> Result<ControlFlow<()>, Failure> {
        let checked = Frame::new(frame.bytes)
            .filter(|_| frame.bytes.len() == frame.len)
            .filter(|checked| frame.hdr.fits(frame.len, checked.header_len()));
        // A frame that is whole gets its checksum; a super-segment only where it is cut.
        let wanted = checked.filter(|_| self.cut || frame.hdr.gso() == GSO_NONE);
        let mut flow = ControlFlow::Continue(());
        let emitted = wanted.is_some_and(|checked| {
            let put = |_: &VnetHdr, pieces: &Pieces<'_>| {
                flow = self.put(frame, pieces, 0);
                flow
            };
            emit(&frame.hdr, checked, TagEdit::Keep, Offloads::NONE, put).is_ok()
        });
        if !emitted {
            flow = self.put(frame, &[frame.bytes, &[], &[], &[]], frame.len);
        }
        if self.gathered() >= GATHER {
            self.flush()?;
        }
        Ok(flow)
    }

    fn put(&mut self, frame: &Captured<'_>, pieces: &Pieces<'_>, len: usize) -> ControlFlow<()> {
        let Some(&interface) = self.numbers.get(&frame.interface) else { return ControlFlow::Continue(()) };
        let (way, time_ns) = (frame.way, frame.time_ns);
        self.interfaces[interface as usize].frames += 1;
        self.last_ns = time_ns;
        let comment = frame.dropped.map(|reason| format!("dropped by the switch: {}", reason.name()));
        match &mut self.pcapng {
            Some(pcapng) => {
                let comment = comment.as_deref().unwrap_or_default();
                pcapng.packet(&Packet { interface, time_ns, way, snap: self.snap, len, pieces, comment });
            }
            None => {
                let first = *self.first_ns.get_or_insert(time_ns);
                let micros = time_ns.saturating_sub(first) / 1000;
                let way = if way == Way::In { "in " } else { "out" };
                let name = &self.interfaces[interface as usize].name;
                let bytes = pieces.concat();
                let line = summary::line(&bytes, len.max(bytes.len()));
                let comment = comment.map_or_else(String::new, |comment| format!(" ({comment})"));
                let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
                self.text += &format!("{seconds:4}.{micros:06} {name} {way} {line}{comment}\n");
            }
        }
        match &mut self.left {
            Some(1) => ControlFlow::Break(()),
            Some(left) => {
                *left -= 1;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Continue(()),
        }
    }

    fn gathered(&self) -> usize {
        self.pcapng.as_ref().map_or(self.text.len(), |pcapng| pcapng.bytes().len())
    }

    /// Writes what has gathered.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let written = match &mut self.pcapng {
            Some(pcapng) => {
                let written = self.writer.write_all(pcapng.bytes());
                pcapng.clear();
                written
            }
            None => self.writer.write_all(self.text.as_bytes()),
        };
        self.text.clear();
        match written {
            // Whoever read it has seen enough; that is how a capture ends.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::io("cannot write the frames", &e))
            }
            _ => Ok(()),
        }
    }

    /// Ends the file, and says how it went.
    pub(super) fn finish(mut self, lost: u64) -> Result<(), Failure> {
        if let Some(pcapng) = &mut self.pcapng {
            for (number, interface) in self.interfaces.iter().enumerate() {
                // Where a lost frame was is not known; the first interface stands for all.
                let lost = if number == 0 { lost } else { 0 };
                pcapng.statistics(number as u32, self.last_ns, interface.frames + lost, lost);
            }
        }
        self.flush()?;
        let frames: u64 = self.interfaces.iter().map(|interface| interface.frames).sum();
        let lost = if lost > 0 {
            format!(", {lost} lost: they came faster than they were written")
        } else {
            String::new()
        };
        eprintln!("viewnet: {frames} frames{lost}");
        Ok(())
    }
}

//! A program's output: the last of it, in a file.
//!
//! What a program writes is appended to its log. A log of [`SIZE`] bytes becomes the older half, `NAME.log.1`, and a
//! new one begins: so a program that writes without end takes 2 MiB.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes of a log before a new one begins.
pub(crate) const SIZE: u64 = 1 << 20;

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    /// Opens the log at `path`, which goes on where it ended.
    ///
    /// # Errors
    /// Those of open(2).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }

    /// Adds some output. What cannot be written is lost: a full disk must not stop a program.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.size + bytes.len() as u64 > SIZE {
            let begun = fs::rename(&self.path, older(&self.path)).and_then(|()| Self::open(&self.path));
            match begun {
                Ok(new) => *self = new,
                Err(_) => return,
            }
        }
        if self.file.write_all(bytes).is_ok() {
            self.size += bytes.len() as u64;
        }
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// The last `lines` lines of the log at `path`, or all of it, and how many bytes of the file were read.
///
/// # Errors
/// Those of open(2) and read(2).
pub(crate) fn tail(path: &Path, lines: Option<usize>) -> io::Result<(Vec<u8>, u64)> {
    let mut text = fs::read(older(path)).unwrap_or_default();
    let new = fs::read(path)?;
    let read = new.len() as u64;
    text.extend(new);
    if let Some(lines) = lines {
        let end = text.strip_suffix(b"\n").unwrap_or(&text);
        let newlines = end.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let start = match lines {
            0 => text.len(),
            lines => newlines.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0),
        };
        text.drain(..start);
    }
    Ok((text, read))
}

/// What was added to the log at `path` behind its first `*read` bytes; a log that began anew is read from its start.
///
/// # Errors
/// Those of open(2) and read(2).
pub(crate) fn more(path: &Path, read: &mut u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() < *read {
        *read = 0;
    }
    file.seek(SeekFrom::Start(*read))?;
    let mut text = Vec::new();
    file.take(SIZE).read_to_end(&mut text)?;
    *read += text.len() as u64;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_its_end_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.log");
        let mut log = Log::open(&path).unwrap();
        for line in 0..100_000 {
            log.write(format!("this is line number {line}\n").as_bytes());
        }
        let size: u64 =
            fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 2 * SIZE, "{size}");
        let (text, mut read) = tail(&path, Some(2)).unwrap();
        assert_eq!(text, b"this is line number 99998\nthis is line number 99999\n");
        assert_eq!(more(&path, &mut read).unwrap(), b"");
        log.write(b"more\n");
        assert_eq!(more(&path, &mut read).unwrap(), b"more\n");
        assert_eq!(tail(&path, Some(0)).unwrap().0, b"");
    }
}

//! Where lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use parking_lot::Mutex;

/// Takes whole lines, each in one write, so that lines of several threads or processes do not mix.
#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    File(Mutex<File>),
    #[cfg(test)]
    Memory(Mutex<Vec<u8>>),
}

impl Output {
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(path)?;
        Ok(Self::File(Mutex::new(file)))
    }

    pub(super) fn write(&self, line: &[u8]) {
        let written = match self {
            Self::Stdout => io::stdout().lock().write_all(line),
            Self::File(file) => file.lock().write_all(line),
            #[cfg(test)]
            Self::Memory(memory) => memory.lock().write_all(line),
        };
        // A full disk or a closed pipe must not stop the service, and there is nowhere to report it.
        drop(written);
    }

    pub(super) fn flush(&self) {
        let flushed = match self {
            Self::Stdout => io::stdout().flush(),
            Self::File(file) => file.lock().sync_data(),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        };
        drop(flushed);
    }
}

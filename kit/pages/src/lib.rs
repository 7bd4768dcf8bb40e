//! Gives back the pages of code and constants that a process no longer uses.
//!
//! A program runs most of its code once, at the start, and the kernel maps 64 KiB around each function that ran: most
//! of an idle process would be parsers, flags and handshakes that it is done with. [`release`] takes all of it out of
//! the process; what is used again comes back from the page cache, 64 KiB at a time and about a microsecond each. What
//! the process wrote is never touched. No policy lives here: when to do so is `dapr_kit::process`'s affair.
#![warn(missing_docs)]

use std::io;
use std::ops::Range;

/// Unmaps the pages of all mappings that are copies of a file: mapped private, not writable, nothing written.
/// Returns the bytes that were mapped of them (multiples of the page size).
///
/// Blocks for about half a millisecond. Other threads go on, and fault in again what they run.
///
/// # Errors
/// The mappings of the process cannot be read, as where `/proc` is not mounted, or an address is not one of this
/// machine. Nothing is lost then.
pub fn release() -> io::Result<u64> {
    let mut released = 0;
    for mapping in untouched(&std::fs::read_to_string("/proc/self/smaps")?) {
        forget(&mapping.addresses)?;
        released += mapping.resident;
    }
    Ok(released)
}

/// A part of a file that a process has mapped.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    addresses: Range<usize>,
    inode: &'a str,
    executable: bool,
    /// Whether no page of it differs from the file; as long as nobody says so, they may.
    untouched: bool,
    /// Bytes.
    resident: u64,
}

/// Programs and libraries by the text of `/proc/<pid>/smaps`: code, and the constants right before and behind it, as
/// far as they equal their files. A mapping that is described in a way this does not know is none of them.
fn untouched(smaps: &str) -> Vec<Mapping<'_>> {
    let mut all: Vec<Mapping<'_>> = Vec::new();
    let mut current: Option<Mapping<'_>> = None;
    for line in smaps.lines() {
        if let Some((name, kib)) = field(line) {
            let Some(mapping) = &mut current else {
                continue;
            };
            match name {
                "Rss" => mapping.resident = kib.saturating_mul(1024),
                // Otherwise relocations or breakpoints of a debugger: pages that would be lost.
                "Anonymous" => mapping.untouched = kib == 0,
                _ => {}
            }
        } else if let Some(next) = header(line) {
            all.extend(current.take());
            current = next;
        }
    }
    all.extend(current);
    // A file that is only read may be unmapped at any time, and the addresses be somebody's memory a moment later.
    let code: Vec<(Range<usize>, &str)> = all
        .iter()
        .filter(|mapping| mapping.executable)
        .map(|mapping| (mapping.addresses.clone(), mapping.inode))
        .collect();
    all.retain(|mapping| {
        let own = &mapping.addresses;
        let loaded = code.iter().any(|(addresses, inode)| {
            let touches = own.end == addresses.start || addresses.end == own.start;
            *inode == mapping.inode && (touches || addresses == own)
        });
        loaded && mapping.untouched && mapping.resident > 0
    });
    all
}

/// `Rss:    12 kB`
fn field(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim().strip_suffix(" kB")?;
    Some((name, value.parse().ok()?))
}

/// `55d0-55e0 r-xp 00001000 fe:00 1234   /path`: none if the line is something else; in it, none if its pages are no
/// copies of those of a file.
fn header(line: &str) -> Option<Option<Mapping<'_>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let addresses = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let (permissions, _offset, _device, inode) =
        (words.next()?, words.next()?, words.next()?, words.next()?);
    let copy = matches!(permissions.as_bytes(), [_, b'-', _, b'p']) && inode != "0";
    Some((copy && !addresses.is_empty()).then_some(Mapping {
        addresses,
        inode,
        executable: permissions.as_bytes().get(2) == Some(&b'x'),
        untouched: false,
        resident: 0,
    }))
}

#[expect(unsafe_code, reason = "a system call on memory of this process")]
fn forget(addresses: &Range<usize>) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(addresses.start);
    // SAFETY: the kernel has just named this range as a part of a program or library that is mapped private, is not
    // writable and differs in no page from its file. Without its pages it reads the same: each comes back from the
    // file at the next access. The program and its libraries stay mapped to the end: no library is ever closed here.
    let failed = unsafe { libc::madvise(start, addresses.len(), libc::MADV_DONTNEED) } != 0;
    if failed {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{release, untouched};

    const SMAPS: &str = "\
1000-3000 r--p 00000000 fe:00 7    /bin/program
Size:                  8 kB
Rss:                   4 kB
Anonymous:             0 kB
Locked:                0 kB
VmFlags: rd mr mw me sd
3000-9000 r-xp 00002000 fe:00 7    /bin/program (deleted)
Rss:                  24 kB
Anonymous:             0 kB
9000-a000 r--p 00008000 fe:00 7    /bin/program
Rss:                   4 kB
Anonymous:             4 kB
a000-b000 rw-p 00009000 fe:00 7    /bin/program
Rss:                   4 kB
Anonymous:             0 kB
b000-c000 r--s 00009000 fe:00 8    /data
Rss:                   4 kB
Anonymous:             0 kB
c000-d000 r--p 00000000 00:00 0    [vvar]
Rss:                   4 kB
Anonymous:             0 kB
d000-e000 r--p 00000000 fe:00 10   /read/only
Rss:                   4 kB
Anonymous:             0 kB
e000-f000 r-xp 00000000 fe:00 9    /lib/never/run
Rss:                   0 kB
Anonymous:             0 kB
f000-10000 r--p 00000000 fe:00 7    /bin/program
Rss:                   4 kB
Anonymous:             0 kB
";

    #[test]
    fn only_code_and_its_constants_are_released() {
        let found = untouched(SMAPS);
        let addresses: Vec<_> = found
            .iter()
            .map(|mapping| mapping.addresses.clone())
            .collect();
        assert_eq!(addresses, [0x1000..0x3000, 0x3000..0x9000]);
        let resident: u64 = found.iter().map(|mapping| mapping.resident).sum();
        assert_eq!(resident, 28 * 1024);
    }

    #[test]
    fn code_with_a_breakpoint_stays_with_its_constants_gone() {
        let smaps = SMAPS.replace(
            "24 kB\nAnonymous:             0",
            "24 kB\nAnonymous:             4",
        );
        let found = untouched(&smaps);
        let addresses: Vec<_> = found
            .iter()
            .map(|mapping| mapping.addresses.clone())
            .collect();
        assert_eq!(addresses, vec![0x1000_usize..0x3000]);
    }

    #[test]
    fn a_field_without_its_mapping_is_nothing() {
        assert_eq!(untouched("Rss: 4 kB\nAnonymous: 0 kB\n"), []);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([0-9a-f]{0,20}-[0-9a-f]{0,20} r-xp 0 0 1\n|Rss: [0-9]{0,30} kB\n|Anonymous: 0 kB\n|.{0,20}\n){0,12}") {
            untouched(&text);
        }
    }

    fn resident_code() -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("proc is mounted");
        let mappings = untouched(&smaps);
        mappings.iter().map(|mapping| mapping.resident).sum()
    }

    #[test]
    fn what_was_released_is_gone_and_comes_back() {
        let before = resident_code();
        let released = release().expect("a process may release its own pages");
        let after = resident_code();
        assert!(
            released > 0 && after < before,
            "{before} {released} {after}"
        );
        // The program still works: this very test, and what it prints.
        assert_eq!(untouched(SMAPS).len(), 2);
    }
}

//! A free port for an API server, which has to be told its port and needs the same again after a restart.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// Below what the kernel gives away by itself, and beside what other processes of tests search.
const RANGE: std::ops::Range<u16> = 8_800..9_800;

/// How many this process has asked for.
static GIVEN: AtomicU16 = AtomicU16::new(0);

/// A port nobody listened on a moment ago. Processes that search at the same time begin at different places.
pub(super) fn free() -> Result<u16> {
    let places = u32::from(RANGE.end - RANGE.start);
    let start = std::process::id().wrapping_mul(2_654_435_761) % places;
    let start = u16::try_from(start).unwrap_or_default();
    for _ in RANGE {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = RANGE.start + start.wrapping_add(given) % (RANGE.end - RANGE.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {RANGE:?} is free")
}

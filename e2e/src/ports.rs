//! Free ports for processes that are told their port.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::LazyLock;

use anyhow::{Result, bail};

/// Below what the kernel gives to outgoing connections and to port 0, so that a port found free here is not
/// taken by one of those before its process has bound it.
const RANGE: std::ops::Range<u16> = 10_000..32_000;

/// Ports that were given out, and where the search goes on.
struct Given {
    ports: BTreeSet<u16>,
    next: u16,
}

/// Processes that search at the same time begin at different places.
static GIVEN: LazyLock<tokio::sync::Mutex<Given>> = LazyLock::new(|| {
    let places = u32::from(RANGE.end - RANGE.start);
    let start = std::process::id().wrapping_mul(2_654_435_761) % places;
    tokio::sync::Mutex::new(Given {
        ports: BTreeSet::new(),
        next: RANGE.start + u16::try_from(start).unwrap_or_default(),
    })
});

/// A port nobody listened on a moment ago and that was not given out before in this process.
pub async fn free() -> Result<u16> {
    let mut given = GIVEN.lock().await;
    for _ in RANGE {
        let port = given.next;
        given.next = if port + 1 < RANGE.end {
            port + 1
        } else {
            RANGE.start
        };
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok()
            && TcpListener::bind(("0.0.0.0", port)).is_ok();
        if is_free && given.ports.insert(port) {
            return Ok(port);
        }
    }
    bail!("no port of {RANGE:?} is free")
}

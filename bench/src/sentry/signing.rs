//! The signing path without a network: from a request's bytes to the certificate's.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use dapr_sentry::bench::Signing;

use crate::process;
use crate::report::{Row, Target};

/// Time of the measurement, and of the same before it for the caches.
const DURATION: Duration = Duration::from_secs(2);

/// The one row.
pub fn row() -> Row {
    Row::new(
        "Sentry: signing path alone, one core",
        "1/s",
        Some(Target::AtLeast(8000.0)),
    )
}

/// Certificates per second of one core's time; what others took of the core does not count.
pub fn measure() -> Result<f64> {
    let signing = Signing::new()?;
    repeat(&signing)?;
    let own = std::process::id();
    let before = process::cpu_time(own)?;
    let certificates = repeat(&signing)?;
    let cpu = process::cpu_time(own)?.saturating_sub(before);
    Ok(certificates / cpu.as_secs_f64())
}

fn repeat(signing: &Signing) -> Result<f64> {
    let start = Instant::now();
    let mut certificates = 0.0;
    while start.elapsed() < DURATION {
        black_box(signing.sign_once()?);
        certificates += 1.0;
    }
    Ok(certificates)
}

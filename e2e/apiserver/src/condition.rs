//! Waiting for what has to become true.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// Pause between two looks at a condition: short against what is waited for, long against a look.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Looks until `look` gives something or `limit` has passed; the last refusal is part of the error.
pub async fn await_condition<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let end = Instant::now() + limit;
    let mut refusal = "no answer".to_owned();
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => refusal = format!("{error:#}"),
            // What was refused before says more than that the last look took too long.
            Err(_) => {}
        }
        if Instant::now() >= end {
            bail!("{what}: not within {limit:?}: {refusal}");
        }
        sleep(PAUSE).await;
    }
}

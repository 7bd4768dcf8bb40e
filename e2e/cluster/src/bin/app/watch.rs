//! When the sidecar knows of a component: what its metadata say, asked without pause.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;

use crate::{SIDECAR, ask};

/// Between two looks: short against what is measured.
const PAUSE: Duration = Duration::from_millis(3);

/// One look may take this long.
const LIMIT: Duration = Duration::from_secs(10);

/// What is looked for.
#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    /// The name of a component.
    pub(crate) name: String,
    /// Its type; empty when it is to go.
    pub(crate) kind: String,
}

/// Looks until it is so, and tells when that was, in microseconds since 1970.
pub(crate) async fn seen(wanted: Wanted) -> Result<u64> {
    let client = ask::client(LIMIT)?;
    let url = format!("{SIDECAR}/v1.0/metadata");
    loop {
        let metadata: Value = serde_json::from_str(&client.get(&url).send().await?.text().await?)?;
        let components = metadata["components"].as_array();
        let mut components = components.into_iter().flatten();
        let kind = components
            .find(|it| it["name"] == *wanted.name)
            .map_or("", |it| it["type"].as_str().unwrap_or_default());
        if kind == wanted.kind {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            return u64::try_from(now.as_micros()).context("a clock far in the future");
        }
        sleep(PAUSE).await;
    }
}

//! `make bench`: prints a table and writes `target/bench.json`.
#![expect(
    clippy::print_stdout,
    reason = "the table on stdout is what this program is for"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dapr_bench::{report, rows};
use report::Row;

/// Time of each invocation load.
const DURATION: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a crypto provider is installed twice")?;
    let own = std::env::current_exe()?
        .parent()
        .context("this executable has no folder")?
        .to_owned();
    let baseline = baseline();

    let mut latency = [
        Row::new("added latency p50, 1,000 rps, 1 KiB, mTLS", "ms", Some(0.6)),
        Row::new("added latency p99, 1,000 rps, 1 KiB, mTLS", "ms", None),
        Row::new("CPU per request and sidecar", "µs", Some(60.0)),
        Row::new("idle RSS of daprd", "MB", Some(12.0)),
    ];
    let mut start = Row::new(
        "cold start of daprd to outbound ready, mTLS",
        "ms",
        Some(60.0),
    );
    // With a baseline A B B A, so that a drift of the machine hits both alike.
    let order: &[bool] = if baseline.is_some() {
        &[true, false, false, true]
    } else {
        &[true]
    };
    for ours in order {
        let binaries = if *ours {
            own.as_path()
        } else {
            baseline.as_deref().unwrap_or(&own)
        };
        let measured = rows::invocation(Some(binaries), DURATION).await?;
        let values = [
            measured.added_p50,
            measured.added_p99,
            measured.cpu_per_request,
            measured.idle_rss,
        ];
        for (row, value) in latency.iter_mut().zip(values) {
            if *ours {
                row.ours.push(value)
            } else {
                row.baseline.push(value)
            }
        }
        let value = rows::cold_start(Some(binaries)).await?;
        if *ours {
            start.ours.push(value)
        } else {
            start.baseline.push(value)
        }
    }
    let mut rows: Vec<Row> = latency.into_iter().chain([start]).collect();
    rows.extend(sizes(&own, baseline.as_deref())?);

    println!("{}", report::table(&rows));
    let file = own.join("../bench.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&report::json(&rows))?)
        .context("writing bench.json")?;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one variable of this program, read at its start"
)]
fn baseline() -> Option<PathBuf> {
    std::env::var("BENCH_BASELINE_DIR")
        .ok()
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
}

fn sizes(own: &Path, baseline: Option<&Path>) -> Result<Vec<Row>> {
    let names = [
        ("daprd", "size of daprd"),
        ("sentry", "size of sentry"),
        ("placement", "size of placement"),
    ];
    names
        .into_iter()
        .map(|(file, name)| {
            let mut row = Row::new(name, "MB", None);
            row.ours.push(rows::size(own, file)?);
            row.baseline.extend(
                baseline
                    .map(|folder| rows::size(folder, file))
                    .transpose()?,
            );
            Ok(row)
        })
        .collect()
}

//! `make bench`: prints a table and writes `target/bench.json`. Arguments name the groups of rows; none is all of them.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table on stdout and its progress beside it are what this program is for"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dapr_bench::report::{Row, Target};
use dapr_bench::{floor, injector, operator, placement, report, rows, sentry};

// Ten thousand clients live in this program, and what they take is in the way of what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time of each invocation load.
const DURATION: Duration = Duration::from_secs(10);

/// With a baseline A B B A, so that a drift of the machine hits both alike.
const ORDER: [Side; 4] = [Side::Ours, Side::Baseline, Side::Baseline, Side::Ours];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Baseline,
}

/// Rows that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// What bare libraries take for the hops and streams of daprd and the operator.
    Floor,
    Daprd,
    Sentry,
    /// Sentry that asks an API server who its clients are.
    SentryInCluster,
    /// What Sentry does without its network.
    Signing,
    Injector,
    Operator,
    Placement,
    /// Placement with ten thousand hosts.
    PlacementOfMany,
    Sizes,
}

#[tokio::main]
async fn main() -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a crypto provider is installed twice")?;
    let beside = std::env::current_exe()?
        .parent()
        .context("this executable has no folder")?
        .to_owned();
    let own = folder("BENCH_DIR").unwrap_or(beside);
    let baseline = folder("BENCH_BASELINE_DIR");
    let mut all = Vec::new();
    for group in groups(std::env::args().skip(1))? {
        all.extend(run(group, &own, baseline.as_deref()).await?);
    }
    println!("{}", report::table(&all));
    let file = own.join("../bench.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&report::json(&all))?)
        .context("writing bench.json")?;
    Ok(())
}

async fn run(group: Group, own: &Path, baseline: Option<&Path>) -> Result<Vec<Row>> {
    let mut rows = group.rows();
    let order = match baseline {
        Some(_) if group.has_baseline() => &ORDER[..],
        Some(_) | None => &ORDER[..1],
    };
    for side in order {
        let folder = match side {
            Side::Ours => own,
            Side::Baseline => baseline.unwrap_or(own),
        };
        for (row, value) in rows.iter_mut().zip(group.measure(folder).await?) {
            // A run takes minutes; whoever watches it sees what there is.
            eprintln!("{side:?} {}: {value:.3} {}", row.name, row.unit);
            match side {
                Side::Ours => row.ours.push(value),
                Side::Baseline => row.baseline.push(value),
            }
        }
    }
    Ok(rows)
}

/// The groups asked for, or all.
fn groups(names: impl Iterator<Item = String>) -> Result<Vec<Group>> {
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return Ok(Group::ALL.to_vec());
    }
    names
        .iter()
        .map(|name| {
            let group = Group::ALL.into_iter().find(|group| group.name() == name);
            group.with_context(|| {
                let known = Group::ALL.map(Group::name).join(", ");
                format!("no group {name:?}; there are {known}")
            })
        })
        .collect()
}

impl Group {
    const ALL: [Self; 10] = [
        Self::Floor,
        Self::Daprd,
        Self::Sentry,
        Self::SentryInCluster,
        Self::Signing,
        Self::Injector,
        Self::Operator,
        Self::Placement,
        Self::PlacementOfMany,
        Self::Sizes,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Daprd => "daprd",
            Self::Sentry => "sentry",
            Self::SentryInCluster => "sentry-kubernetes",
            Self::Signing => "signing",
            Self::Injector => "injector",
            Self::Operator => "operator",
            Self::Placement => "placement",
            Self::PlacementOfMany => "placement-many",
            Self::Sizes => "sizes",
        }
    }

    /// Whether there are executables of another folder to measure it on.
    fn has_baseline(self) -> bool {
        !matches!(self, Self::Floor | Self::Signing)
    }

    fn rows(self) -> Vec<Row> {
        let at_most = |limit| Some(Target::AtMost(limit));
        match self {
            Self::Floor => floor::rows(),
            Self::Daprd => vec![
                Row::new(
                    "added latency p50, 1,000 rps, 1 KiB, mTLS",
                    "ms",
                    at_most(0.6),
                ),
                Row::new("added latency p99, 1,000 rps, 1 KiB, mTLS", "ms", None),
                Row::new("CPU per request and sidecar", "µs", at_most(60.0)),
                Row::new("idle RSS of daprd", "MB", at_most(12.0)),
                Row::new(
                    "cold start of daprd to outbound ready, mTLS",
                    "ms",
                    at_most(60.0),
                ),
            ],
            Self::Sentry => sentry::rows(),
            Self::SentryInCluster => sentry::rows_in_cluster(),
            Self::Signing => vec![sentry::signing::row()],
            Self::Injector => injector::rows(),
            Self::Operator => operator::rows(),
            Self::Placement => placement::rows(),
            Self::PlacementOfMany => placement::rows_of_many(),
            Self::Sizes => SIZES
                .iter()
                .map(|(_, name)| Row::new(name, "MB", None))
                .collect(),
        }
    }

    /// One value for each of its rows.
    async fn measure(self, folder: &Path) -> Result<Vec<f64>> {
        match self {
            Self::Floor => floor::measure(DURATION).await,
            Self::Daprd => {
                let measured = rows::invocation(Some(folder), DURATION).await?;
                Ok(vec![
                    measured.added_p50,
                    measured.added_p99,
                    measured.cpu_per_request,
                    measured.idle_rss,
                    rows::cold_start(Some(folder)).await?,
                ])
            }
            Self::Sentry => sentry::measure(folder).await,
            Self::SentryInCluster => sentry::measure_in_cluster(folder).await,
            Self::Signing => Ok(vec![sentry::signing::measure()?]),
            Self::Injector => injector::measure(folder).await,
            Self::Operator => operator::measure(folder).await,
            Self::Placement => placement::measure(folder).await,
            Self::PlacementOfMany => placement::measure_many(folder).await,
            Self::Sizes => SIZES
                .iter()
                .map(|(file, _)| rows::size(folder, file))
                .collect(),
        }
    }
}

/// Executables whose size is shown.
const SIZES: [(&str, &str); 3] = [
    ("daprd", "size of daprd"),
    ("sentry", "size of sentry"),
    ("placement", "size of placement"),
];

#[expect(
    clippy::disallowed_methods,
    reason = "the variables of this program, read at its start"
)]
fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var(variable)
        .ok()
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_asked_for_by_name() {
        let check = |names: &[&str], expected: Option<&[Group]>| {
            let found = groups(names.iter().map(ToString::to_string)).ok();
            assert_eq!(found.as_deref(), expected, "{names:?}");
        };
        check(&[], Some(&Group::ALL));
        check(&["sizes", "sentry"], Some(&[Group::Sizes, Group::Sentry]));
        check(&["scheduler"], None);
    }
}

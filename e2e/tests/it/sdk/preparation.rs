//! Installing what a program needs, once per version of its manifest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use dapr_e2e_apiserver::preparation;

pub(super) use dapr_e2e_apiserver::preparation::Prepared;

/// Packages are a download away; a registry that takes longer cannot be had.
const INSTALLATION: Duration = Duration::from_secs(240);

/// Folder of a language's program.
pub(super) fn source(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("sdk")
        .join(language)
}

/// Runs the `prepare` script of a language, which does nothing if it has run before.
pub(super) fn prepare(language: &str) -> Result<Prepared> {
    preparation::prepare(&source(language).join("prepare"), INSTALLATION)
}

/// Says loudly that a language was left out.
pub(super) fn skipped(language: &str, reason: &str) -> Result<()> {
    preparation::skipped(&format!("the {language} SDK"), reason)
}

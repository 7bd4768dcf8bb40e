//! The Configuration of a sidecar outside a cluster.

use std::path::PathBuf;

use dapr_crds::Configuration;
use dapr_crds::manifest::{ManifestError, WarningKind};
use dapr_crds::standalone::{self, Source};
use dapr_kit::flags::Environment;

/// A Configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("error loading configuration: failed to read --config file {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be decoded.
    #[error("error loading configuration")]
    Decode(#[from] ManifestError),
}

/// Reads `files` on top of the defaults and of each other.
pub fn load(files: &[PathBuf], environment: &Environment) -> Result<Configuration, Error> {
    let mut texts = Vec::with_capacity(files.len());
    for path in files {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        texts.push((path.display().to_string(), text));
    }
    let sources = texts.iter().map(|(file, text)| Source { file, text });
    let loaded = standalone::load(sources, |name| environment.get(name).map(str::to_owned))?;
    for (file, warning) in &loaded.warnings {
        tell(warning.kind, format_args!("{file}: {warning}"));
    }
    Ok(loaded.configuration)
}

/// Logs what is odd about a resource. What only an API server would mind matters to nobody outside a cluster.
pub(super) fn tell(kind: WarningKind, text: std::fmt::Arguments<'_>) {
    match kind {
        WarningKind::KubernetesRefuses => tracing::debug!(target: "dapr.runtime", "{text}"),
        WarningKind::UnknownField
        | WarningKind::OtherCase
        | WarningKind::ReadAsText
        | WarningKind::Twice
        | WarningKind::OtherKind => tracing::warn!(target: "dapr.runtime", "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use dapr_kit::process::chain;

    use super::*;

    #[test]
    fn the_reason_is_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing.yaml");
        let broken = folder.path().join("broken.yaml");
        std::fs::write(&broken, "spec: {tracing: [}").expect("written");
        let check = |path: &PathBuf, reason: &str| {
            let error = load(std::slice::from_ref(path), &Environment::default())
                .expect_err("cannot be used");
            let text = chain(&error);
            assert!(text.starts_with("error loading configuration"), "{text}");
            assert_eq!(text.matches(reason).count(), 1, "{text}");
        };
        check(&missing, "os error 2");
        check(&broken, "not valid YAML");
    }
}

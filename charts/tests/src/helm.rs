//! The program helm: the one of the machine, or the one that `e2e/cluster/build` makes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dapr_e2e_apiserver::preparation::{Prepared, prepare, skipped};
use serde_json::Value;

use crate::documents;

/// The chart of this repository.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dapr");

/// A values file as Dapr 1.18 ships it.
pub const UPSTREAM_VALUES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/values/upstream.yaml");

/// The name that installs have, and the words of the documentation.
pub const RELEASE: &str = "dapr";

/// The Kubernetes that renderings without a cluster are for: the one that tests run on.
const KUBERNETES: &str = "1.33.13";

/// A build takes some minutes.
const BUILD: Duration = Duration::from_secs(20 * 60);

/// helm, and the cluster it works on.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: Option<PathBuf>,
}

/// helm has refused.
#[derive(Debug)]
pub struct Failed {
    /// What it wrote on stderr.
    pub message: String,
}

impl Helm {
    /// helm without a cluster. `None` says that it cannot be had on this machine, which was reported as a skip of
    /// `story`.
    pub fn find(story: &str) -> Result<Option<Self>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/cluster/helm");
        match prepare(&script, BUILD)? {
            Prepared::Ready(folder) => Ok(Some(Self {
                program: folder.join("helm"),
                kubeconfig: None,
            })),
            Prepared::Unavailable(reason) => {
                skipped(story, &format!("no helm: {reason}"))?;
                Ok(None)
            }
        }
    }

    /// helm on the cluster of a kubeconfig.
    pub fn on(&self, kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: Some(kubeconfig.to_owned()),
            ..self.clone()
        }
    }

    /// Runs helm. Tells what it prints, or why it refused.
    pub fn run<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Result<String, Failed>> {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        // Neither repositories nor plugins of whoever runs the tests.
        command.env("HELM_NO_PLUGINS", "1");
        match &self.kubeconfig {
            Some(kubeconfig) => command.env("KUBECONFIG", kubeconfig),
            None => command.env("KUBECONFIG", "/dev/null"),
        };
        let output = command
            .output()
            .with_context(|| format!("running {}", self.program.display()))?;
        if output.status.success() {
            return Ok(Ok(String::from_utf8(output.stdout)?));
        }
        Ok(Err(Failed {
            message: String::from_utf8_lossy(&output.stderr).into_owned(),
        }))
    }

    /// The text the chart renders to in a namespace, with further arguments (`--set`, `--values`).
    pub fn template(&self, namespace: &str, arguments: &[&str]) -> Result<Result<String, Failed>> {
        let fixed = ["template", RELEASE, CHART, "--namespace", namespace];
        let version = ["--kube-version", KUBERNETES];
        let all = fixed.iter().chain(&version).chain(arguments).copied();
        self.run(all)
    }

    /// As [`Helm::template`], read.
    pub fn render(&self, namespace: &str, arguments: &[&str]) -> Result<Vec<Value>> {
        let rendered = self.template(namespace, arguments)?;
        documents(&rendered.map_err(|failed| anyhow::anyhow!("{}", failed.message))?)
    }
}

//! The machine below the cluster: only that of `local` can be disturbed and looked into.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::preparation::skipped;
use tokio::process::Command;

use crate::cluster::variable;

/// The cluster of `local`.
#[derive(Debug)]
pub struct Node {
    script: PathBuf,
}

impl Node {
    /// The node, if the cluster is that of `local`. `None` says that it is another, which was reported as a skip of
    /// `story`.
    pub fn find(story: &str) -> Result<Option<Self>> {
        let Some(script) = variable("E2E_NODE") else {
            skipped(story, "not the cluster of e2e/cluster/local")?;
            return Ok(None);
        };
        Ok(Some(Self {
            script: script.into(),
        }))
    }

    /// Stops a process of the node where it is.
    pub async fn pause(&self, process: &str) -> Result<()> {
        self.run(&["pause", process]).await.map(drop)
    }

    /// Lets it go on.
    pub async fn resume(&self, process: &str) -> Result<()> {
        self.run(&["resume", process]).await.map(drop)
    }

    /// Kills a process of the node and starts it again.
    pub async fn restart(&self, process: &str) -> Result<()> {
        self.run(&["restart", process]).await.map(drop)
    }

    /// What the service accounts of the control plane have asked for, one event of the API server's audit log per line.
    pub async fn audit(&self) -> Result<String> {
        self.run(&["audit"]).await
    }

    /// Resident memory of a container's process in kilobytes, from the kernel's own count.
    pub async fn memory(&self, namespace: &str, pod: &str, container: &str) -> Result<u64> {
        let printed = self.run(&["memory", namespace, pod, container]).await?;
        printed.trim().parse().context(printed)
    }

    async fn run(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(&self.script)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .await
            .context("running local")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "local {}: {said}", words.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }
}

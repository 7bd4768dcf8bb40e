//! Every command of the pages about Kubernetes is run as it stands. (Blocks marked `console` are for other places: a
//! registry, a node.)

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_cluster::{Cluster, Namespace};
use tokio::process::Command;

/// The root of the repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The blocks of shell of a page.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

/// Runs a page's blocks one after the other, in a folder with the chart, as a reader would.
async fn follow(cluster: &Cluster, page: &str) -> Result<()> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs").join(page))?;
    let folder = tempfile::tempdir()?;
    symlink(Path::new(ROOT).join("charts"), folder.path().join("charts"))?;
    let blocks = blocks(&text);
    ensure!(!blocks.is_empty(), "{page} has no commands");
    for block in blocks {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &block])
            .current_dir(folder.path())
            .env("KUBECONFIG", cluster.kubeconfig())
            .stdin(Stdio::null())
            .output()
            .await
            .context("running bash")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{page}:\n{block}\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_page_about_installing() -> Result<()> {
    let Some(cluster) = Cluster::take("docs/install.md").await? else {
        return Ok(());
    };
    if !cluster.has_default_images() {
        return Ok(());
    }
    cluster.uninstall().await?;
    let namespace = Namespace::existing(&cluster, "default");
    namespace.plain("orders").await?;
    follow(&cluster, "install.md").await?;
    namespace.delete("deployment/orders").await
}

#[tokio::test]
async fn the_pages_about_upgrading_and_coming() -> Result<()> {
    let Some(cluster) = Cluster::take("docs/upgrade.md").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    follow(&cluster, "upgrade.md").await?;
    follow(&cluster, "coming-from-upstream.md").await
}

#[tokio::test]
async fn the_pages_about_running() -> Result<()> {
    let Some(cluster) = Cluster::take("docs/production.md").await? else {
        return Ok(());
    };
    cluster.install(&["global.ha.enabled=true"])?;
    follow(&cluster, "production.md").await?;
    follow(&cluster, "troubleshooting.md").await?;
    cluster.install(&[])?;
    Ok(())
}

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

/// The pages that are followed.
const FOLLOWED: [&str; 5] = [
    "coming-from-upstream.md",
    "install.md",
    "production.md",
    "troubleshooting.md",
    "upgrade.md",
];

#[test]
fn pages_with_commands_are_followed() -> Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(Path::new(ROOT).join("docs"))? {
        let path = entry?.path();
        let is_page = path.extension().is_some_and(|it| it == "md");
        if is_page && !blocks(&std::fs::read_to_string(&path)?).is_empty() {
            let name = path.file_name().context("no name")?;
            found.push(name.to_string_lossy().into_owned());
        }
    }
    found.sort();
    ensure!(found == FOLLOWED, "{found:?}: others are marked `console`");
    Ok(())
}

/// Runs a page's blocks one after the other, in a folder with the chart, as a reader would. Tells what each printed.
async fn follow(cluster: &Cluster, page: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs").join(page))?;
    let folder = tempfile::tempdir()?;
    symlink(Path::new(ROOT).join("charts"), folder.path().join("charts"))?;
    let blocks = blocks(&text);
    ensure!(!blocks.is_empty(), "{page} has no commands");
    ensure!(FOLLOWED.contains(&page), "{page} is not among them");
    let mut printed = Vec::new();
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
        printed.push(String::from_utf8(output.stdout)?);
    }
    Ok(printed)
}

/// What `sha256sum` prints for a stream.
fn sums(printed: &str) -> Vec<&str> {
    let lines = printed.lines().filter_map(|it| it.strip_suffix("  -"));
    lines.filter(|it| it.len() == 64).collect()
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
    follow(&cluster, "coming-from-upstream.md").await?;
    Ok(())
}

#[tokio::test]
async fn the_pages_about_running() -> Result<()> {
    let Some(cluster) = Cluster::take("docs/production.md").await? else {
        return Ok(());
    };
    cluster.install(&["global.ha.enabled=true"])?;
    follow(&cluster, "production.md").await?;
    let printed = follow(&cluster, "troubleshooting.md").await?.concat();
    let sums = sums(&printed);
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    ensure!(
        matches!(sums[..], [one, other] if one == other && one != nothing),
        "both have to print the same: {sums:?}"
    );
    cluster.install(&[])?;
    Ok(())
}

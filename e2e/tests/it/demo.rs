//! The demo that is ended half-way.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;

/// How long it may take to begin, and to end.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_demo_that_is_ended_half_way_leaves_nothing() -> Result<()> {
    for signal in ["-TERM", "-INT"] {
        let folder = tempfile::tempdir()?;
        let left = || Ok::<_, anyhow::Error>(std::fs::read_dir(folder.path())?.count());
        let mut demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_demo"))
            .env("TMPDIR", folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        await_condition("the demo has begun", SOON, async || {
            ensure!(left()? == 1, "no folder");
            Ok(())
        })
        .await?;
        let pid = demo.id().context("it has ended")?.to_string();
        ensure!(
            Command::new("kill")
                .args([signal, &pid])
                .status()?
                .success()
        );
        let status = tokio::time::timeout(SOON, demo.wait()).await??;
        ensure!(status.code() == Some(1), "{signal}: {status}");
        ensure!(left()? == 0, "{signal}: its folder is left");
    }
    Ok(())
}

//! The original's programs and ours side by side, in all combinations.
//!
//! They run where `E2E_ORIGINAL` names a folder with the original's executables of version 1.18, under their own names;
//! a program that is not there is skipped with the stories that need it. What they showed when they ran last stands in
//! `docs/coming-from-upstream.md`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::{ControlPlane, Sentry};
use dapr_e2e_apiserver::preparation::skipped;

use super::actor_hosts::{Host, await_both, home};
use crate::support::{LIMIT, Stage, fetch, story};

/// The folder with these programs of the original, or a report that the story is skipped.
fn original(story: &str, programs: &[&str]) -> Option<PathBuf> {
    let folder = std::env::var_os("E2E_ORIGINAL").map(PathBuf::from);
    let missing = match &folder {
        None => Some("E2E_ORIGINAL names no folder".to_owned()),
        Some(folder) => programs
            .iter()
            .find(|name| !folder.join(name).is_file())
            .map(|name| format!("{} is no file", folder.join(name).display())),
    };
    let Some(reason) = missing else {
        return folder;
    };
    skipped(&format!("beside the original: {story}"), &reason).expect("a note that it was skipped");
    None
}

/// Two hosts of actors call each other over mutual TLS, and go on when the leader of Placement and a host are killed.
async fn tell(stage: &Stage, plane: &mut ControlPlane) -> Result<()> {
    let mut left = Host::start(stage, "left", plane).await?;
    let right = Host::start(stage, "right", plane).await?;
    await_both(stage, &[&left.sidecar, &right.sidecar]).await?;

    let leader = plane.leader(LIMIT).await?;
    plane.placement[leader].process.kill().await?;
    plane.leader(LIMIT).await?;
    await_both(stage, &[&left.sidecar, &right.sidecar]).await?;

    let mut id = 0;
    while home(stage, &right.sidecar, id).await? != left.name {
        id += 1;
    }
    left.sidecar.process.kill().await?;
    await_condition("the actor answers from the other host", LIMIT, || async {
        let home = home(stage, &right.sidecar, id).await?;
        ensure!(home == right.name, "{home} answers");
        Ok(())
    })
    .await?;

    // Without a certificate from the same authority nobody is heard.
    let caller = stage
        .sidecar(&stage.spec(&stage.id("caller"), None), Some(plane))
        .await?;
    let url = |id: &str| caller.url(&format!("invoke/{id}/method/anything"));
    fetch(stage.http.get(url(&stage.id("hosts"))))
        .await?
        .expect(200)?;
    let stranger = stage
        .sidecar(&stage.spec(&stage.id("stranger"), None), None)
        .await?;
    let url = stranger.url(&format!("invoke/{}/method/anything", stage.id("hosts")));
    let refused = fetch(stage.http.get(url)).await?;
    ensure!(refused.status == 500, "answered {}", refused.status);
    Ok(())
}

#[test]
fn our_sidecars_on_the_originals_control_plane() {
    let programs = ["sentry", "placement"];
    let Some(folder) = original("our sidecars on its control plane", &programs) else {
        return;
    };
    story("original-plane", async |stage| {
        let started = ControlPlane::start_from(stage.folder(), 3, Some(folder)).await;
        let mut plane = started.context("starting the original's control plane")?;
        plane.binaries = None;
        tell(stage, &mut plane).await
    });
}

#[test]
fn the_originals_sidecars_on_our_control_plane() {
    let Some(folder) = original("its sidecars on our control plane", &["daprd"]) else {
        return;
    };
    story("original-sidecars", async |stage| {
        let mut plane = stage.control_plane(3).await?;
        plane.binaries = Some(folder);
        tell(stage, &mut plane).await
    });
}

#[test]
fn each_sentry_goes_on_with_the_authority_of_the_other() {
    let Some(folder) = original("one authority for both", &["sentry"]) else {
        return;
    };
    let original = Some(folder.as_path());
    for (name, order) in [
        ("its-authority", [original, None, original]),
        ("our-authority", [None, original, None]),
    ] {
        story(name, async |stage| {
            let mut roots = Vec::new();
            for binaries in order {
                roots.push(sentry(stage, binaries).await?);
            }
            ensure!(roots.iter().all(|it| *it == roots[0]), "another was made");
            Ok(())
        });
    }
}

/// Starts a Sentry on the authority of this story, has a sidecar get its identity there, and ends it.
async fn sentry(stage: &Stage, binaries: Option<&Path>) -> Result<String> {
    let sentry = Sentry::start(stage.folder(), binaries).await?;
    let anchors = sentry.trust_anchors.clone();
    let binaries = binaries.map(Path::to_owned);
    let mut plane = ControlPlane::around(sentry, stage.folder(), 0, binaries).await?;
    plane.binaries = None;
    let spec = stage.spec(&stage.id("identified"), None);
    let mut sidecar = stage.sidecar(&spec, Some(&plane)).await?;
    sidecar.process.kill().await?;
    plane.sentry.process.terminate(LIMIT).await?;
    Ok(anchors)
}

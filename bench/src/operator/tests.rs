use std::path::PathBuf;

use super::*;

/// Where the tests of this workspace find its programs, if they are built.
fn programs() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let folder = own.parent()?.parent()?.to_owned();
    let built = ["operator", "sentry"].map(|name| folder.join(name).is_file());
    built.iter().all(|it| *it).then_some(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_see_every_change() -> Result<()> {
    let Some(programs) = programs() else {
        return dapr_e2e_apiserver::preparation::skipped(
            "bench: sidecars of the operator",
            "operator and sentry are not built",
        );
    };
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let folder = tempfile::tempdir()?;
    let plane = Plane::start(folder.path(), &programs).await?;
    plane.fill(20, 10);
    let server = plane.operator(None, None).await?;
    let mut crowd = Crowd::new(server.address(), plane.sidecar().await?);
    join(&plane, &mut crowd, 20).await?;
    let few = changes(&plane, &mut crowd).await?;
    join(&plane, &mut crowd, 20).await?;
    let more = changes(&plane, &mut crowd).await?;
    anyhow::ensure!(few > Duration::ZERO && more > Duration::ZERO);
    drop(crowd);
    server.kill().await?;
    plane.stop().await
}

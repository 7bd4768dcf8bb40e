//! Who is not let in.

use anyhow::{Result, ensure};
use dapr_e2e_cluster::{Cluster, Namespace};

/// Where sidecars talk to each other.
const INTERNAL: u16 = 50002;

#[tokio::test]
async fn plain_text_and_a_foreign_authority_are_refused() -> Result<()> {
    let Some(cluster) = Cluster::take("strangers").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-strangers").await?;
    namespace.deploy("orders", 1).await?;
    namespace.deploy("stranger", 1).await?;
    let pods = namespace.pods("orders").await?;
    let address = pods
        .first()
        .and_then(|pod| pod["status"]["podIP"].as_str())
        .unwrap_or_default()
        .to_owned();
    // That a stranger would be heard where anybody is: the application has no TLS, Sentry asks for no certificate.
    let app = namespace
        .knock("stranger", &format!("{address}:8000"))
        .await?;
    ensure!(app.plain == "answered", "the application: {app:?}");
    let system = cluster.system();
    let sentry = format!("dapr-sentry.{system}.svc.cluster.local:443");
    let sentry = namespace.knock("stranger", &sentry).await?;
    ensure!(sentry.foreign == "answered", "Sentry: {sentry:?}");
    ensure!(sentry.abroad == "answered", "Sentry: {sentry:?}");
    for door in [
        format!("{address}:{INTERNAL}"),
        format!("dapr-api.{system}.svc.cluster.local:443"),
        format!("dapr-placement-server.{system}.svc.cluster.local:50005"),
    ] {
        let knock = namespace.knock("stranger", &door).await?;
        println!("{door}: {knock:?}");
        for became in [&knock.plain, &knock.foreign, &knock.abroad] {
            ensure!(became.starts_with("refused: "), "{door}: {knock:?}");
        }
    }
    namespace.remove().await
}

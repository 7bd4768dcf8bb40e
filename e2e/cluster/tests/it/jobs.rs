//! Pods that end.

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_cluster::{App, Cluster, Namespace, Summary};

#[tokio::test]
async fn a_job_with_a_sidecar_completes() -> Result<()> {
    let Some(cluster) = Cluster::take("jobs").await? else {
        return Ok(());
    };
    cluster.install(&["dapr_sidecar_injector.nativeSidecar=true"])?;
    let namespace = Namespace::create(&cluster, "story-jobs").await?;
    namespace.deploy("orders", 1).await?;
    // After another install a leader may hold the lease for a while that is gone already, and a Job does not ask twice.
    let service = ["service/orders-dapr", "--namespace", namespace.name()];
    cluster
        .eventually("orders can be found", &service, |_| Ok(()))
        .await?;
    // It does its work through its sidecar, which is there before it and goes after it.
    let words = ["call", "orders", "20"];
    namespace.job(&App::new("batch"), &words).await?;
    let jobs = ["job/batch", "--namespace", namespace.name()];
    cluster
        .eventually("the job completes", &jobs, |job| {
            let status = &job["status"];
            ensure!(status["succeeded"] == 1, "{status}");
            Ok(())
        })
        .await?;
    let pods = namespace.pods("batch").await?;
    for pod in &pods {
        let containers = pod.pointer("/status/initContainerStatuses/0");
        ensure!(
            containers.is_some_and(
                |it| it["name"] == "daprd" && it["state"]["terminated"]["exitCode"] == 0
            ),
            "the sidecar: {:?}",
            containers
        );
    }
    ensure!(pods.len() == 1, "{} pods", pods.len());
    let log = cluster.logs(namespace.name(), "job/batch", "app").await;
    let summary: Summary = serde_json::from_str(log.trim()).with_context(|| log.clone())?;
    ensure!(summary.answered() == 20, "{:?}", summary.failures);
    namespace.remove().await?;
    cluster.install(&[])?;
    Ok(())
}

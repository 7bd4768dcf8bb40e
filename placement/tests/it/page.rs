//! The pages: `/placement/state`, health and metrics.

use crate::process::{Placement, get, request};
use crate::sidecar::{Sidecar, round};

#[tokio::test]
async fn the_state_page_shows_the_tables() {
    let placement = Placement::start(&["--metadata-enabled"]).await;
    let state = async || {
        let (status, head, body) = get(placement.healthz_port, "/placement/state")
            .await
            .expect("answers");
        assert_eq!(status, 200);
        assert!(head.contains("content-type: application/json"), "{head}");
        body
    };
    assert_eq!(state().await, "{}");
    let mut client = Sidecar::connect(placement.port, "b", &[]).await;
    assert_eq!(round(&mut [&mut client], 0).await, "");
    assert_eq!(state().await, r#"{"tables":{"default":{}}}"#);
    let mut host = Sidecar::connect(placement.port, "a", &["t2", "t1"]).await;
    assert_eq!(round(&mut [&mut client, &mut host], 1).await, "t1=a t2=a");
    assert_eq!(
        state().await,
        r#"{"tables":{"default":{"hosts":[{"name":"a:50002","entities":["t1","t2"],"id":"a","namespace":"default","operation":1}],"version":1}}}"#
    );
    assert_eq!(
        request("POST", placement.healthz_port, "/placement/state")
            .await
            .expect("answers")
            .0,
        200
    );
}

#[tokio::test]
async fn the_state_page_is_off_by_default() {
    let placement = Placement::start(&[]).await;
    assert_eq!(
        get(placement.healthz_port, "/placement/state")
            .await
            .expect("answers")
            .0,
        404
    );
}

#[tokio::test]
async fn metrics_count_streams() {
    let placement = Placement::start(&[]).await;
    let mut host = Sidecar::connect(placement.port, "a", &["t"]).await;
    host.expect("lock", 1).await;
    let _client = Sidecar::connect(placement.port, "b", &[]).await;
    crate::process::eventually("both are counted", async || {
        let (_, _, text) = get(placement.metrics_port, "/any/path")
            .await
            .expect("answers");
        text.contains("dapr_placement_runtimes_total{host_namespace=\"default\"} 2")
            && text.contains("dapr_placement_actor_runtimes_total{host_namespace=\"default\"} 1")
            && text.contains("dapr_placement_leader_status 1")
            && text.contains("dapr_placement_raft_leader_status 1")
    })
    .await;
}

#[tokio::test]
async fn one_that_nobody_uses_is_small() {
    let placement = Placement::start(&[]).await;
    let heap = placement.heap();
    // 3 MB; the tables that the consensus library's histograms could use would be another 27.
    assert!(heap < 10 << 20, "{heap} bytes");
}

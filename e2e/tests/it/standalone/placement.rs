//! Placement fails, and what goes on meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use dapr_e2e::standalone::Sidecar;
use dapr_e2e::{await_condition, ports};
use serde_json::json;

use super::actor_hosts::{Host, await_both, home};
use crate::support::{Answer, App, LIMIT, component, fetch, story};

#[test]
fn a_new_leader_takes_over() {
    story("placement-leader", async |stage| {
        let mut control_plane = stage.control_plane(3).await?;
        let left = Host::start(stage, "left", &control_plane).await?;
        home(stage, &left.sidecar, 1).await?;

        let leader = control_plane.leader(LIMIT).await?;
        control_plane.placement[leader].process.kill().await?;
        await_condition(
            "the actor answers while there is no leader, or soon after",
            LIMIT,
            || async {
                let home = home(stage, &left.sidecar, 1).await?;
                ensure!(home == "left", "{home} answers");
                Ok(())
            },
        )
        .await?;
        let next = control_plane.leader(LIMIT).await?;
        assert_ne!(next, leader);

        // A host that joins now gets its share: the new leader runs rounds.
        let right = Host::start(stage, "right", &control_plane).await?;
        await_both(stage, &[&left.sidecar, &right.sidecar]).await?;
        let mut homes = BTreeSet::new();
        for id in 0..8 {
            let seen_by_left = home(stage, &left.sidecar, id).await?;
            assert_eq!(
                home(stage, &right.sidecar, id).await?,
                seen_by_left,
                "actor {id}"
            );
            homes.insert(seen_by_left);
        }
        assert!(
            homes.iter().all(|home| home == "left" || home == "right"),
            "{homes:?}"
        );
        Ok(())
    });
}

#[test]
fn without_placement_only_actors_wait() {
    story("placement-away", async |stage| {
        let app = App::start(|request| match request.path.as_str() {
            "/dapr/config" => Answer::json(&json!({ "entities": ["Counter"] })),
            _ => Answer::status(200),
        })
        .await?;
        let id = stage.id("alone");
        let store = component("store", "state.in-memory", &[("actorStateStore", "true")]);
        let mut spec = stage.spec(&id, Some(&app));
        spec.resources = Some(stage.resources("resources", &[store])?);
        let nobody = ports::free().await?;
        spec.flags
            .push(format!("--placement-host-address=127.0.0.1:{nobody}"));
        let mut sidecar = Sidecar::start(stage.folder(), &spec, None).await?;
        sidecar.await_outbound().await?;

        let write = json!([{ "key": "a", "value": 1 }]);
        fetch(stage.http.post(sidecar.url("state/store")).json(&write))
            .await?
            .expect(204)?;
        await_condition("everything but placement is ready", LIMIT, || async {
            let message = fetch(stage.http.get(sidecar.url("healthz")))
                .await?
                .refusal(500, "ERR_HEALTH_NOT_READY")?;
            ensure!(
                message == "dapr is not ready: [internal-placement-service]",
                "{message}"
            );
            Ok(())
        })
        .await?;
        fetch(
            stage
                .http
                .post(sidecar.url(&format!("invoke/{id}/method/a"))),
        )
        .await?
        .expect(200)?;

        let call = stage
            .http
            .post(sidecar.url("actors/Counter/1/method/a"))
            .timeout(Duration::from_secs(2));
        let waited = call.send().await;
        let timed_out = waited.as_ref().is_err_and(reqwest::Error::is_timeout);
        assert!(timed_out, "an actor did not wait for placement: {waited:?}");
        let metadata = fetch(stage.http.get(sidecar.url("metadata")))
            .await?
            .expect(200)?
            .json()?;
        assert_eq!(
            metadata["actorRuntime"]["placement"], "placement: disconnected",
            "{metadata}"
        );
        assert_eq!(metadata["actorRuntime"]["hostReady"], false, "{metadata}");

        let status = sidecar.process.terminate(LIMIT).await?;
        assert!(status.success(), "the sidecar ended with {status}");
        Ok(())
    });
}

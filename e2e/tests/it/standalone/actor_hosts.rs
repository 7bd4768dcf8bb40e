//! Actors on several hosts: each lives in one place, and moves when its host dies.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::{ControlPlane, Sidecar};
use serde_json::json;

use crate::support::{Answer, App, LIMIT, Request, Stage, component, fetch, story};

/// Actors enough that both hosts get some: the chance that they do not is below one in a billion.
const ACTORS: u32 = 32;

/// One replica of the hosting application.
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) app: App,
    pub(super) sidecar: Sidecar,
}

impl Host {
    /// Starts a replica that answers every actor call with its own name.
    pub(super) async fn start(
        stage: &Stage,
        name: &'static str,
        control_plane: &ControlPlane,
    ) -> Result<Self> {
        let app = App::start(move |request: &Request| match request.path.as_str() {
            "/dapr/config" => Answer::json(&json!({ "entities": ["Counter"] })),
            _ => Answer::status(200).with_body(name),
        })
        .await?;
        let store = component(
            "store",
            "state.sqlite",
            &[
                ("connectionString", "state.db"),
                ("actorStateStore", "true"),
            ],
        );
        let mut spec = stage.spec(&stage.id("hosts"), Some(&app));
        spec.name = name.to_owned();
        spec.placement = true;
        spec.resources = Some(stage.resources("resources", &[store])?);
        let sidecar = stage.sidecar(&spec, Some(control_plane)).await?;
        Ok(Self { name, app, sidecar })
    }

    pub(super) fn url(&self, path: &str) -> String {
        self.sidecar.url(&format!("actors/Counter/{path}"))
    }
}

/// Who answers for actor `id`, asked through `sidecar`.
pub(super) async fn home(stage: &Stage, sidecar: &Sidecar, id: u32) -> Result<String> {
    let url = sidecar.url(&format!("actors/Counter/{id}/method/where"));
    Ok(fetch(stage.http.post(url)).await?.expect(200)?.body)
}

#[test]
fn an_actor_lives_on_one_host_for_all_callers() {
    story("hosts-single", async |stage| {
        let control_plane = stage.control_plane(1).await?;
        let left = Host::start(stage, "left", &control_plane).await?;
        let right = Host::start(stage, "right", &control_plane).await?;
        let mut spec = stage.spec(&stage.id("client"), None);
        spec.placement = true;
        let client = stage.sidecar(&spec, Some(&control_plane)).await?;
        await_both(stage, &[&left.sidecar, &right.sidecar, &client]).await?;

        let mut homes: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for id in 0..ACTORS {
            let seen_by_client = home(stage, &client, id).await?;
            for host in [&left, &right] {
                assert_eq!(
                    home(stage, &host.sidecar, id).await?,
                    seen_by_client,
                    "actor {id}"
                );
            }
            homes.entry(seen_by_client).or_default().insert(id);
        }
        assert_eq!(homes.len(), 2, "all actors on one host: {homes:?}");

        // State is written where the actor lives, and only there.
        let id = homes["left"].first().context("left hosts nobody")?;
        let write = json!([{ "operation": "upsert", "request": { "key": "n", "value": 1 } }]);
        let path = format!("{id}/state");
        fetch(stage.http.post(left.url(&path)).json(&write))
            .await?
            .expect(204)?;
        let elsewhere = fetch(stage.http.post(right.url(&path)).json(&write)).await?;
        elsewhere.refusal(400, "ERR_ACTOR_INSTANCE_MISSING")?;
        let calls = |host: &Host| {
            host.app
                .seen(&format!("/actors/Counter/{id}/method/where"))
                .len()
        };
        assert!(
            calls(&left) >= 3 && calls(&right) == 0,
            "calls of actor {id} on both hosts"
        );
        Ok(())
    });
}

#[test]
fn the_actors_of_a_dead_host_answer_from_another() {
    story("hosts-failover", async |stage| {
        let control_plane = stage.control_plane(1).await?;
        let mut left = Host::start(stage, "left", &control_plane).await?;
        let mut right = Host::start(stage, "right", &control_plane).await?;
        await_both(stage, &[&left.sidecar, &right.sidecar]).await?;
        let mut moved = None;
        for id in 0..ACTORS {
            if home(stage, &right.sidecar, id).await? == left.name {
                moved = Some(id);
                break;
            }
        }
        let moved = moved.context("left hosts nobody")?;
        let write = json!([{ "operation": "upsert", "request": { "key": "n", "value": 42 } }]);
        fetch(
            stage
                .http
                .post(left.url(&format!("{moved}/state")))
                .json(&write),
        )
        .await?
        .expect(204)?;

        left.sidecar.process.kill().await?;
        await_condition("the actor answers from the other host", LIMIT, || async {
            let home = home(stage, &right.sidecar, moved).await?;
            ensure!(home == right.name, "{home} answers");
            Ok(())
        })
        .await?;
        let reply = fetch(stage.http.get(right.url(&format!("{moved}/state/n"))))
            .await?
            .expect(200)?;
        assert_eq!(reply.body.trim(), "42");

        let status = right.sidecar.process.terminate(LIMIT).await?;
        assert!(status.success(), "the sidecar ended with {status}");
        assert_eq!(
            right.app.seen(&format!("/actors/Counter/{moved}")).len(),
            1,
            "not deactivated"
        );
        Ok(())
    });
}

/// Waits until everyone's table has both hosts.
pub(super) async fn await_both(stage: &Stage, sidecars: &[&Sidecar]) -> Result<()> {
    for sidecar in sidecars {
        await_condition("both hosts are in the table", LIMIT, || async {
            let mut homes = BTreeSet::new();
            for id in 0..ACTORS {
                homes.insert(home(stage, sidecar, id).await?);
            }
            ensure!(homes.len() == 2, "actors on {homes:?} only");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

//! Actors on one host: turns, state, timers, errors.

use std::sync::Arc;

use anyhow::{Result, ensure};
use dapr_e2e::standalone::{ControlPlane, Sidecar};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{Answer, App, LIMIT, Request, Stage, component, fetch, story};

/// An application that hosts `Counter`, with its sidecar.
struct Host {
    app: App,
    sidecar: Sidecar,
    _control_plane: ControlPlane,
}

impl Host {
    async fn start(
        stage: &Stage,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start_with(stage, json!({ "entities": ["Counter"] }), script).await
    }

    /// With an actor configuration of its own.
    async fn start_with(
        stage: &Stage,
        config: Value,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let app = App::start(move |request| match request.path.as_str() {
            "/dapr/config" => Answer::json(&config),
            _ => script(request),
        })
        .await?;
        let control_plane = stage.control_plane(1).await?;
        let store = component("store", "state.in-memory", &[("actorStateStore", "true")]);
        let mut spec = stage.spec(&stage.id("host"), Some(&app));
        spec.placement = true;
        spec.resources = Some(stage.resources("resources", &[store])?);
        let sidecar = stage.sidecar(&spec, Some(&control_plane)).await?;
        Ok(Self {
            app,
            sidecar,
            _control_plane: control_plane,
        })
    }

    fn url(&self, path: &str) -> String {
        self.sidecar.url(&format!("actors/Counter/{path}"))
    }
}

#[test]
fn an_actor_answers_and_keeps_state() {
    story("actor-state", async |stage| {
        let host = Host::start(stage, |request| match request.path.as_str() {
            path if path.ends_with("/missing") => Answer::status(404),
            path if path.ends_with("/broken") => Answer::status(503).with_body("sorry"),
            _ => Answer::json(&json!({ "ok": true })).with_header("x-actor", "yes"),
        })
        .await?;

        let state = json!([{ "operation": "upsert", "request": { "key": "n", "value": 1 } }]);
        fetch(stage.http.post(host.url("1/state")).json(&state))
            .await?
            .refusal(400, "ERR_ACTOR_INSTANCE_MISSING")?;

        let call = stage
            .http
            .post(host.url("1/method/add?by=2"))
            .header("x-custom", "one")
            .body("now");
        let reply = fetch(call).await?.expect(200)?;
        assert_eq!(
            (reply.json()?, reply.header("x-actor")),
            (json!({ "ok": true }), "yes")
        );
        let seen = host.app.seen("/actors/Counter/1/method/add");
        assert_eq!(seen.len(), 1);
        assert_eq!(
            (seen[0].method.as_str(), seen[0].query.as_str()),
            ("PUT", "by=2")
        );
        assert_eq!(
            (seen[0].header("x-custom"), &seen[0].body[..]),
            ("one", &b"now"[..])
        );

        fetch(stage.http.post(host.url("1/state")).json(&state))
            .await?
            .expect(204)?;
        let reply = fetch(stage.http.get(host.url("1/state/n")))
            .await?
            .expect(200)?;
        assert_eq!(reply.body.trim(), "1");
        fetch(stage.http.get(host.url("2/state/n")))
            .await?
            .expect(204)?;
        let delete = json!([{ "operation": "delete", "request": { "key": "n" } }]);
        fetch(stage.http.put(host.url("1/state")).json(&delete))
            .await?
            .expect(204)?;
        fetch(stage.http.get(host.url("1/state/n")))
            .await?
            .expect(204)?;
        let odd = json!([{ "operation": "increment", "request": { "key": "n" } }]);
        let message = fetch(stage.http.post(host.url("1/state")).json(&odd))
            .await?
            .refusal(500, "ERR_ACTOR_STATE_TRANSACTION_SAVE")?;
        assert!(
            message.ends_with("operation type increment not supported"),
            "{message}"
        );

        let message = fetch(stage.http.post(host.url("1/method/missing")))
            .await?
            .refusal(500, "ERR_ACTOR_INVOKE_METHOD")?;
        let expected =
            "error invoke actor method: actor method not found: actors/Counter/1/method/missing";
        assert_eq!(message, expected);
        let message = fetch(stage.http.post(host.url("1/method/broken")))
            .await?
            .refusal(500, "ERR_ACTOR_INVOKE_METHOD")?;
        assert_eq!(
            message,
            "error invoke actor method: error from actor service: (503) sorry"
        );
        assert_eq!(
            host.app.seen("/actors/Counter/1/method/broken").len(),
            1,
            "an answer is not retried"
        );

        let metadata = fetch(stage.http.get(host.sidecar.url("metadata")))
            .await?
            .expect(200)?
            .json()?;
        let runtime = json!({ "runtimeStatus": "RUNNING", "hostReady": true, "placement": "placement: connected",
            "activeActors": [{ "type": "Counter", "count": 1 }] });
        assert_eq!(metadata["actorRuntime"], runtime);
        Ok(())
    });
}

#[test]
fn one_actor_takes_one_call_at_a_time() {
    story("actor-turns", async |stage| {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let host = Host::start(stage, move |request| {
            let answer = Answer::json(&json!({}));
            if request.path.ends_with("/hold") {
                answer.behind(&held)
            } else {
                answer
            }
        })
        .await?;

        let hold = tokio::spawn(fetch(stage.http.post(host.url("a/method/hold"))));
        host.app
            .await_seen("/actors/Counter/a/method/hold", 1)
            .await?;
        let next = tokio::spawn(fetch(stage.http.post(host.url("a/method/next"))));
        for _ in 0..20 {
            // Another actor is not held up, and its answers give the waiting call every chance to be wrong.
            fetch(stage.http.post(host.url("b/method/next")))
                .await?
                .expect(200)?;
        }
        assert!(
            host.app.seen("/actors/Counter/a/method/next").is_empty(),
            "two calls in one actor"
        );
        gate.add_permits(1);
        hold.await??.expect(200)?;
        next.await??.expect(200)?;
        assert_eq!(host.app.seen("/actors/Counter/a/method/next").len(), 1);
        Ok(())
    });
}

#[test]
fn a_reentrant_actor_can_be_called_by_itself() {
    story("actor-reentrancy", async |stage| {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let reentrancy = json!({ "enabled": true, "maxStackDepth": 2 });
        let config = json!({ "entities": ["Counter"], "reentrancy": reentrancy });
        let host = Host::start_with(stage, config, move |request| {
            let answer = Answer::json(&json!({}));
            if request.path.ends_with("/outer") {
                answer.behind(&held)
            } else {
                answer
            }
        })
        .await?;
        let outer = tokio::spawn(fetch(stage.http.post(host.url("1/method/outer"))));
        let seen = host
            .app
            .await_seen("/actors/Counter/1/method/outer", 1)
            .await?;
        let id = seen[0].header("dapr-reentrancy-id").to_owned();
        assert!(!id.is_empty(), "{:?}", seen[0].headers);
        let inner = |method: &str| {
            stage
                .http
                .post(host.url(&format!("1/method/{method}")))
                .header("dapr-reentrancy-id", &id)
        };
        let stranger = tokio::spawn(fetch(stage.http.post(host.url("1/method/stranger"))));
        fetch(inner("inner")).await?.expect(200)?;
        // A second call within the turn that waits, too, leaves no room for a third.
        let nested = tokio::spawn(fetch(inner("outer")));
        host.app
            .await_seen("/actors/Counter/1/method/outer", 2)
            .await?;
        let message = fetch(inner("inner"))
            .await?
            .refusal(500, "ERR_ACTOR_STACK_DEPTH")?;
        assert_eq!(message, "maximum stack depth exceeded");
        assert!(
            host.app
                .seen("/actors/Counter/1/method/stranger")
                .is_empty(),
            "a stranger joined the turn"
        );
        gate.add_permits(1);
        nested.await??.expect(200)?;
        outer.await??.expect(200)?;
        stranger.await??.expect(200)?;
        Ok(())
    });
}

#[test]
fn a_timer_fires_until_it_is_deleted() {
    story("actor-timer", async |stage| {
        let host = Host::start(stage, |_| Answer::status(200)).await?;
        let timer = |name: &str| host.url(&format!("1/timers/{name}"));
        let route = |name: &str| format!("/actors/Counter/1/method/timer/{name}");
        let body =
            json!({ "dueTime": "10ms", "period": "50ms", "callback": "tick", "data": { "n": 1 } });
        fetch(stage.http.post(timer("first")).json(&body))
            .await?
            .expect(204)?;
        let fires = host.app.await_seen(&route("first"), 3).await?;
        assert_eq!(fires[0].method, "PUT");
        let fire: Value = fires[0].json()?;
        assert_eq!(
            (&fire["callback"], &fire["data"]),
            (&json!("tick"), &json!({ "n": 1 })),
            "{fire}"
        );

        fetch(stage.http.delete(timer("first")))
            .await?
            .expect(204)?;
        fetch(stage.http.post(timer("second")).json(&body))
            .await?
            .expect(204)?;
        host.app.await_seen(&route("second"), 1).await?;
        // Fires of one actor are serial: what was under way has arrived by now.
        let fired = host.app.seen(&route("first")).len();
        host.app.await_seen(&route("second"), 6).await?;
        assert_eq!(
            host.app.seen(&route("first")).len(),
            fired,
            "a deleted timer fired"
        );

        let once = json!({ "dueTime": "0s" });
        fetch(stage.http.post(timer("once")).json(&once))
            .await?
            .expect(204)?;
        host.app.await_seen(&route("once"), 1).await?;
        let odd = fetch(
            stage
                .http
                .post(timer("odd"))
                .json(&json!({ "dueTime": "soon" })),
        )
        .await?;
        let message = odd.refusal(500, "ERR_ACTOR_TIMER_CREATE")?;
        assert!(
            message.contains("error parsing timer due time"),
            "{message}"
        );
        Ok(())
    });
}

#[test]
fn a_stopping_host_deactivates_its_actors() {
    story("actor-deactivation", async |stage| {
        let mut host = Host::start(stage, |_| Answer::status(200)).await?;
        for id in ["a", "b"] {
            fetch(stage.http.post(host.url(&format!("{id}/method/wake"))))
                .await?
                .expect(200)?;
        }
        let status = host.sidecar.process.terminate(LIMIT).await?;
        ensure!(status.success(), "the sidecar ended with {status}");
        for id in ["a", "b"] {
            let deactivated = host.app.seen(&format!("/actors/Counter/{id}"));
            assert_eq!(deactivated.len(), 1, "{id}: {deactivated:?}");
            assert_eq!(deactivated[0].method, "DELETE");
        }
        Ok(())
    });
}

#[test]
fn without_placement_there_are_no_actors() {
    story("actor-none", async |stage| {
        let sidecar = stage
            .sidecar(&stage.spec(&stage.id("host"), None), None)
            .await?;
        let message = fetch(stage.http.post(sidecar.url("actors/Counter/1/method/a")))
            .await?
            .refusal(400, "ERR_ACTOR_NO_PLACEMENT")?;
        assert_eq!(message, "placement service is not configured");
        Ok(())
    });
}

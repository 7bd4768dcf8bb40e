//! How a sidecar treats its HTTP application: not more calls than asked for, none while it is ill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::ensure;
use dapr_e2e::await_condition;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{Answer, App, LIMIT, component, fetch, resiliency, story, subscription};

#[test]
fn an_ill_application_is_left_alone() {
    story("app-health", async |stage| {
        let is_ill = Arc::new(AtomicBool::new(false));
        let probed = Arc::clone(&is_ill);
        let app = App::start(move |request| match request.path.as_str() {
            "/alive" if probed.load(Ordering::Relaxed) => Answer::status(503),
            path if path.starts_with("/dapr/") => Answer::status(404),
            _ => Answer::json(&json!({})),
        })
        .await?;
        let id = stage.id("patient");
        let mut spec = stage.spec(&id, Some(&app));
        spec.flags = [
            "--enable-app-health-check",
            "--app-health-check-path=/alive",
            "--app-health-probe-interval=1",
            "--app-health-threshold=1",
        ]
        .map(str::to_owned)
        .to_vec();
        spec.resources = Some(stage.resources(
            "resources",
            &[
                component("bus", "pubsub.in-memory", &[]),
                subscription(
                    "orders",
                    json!({ "pubsubname": "bus", "topic": "orders", "routes": { "default": "/event" } }),
                ),
            ],
        )?);
        let sidecar = stage.sidecar(&spec, None).await?;
        let url = sidecar.url(&format!("invoke/{id}/method/work"));
        let await_served = async |what: &str| {
            await_condition(what, LIMIT, || async {
                fetch(stage.http.post(&url)).await?.expect(200).map(drop)
            })
            .await
        };
        let publish = async || {
            let event = stage
                .http
                .post(sidecar.url("publish/bus/orders"))
                .json(&json!(1));
            fetch(event).await?.expect(204).map(drop)
        };
        let await_event = async |what: &str| {
            let before = app.seen("/event").len();
            await_condition(what, LIMIT, || async {
                publish().await?;
                let now = app.seen("/event").len();
                ensure!(now > before, "{now} events");
                Ok(())
            })
            .await
        };
        await_served("a healthy application is called").await?;
        await_event("a healthy application gets events").await?;

        is_ill.store(true, Ordering::Relaxed);
        let message = await_condition("calls are refused", LIMIT, || async {
            fetch(stage.http.post(&url))
                .await?
                .refusal(500, "ERR_DIRECT_INVOKE")
        })
        .await?;
        assert!(
            message.contains("app is not in a healthy state"),
            "{message}"
        );
        let calls = app.seen("/work").len();
        fetch(stage.http.post(&url)).await?.expect(500)?;
        assert_eq!(app.seen("/work").len(), calls, "an ill one was called");

        is_ill.store(false, Ordering::Relaxed);
        await_served("a healed application is called").await?;
        await_event("a healed application gets events").await?;
        assert_eq!(app.seen("/dapr/config").len(), 1, "asked once per start");
        Ok(())
    });
}

#[test]
fn events_neither_reach_an_ill_application_nor_delay_its_recovery() {
    story("app-health-events", async |stage| {
        let (is_ill, gate) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Semaphore::new(0)),
        );
        let (probed, held) = (Arc::clone(&is_ill), Arc::clone(&gate));
        let app = App::start(move |request| match request.path.as_str() {
            "/alive" if probed.load(Ordering::Relaxed) => Answer::status(503),
            "/slow" => Answer::json(&json!({})).behind(&held),
            "/failing" => Answer::status(500),
            path if path.starts_with("/dapr/") => Answer::status(404),
            _ => Answer::json(&json!({})),
        })
        .await?;
        let id = stage.id("patient");
        let mut spec = stage.spec(&id, Some(&app));
        spec.flags = [
            "--enable-app-health-check",
            "--app-health-check-path=/alive",
            "--app-health-probe-interval=1",
            "--app-health-threshold=1",
        ]
        .map(str::to_owned)
        .to_vec();
        let to = |topic: &str| {
            let route = json!({ "default": format!("/{topic}") });
            subscription(
                topic,
                json!({ "pubsubname": "bus", "topic": topic, "routes": route }),
            )
        };
        let policies = json!({
            "policies": { "retries": { "again": { "duration": "20ms" } } },
            "targets": { "components": { "bus": { "inbound": { "retry": "again" } } } },
        });
        spec.resources = Some(stage.resources(
            "resources",
            &[
                component("bus", "pubsub.in-memory", &[]),
                resiliency("retries", policies),
                to("slow"),
                to("failing"),
            ],
        )?);
        let sidecar = stage.sidecar(&spec, None).await?;
        let url = sidecar.url(&format!("invoke/{id}/method/work"));
        let call = async || fetch(stage.http.post(&url)).await;
        await_condition("the application is called", LIMIT, || async {
            call().await?.expect(200).map(drop)
        })
        .await?;
        for topic in ["slow", "failing"] {
            let path = format!("/{topic}");
            await_condition("the application has an event", LIMIT, || async {
                if app.seen(&path).is_empty() {
                    let url = sidecar.url(&format!("publish/bus/{topic}"));
                    fetch(stage.http.post(url).json(&json!(1))).await?;
                }
                ensure!(!app.seen(&path).is_empty(), "not yet");
                Ok(())
            })
            .await?;
        }
        app.await_seen("/failing", 3).await?;

        is_ill.store(true, Ordering::Relaxed);
        await_condition("calls are refused", LIMIT, || async {
            call().await?.refusal(500, "ERR_DIRECT_INVOKE")
        })
        .await?;
        // One attempt may be on its way while the application turns ill.
        let failing = app.seen("/failing").len() + 1;
        let probes = app.seen("/alive").len();
        app.await_seen("/alive", probes + 2).await?;
        let now = app.seen("/failing").len();
        ensure!(now <= failing, "{now} attempts after {failing}");

        // The event that it has not answered yet holds nothing up.
        is_ill.store(false, Ordering::Relaxed);
        let soon = std::time::Duration::from_secs(10);
        await_condition("a healed application is called", soon, || async {
            call().await?.expect(200).map(drop)
        })
        .await?;
        await_condition("it gets events", soon, || async {
            // A publisher waits while an earlier event is with the application.
            let publish = stage.http.post(sidecar.url("publish/bus/failing"));
            drop(tokio::spawn(fetch(publish.json(&json!(2)))));
            ensure!(app.seen("/failing").len() > now, "not yet");
            Ok(())
        })
        .await?;
        gate.close();
        Ok(())
    });
}

#[test]
fn no_more_calls_at_once_than_allowed() {
    story("app-concurrency", async |stage| {
        let gate = Arc::new(Semaphore::new(0));
        let (held, begun) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&begun);
        let app = App::start(move |request| match request.path.as_str() {
            "/work" => {
                count.fetch_add(1, Ordering::Relaxed);
                Answer::status(200).behind(&held)
            }
            _ => Answer::status(404),
        })
        .await?;
        let id = stage.id("busy");
        let mut spec = stage.spec(&id, Some(&app));
        spec.flags = vec!["--app-max-concurrency=2".to_owned()];
        let sidecar = stage.sidecar(&spec, None).await?;
        let url = sidecar.url(&format!("invoke/{id}/method/work"));
        let calls: Vec<_> = (0..6)
            .map(|_| tokio::spawn(fetch(stage.http.post(&url))))
            .collect();
        app.await_seen("/work", 2).await?;
        for _ in 0..20 {
            // Answers of the sidecar give a third call every chance to be wrong.
            let metadata = fetch(stage.http.get(sidecar.url("metadata"))).await?;
            let metadata = metadata.expect(200)?.json()?;
            let connection = &metadata["appConnectionProperties"];
            assert_eq!(connection["maxConcurrency"], 2, "{connection}");
        }
        assert_eq!(begun.load(Ordering::Relaxed), 2, "calls at once");
        gate.close();
        for call in calls {
            call.await??.expect(200)?;
        }
        assert_eq!(begun.load(Ordering::Relaxed), 6);
        Ok(())
    });
}

//! How a sidecar ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dapr_e2e::await_condition;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::support::{Answer, App, LIMIT, component, fetch, story};

#[test]
fn signals_without_a_meaning_end_nothing() {
    story("shutdown-user-signals", async |stage| {
        let mut sidecar = stage
            .sidecar(&stage.spec(&stage.id("kept"), None), None)
            .await?;
        for name in ["USR1", "USR2"] {
            sidecar.process.signal(name).await?;
        }
        // Signals that wait are delivered lowest number first, so these have arrived before this one ends it.
        let status = sidecar.process.terminate(LIMIT).await?;
        assert_eq!(status.code(), Some(0));
        Ok(())
    });
}

#[test]
fn a_signal_or_a_request_ends_it_in_order() {
    story("shutdown", async |stage| {
        let mut sidecar = stage
            .sidecar(&stage.spec(&stage.id("signalled"), None), None)
            .await?;
        let status = sidecar.process.terminate(LIMIT).await?;
        assert!(status.success(), "{status} after SIGTERM");

        let mut sidecar = stage
            .sidecar(&stage.spec(&stage.id("interrupted"), None), None)
            .await?;
        sidecar.process.signal("INT").await?;
        let status = sidecar.process.ended(LIMIT).await?;
        assert!(status.success(), "{status} after SIGINT");

        let mut sidecar = stage
            .sidecar(&stage.spec(&stage.id("asked"), None), None)
            .await?;
        fetch(stage.http.post(sidecar.url("shutdown")))
            .await?
            .expect(204)?;
        let status = sidecar.process.ended(LIMIT).await?;
        assert!(status.success(), "{status} after a request");
        Ok(())
    });
}

#[test]
fn a_request_in_flight_is_finished() {
    story("shutdown-drain", async |stage| {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let app = App::start(move |request| match request.path.as_str() {
            "/slow" => Answer::json(&json!({ "late": true })).behind(&held),
            _ => Answer::status(404),
        })
        .await?;
        let id = stage.id("draining");
        let mut sidecar = stage.sidecar(&stage.spec(&id, Some(&app)), None).await?;
        let slow = tokio::spawn(fetch(
            stage
                .http
                .get(sidecar.url(&format!("invoke/{id}/method/slow"))),
        ));
        app.await_seen("/slow", 1).await?;
        sidecar.process.signal("TERM").await?;
        let port = sidecar.http_port;
        await_condition("no new connection is taken", LIMIT, || async {
            anyhow::ensure!(
                TcpStream::connect(("127.0.0.1", port)).await.is_err(),
                "still listening"
            );
            Ok(())
        })
        .await?;
        gate.add_permits(1);
        assert_eq!(slow.await??.expect(200)?.json()?, json!({ "late": true }));
        let status = sidecar.process.ended(LIMIT).await?;
        assert!(status.success(), "{status}");
        Ok(())
    });
}

#[test]
fn a_request_that_never_ends_is_cut_when_the_time_is_over() {
    story("shutdown-deadline", async |stage| {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let app = App::start(move |request| match request.path.as_str() {
            "/never" => Answer::status(200).behind(&held),
            _ => Answer::status(404),
        })
        .await?;
        let id = stage.id("late");
        let mut spec = stage.spec(&id, Some(&app));
        spec.flags
            .push("--dapr-graceful-shutdown-seconds=1".to_owned());
        let mut sidecar = stage.sidecar(&spec, None).await?;
        let call = stage
            .http
            .get(sidecar.url(&format!("invoke/{id}/method/never")));
        let cut = tokio::spawn(fetch(call));
        app.await_seen("/never", 1).await?;
        let signalled = Instant::now();
        let status = sidecar.process.terminate(LIMIT).await?;
        assert_eq!(status.code(), Some(1));
        assert!(signalled.elapsed() >= Duration::from_secs(1), "cut early");
        assert!(cut.await?.is_err(), "nobody has answered");
        Ok(())
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    story("shutdown-twice", async |stage| {
        let mut spec = stage.spec(&stage.id("blocked"), None);
        spec.flags
            .push("--dapr-block-shutdown-duration=10m".to_owned());
        spec.resources =
            Some(stage.resources("resources", &[component("store", "state.in-memory", &[])])?);
        let mut sidecar = stage.sidecar(&spec, None).await?;
        sidecar.process.signal("TERM").await?;
        await_condition("the shutdown is noticed", LIMIT, || async {
            fetch(stage.http.get(sidecar.url("healthz")))
                .await?
                .refusal(500, "ERR_HEALTH_NOT_READY")
        })
        .await?;
        let write = json!([{ "key": "a", "value": 1 }]);
        fetch(stage.http.post(sidecar.url("state/store")).json(&write))
            .await?
            .expect(204)?;
        let status = sidecar.process.terminate(LIMIT).await?;
        assert_eq!(status.code(), Some(1));
        Ok(())
    });
}

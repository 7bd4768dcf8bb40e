//! Events: published, enveloped, routed, retried, dropped, and laid aside when nothing helps.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::Sidecar;
use serde_json::{Value, json};

use crate::support::{
    Answer, App, LIMIT, Request, Stage, component, fetch, resiliency, story, subscription,
};

#[test]
fn a_declared_subscription_routes_events() {
    story("pubsub-declared", async |stage| {
        let app = App::plain().await?;
        let routes = json!({ "rules": [{ "match": "event.type == 'urgent'", "path": "/urgent" }], "default": "/rest" });
        let resources = stage.resources(
            "resources",
            &[
                component("bus", "pubsub.in-memory", &[]),
                subscription(
                    "orders",
                    json!({ "pubsubname": "bus", "topic": "orders", "routes": routes }),
                ),
            ],
        )?;
        let id = stage.id("subscriber");
        let sidecar = subscriber(stage, &id, &app, resources).await?;
        await_delivery(stage, &sidecar, &app, "orders", "/rest").await?;

        let url = sidecar.url("publish/bus/orders?metadata.cloudevent.type=urgent");
        fetch(stage.http.post(url).json(&json!({ "id": 7 })))
            .await?
            .expect(204)?;
        let seen = app.await_seen("/urgent", 1).await?;
        assert_eq!(
            seen[0].header("content-type"),
            "application/cloudevents+json"
        );
        assert_eq!(seen[0].header("pubsubname"), "bus");
        let event = seen[0].json()?;
        assert_eq!(event["data"], json!({ "id": 7 }), "{event}");
        assert_eq!(event["source"], id, "{event}");
        assert_eq!(
            (&event["type"], &event["specversion"]),
            (&json!("urgent"), &json!("1.0")),
            "{event}"
        );
        assert_eq!(
            (&event["topic"], &event["pubsubname"]),
            (&json!("orders"), &json!("bus")),
            "{event}"
        );
        assert_eq!(event["datacontenttype"], "application/json", "{event}");
        assert!(
            event["id"].as_str().is_some_and(|id| !id.is_empty()),
            "{event}"
        );

        let text = stage
            .http
            .post(sidecar.url("publish/bus/orders"))
            .body("plain words");
        fetch(text).await?.expect(204)?;
        let seen = await_event(&app, "/rest", |event| {
            event["datacontenttype"] == "text/plain"
        })
        .await?;
        assert_eq!(seen["data"], "plain words");
        Ok(())
    });
}

#[test]
fn the_subscribers_answer_decides() {
    story("pubsub-answers", async |stage| {
        let moody = AtomicU32::new(0);
        let app = App::start(move |request| answer(request, &moody)).await?;
        let retry = json!({ "policy": "constant", "duration": "20ms", "maxRetries": 4 });
        let resources = stage.resources(
            "resources",
            &[
                component("bus", "pubsub.in-memory", &[]),
                resiliency(
                    "retries",
                    json!({
                        "policies": { "retries": { "again": retry } },
                        "targets": { "components": { "bus": { "inbound": { "retry": "again" } } } },
                    }),
                ),
            ],
        )?;
        let sidecar = subscriber(stage, &stage.id("subscriber"), &app, resources).await?;
        await_delivery(stage, &sidecar, &app, "dead", "/dead").await?;
        for topic in ["moody", "dropping", "missing", "failing"] {
            let url = sidecar.url(&format!("publish/bus/{topic}"));
            fetch(stage.http.post(url).json(&json!(topic)))
                .await?
                .expect(204)?;
        }

        app.await_seen("/moody", 3).await?;
        for laid_aside in ["dropping", "missing", "failing"] {
            let event = await_event(&app, "/dead", |event| event["data"] == laid_aside).await?;
            assert_eq!(
                event["topic"], laid_aside,
                "a dead letter stays as it was: {event}"
            );
        }
        assert_eq!(app.seen("/moody").len(), 3, "two RETRY and one SUCCESS");
        assert_eq!(app.seen("/dropping").len(), 1, "DROP is final");
        assert_eq!(app.seen("/missing").len(), 1, "404 is a DROP");
        assert_eq!(
            app.seen("/failing").len(),
            5,
            "one attempt and four retries"
        );
        Ok(())
    });
}

#[test]
fn what_cannot_be_published_is_refused() {
    story("pubsub-refuses", async |stage| {
        let id = stage.id("publisher");
        let scopes = format!("{id}=open");
        let bus = component("bus", "pubsub.in-memory", &[("publishingScopes", &scopes)]);
        let mut spec = stage.spec(&id, None);
        spec.resources = Some(stage.resources("resources", &[bus])?);
        let sidecar = stage.sidecar(&spec, None).await?;

        fetch(stage.http.post(sidecar.url("publish/bus/open")).body("x"))
            .await?
            .expect(204)?;
        let message = fetch(stage.http.post(sidecar.url("publish/bus/closed")).body("x"))
            .await?
            .refusal(403, "ERR_PUBSUB_FORBIDDEN")?;
        assert_eq!(
            message,
            format!("topic closed is not allowed for app id {id}")
        );
        let message = fetch(
            stage
                .http
                .post(sidecar.url("publish/nowhere/open"))
                .body("x"),
        )
        .await?
        .refusal(404, "ERR_PUBSUB_NOT_FOUND")?;
        assert_eq!(message, "pubsub nowhere is not found");
        let entries = json!([{ "entryId": "1", "event": "a", "contentType": "text/plain" }, { "entryId": "1", "event": "b", "contentType": "text/plain" }]);
        let twice = stage
            .http
            .post(sidecar.url("publish/bulk/bus/open"))
            .json(&entries);
        fetch(twice).await?.refusal(400, "ERR_PUBSUB_EVENTS_SER")?;
        Ok(())
    });
}

#[test]
fn a_batch_is_published_entry_by_entry() {
    story("pubsub-batch", async |stage| {
        let app = App::plain().await?;
        let id = stage.id("publisher");
        let resources = stage.resources(
            "resources",
            &[
                component("bus", "pubsub.in-memory", &[]),
                subscription(
                    "orders",
                    json!({ "pubsubname": "bus", "topic": "orders", "routes": { "default": "/orders" } }),
                ),
            ],
        )?;
        let sidecar = subscriber(stage, &id, &app, resources).await?;
        await_delivery(stage, &sidecar, &app, "orders", "/orders").await?;
        let entries = json!([
            { "entryId": "1", "event": "plain words", "contentType": "text/plain" },
            { "entryId": "2", "event": { "id": 2 }, "contentType": "application/json" },
            { "entryId": "3", "event": "AAEC/w==", "contentType": "application/octet-stream" },
        ]);
        let batch = stage
            .http
            .post(sidecar.url("publish/bulk/bus/orders"))
            .json(&entries);
        fetch(batch).await?.expect(204)?;
        let of_type = |kind: &'static str| move |event: &Value| event["datacontenttype"] == kind;
        let text = await_event(&app, "/orders", of_type("text/plain")).await?;
        assert_eq!(text["data"], "plain words");
        assert_eq!(text["source"], id.as_str());
        let object = await_event(&app, "/orders", |event| event["data"]["id"] == 2).await?;
        assert_eq!(object["datacontenttype"], "application/json");
        let bytes = await_event(&app, "/orders", of_type("application/octet-stream")).await?;
        assert_eq!(bytes["data_base64"], "AAEC/w==");
        assert_ne!(text["id"], object["id"]);
        Ok(())
    });
}

#[test]
fn raw_messages_go_without_an_envelope() {
    story("pubsub-raw", async |stage| {
        let app = App::plain().await?;
        let raw = json!({ "rawPayload": "true" });
        let resources = stage.resources(
            "resources",
            &[
                component("bus", "pubsub.in-memory", &[]),
                subscription(
                    "raw",
                    json!({ "pubsubname": "bus", "topic": "raw", "routes": { "default": "/raw" }, "metadata": raw }),
                ),
                subscription(
                    "usual",
                    json!({ "pubsubname": "bus", "topic": "usual", "routes": { "default": "/usual" } }),
                ),
            ],
        )?;
        let sidecar = subscriber(stage, &stage.id("raw"), &app, resources).await?;
        await_delivery(stage, &sidecar, &app, "raw", "/raw").await?;
        await_delivery(stage, &sidecar, &app, "usual", "/usual").await?;
        let publish = async |topic: &str, body: &'static str| {
            let url = sidecar.url(&format!("publish/bus/{topic}?metadata.rawPayload=true"));
            fetch(stage.http.post(url).body(body)).await?.expect(204)
        };
        publish("raw", "just bytes").await?;
        let wrapped = await_event(&app, "/raw", |event| {
            event["data_base64"] == "anVzdCBieXRlcw=="
        })
        .await?;
        assert_eq!(wrapped["datacontenttype"], "application/octet-stream");
        assert_eq!(wrapped["topic"], "raw");

        // Who publishes raw and subscribes as usual passes events as they are.
        publish(
            "usual",
            r#"{"id":"own","specversion":"1.0","type":"mine","source":"me","data":7}"#,
        )
        .await?;
        let own = await_event(&app, "/usual", |event| event["id"] == "own").await?;
        assert_eq!(
            own,
            json!({ "id": "own", "specversion": "1.0", "type": "mine", "source": "me", "data": 7 })
        );
        Ok(())
    });
}

/// The application of [`the_subscribers_answer_decides`].
fn answer(request: &Request, moody: &AtomicU32) -> Answer {
    let status = |status: &str| Answer::json(&json!({ "status": status }));
    match request.path.as_str() {
        "/dapr/subscribe" => {
            let with_dead_letter = ["dropping", "missing", "failing"].map(
                |topic| json!({ "pubsubname": "bus", "topic": topic, "route": format!("/{topic}"), "deadLetterTopic": "dead" }),
            );
            let plain = ["moody", "dead"]
                .map(|topic| json!({ "pubsubname": "bus", "topic": topic, "route": format!("/{topic}") }));
            Answer::json(&Value::from([&with_dead_letter[..], &plain[..]].concat()))
        }
        "/moody" if moody.fetch_add(1, Ordering::Relaxed) < 2 => status("RETRY"),
        "/moody" => status("SUCCESS"),
        "/dropping" => status("DROP"),
        "/failing" => Answer::status(500),
        "/dead" => Answer::status(200),
        _ => Answer::status(404),
    }
}

async fn subscriber(stage: &Stage, id: &str, app: &App, resources: PathBuf) -> Result<Sidecar> {
    let mut spec = stage.spec(id, Some(app));
    spec.resources = Some(resources);
    stage.sidecar(&spec, None).await
}

/// Publishes to `topic` until something arrives on `path`: what is published before a subscription stands is lost.
async fn await_delivery(
    stage: &Stage,
    sidecar: &Sidecar,
    app: &App,
    topic: &str,
    path: &str,
) -> Result<()> {
    await_condition("the subscription stands", LIMIT, || async {
        let request = stage
            .http
            .post(sidecar.url(&format!("publish/bus/{topic}")))
            .json(&json!("probe"));
        fetch(request).await?.expect(204)?;
        ensure!(!app.seen(path).is_empty(), "nothing on {path}");
        Ok(())
    })
    .await
}

async fn await_event(app: &App, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    await_condition("the event arrives", LIMIT, || async {
        for request in app.seen(path) {
            let event = request.json()?;
            if wanted(&event) {
                return Ok(event);
            }
        }
        anyhow::bail!("not on {path}")
    })
    .await
}

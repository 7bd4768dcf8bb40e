//! What a sidecar says about itself: metadata, health, metrics.

use anyhow::ensure;
use dapr_e2e::await_condition;
use dapr_e2e::ports;
use dapr_e2e::standalone::{Sidecar, metric};
use serde_json::{Value, json};

use crate::support::{App, LIMIT, component, fetch, story, subscription};

#[test]
fn metadata_tells_what_is_loaded() {
    story("metadata", async |stage| {
        let app = App::plain().await?;
        let id = stage.id("described");
        let declared =
            json!({ "pubsubname": "bus", "topic": "orders", "routes": { "default": "/orders" } });
        let mut spec = stage.spec(&id, Some(&app));
        spec.resources = Some(stage.resources(
            "resources",
            &[
                component("store", "state.in-memory", &[]),
                component("bus", "pubsub.in-memory", &[]),
                subscription("orders", declared),
            ],
        )?);
        let sidecar = stage.sidecar(&spec, None).await?;
        fetch(stage.http.put(sidecar.url("metadata/team")).body("tea"))
            .await?
            .expect(204)?;

        // Subscriptions start once the application answers, which readiness for calls does not wait for.
        let metadata: Value = await_condition("the subscription is listed", LIMIT, || async {
            let reply = fetch(stage.http.get(sidecar.url("metadata"))).await?;
            let metadata: Value = reply.expect(200)?.json()?;
            ensure!(metadata["subscriptions"].is_array(), "{metadata}");
            Ok(metadata)
        })
        .await?;
        assert_eq!(metadata["id"], id);
        let version = metadata["runtimeVersion"].as_str().unwrap_or_default();
        assert!(!version.is_empty(), "{metadata}");
        assert_eq!(
            metadata["extended"],
            json!({ "daprRuntimeVersion": version, "team": "tea" })
        );
        let store = json!({ "name": "store", "type": "state.in-memory", "version": "v1",
            "capabilities": ["ETAG", "TRANSACTIONAL", "TTL", "DELETE_WITH_PREFIX", "KEYS_LIKE", "ACTOR"] });
        assert_eq!(metadata["components"][0], store);
        assert_eq!(metadata["components"][1]["name"], "bus");
        let orders = json!({ "pubsubname": "bus", "topic": "orders", "rules": [{ "path": "/orders" }],
            "deadLetterTopic": "", "type": "DECLARATIVE" });
        assert_eq!(metadata["subscriptions"], json!([orders]));
        let connection =
            json!({ "port": app.port(), "protocol": "http", "channelAddress": "127.0.0.1" });
        assert_eq!(metadata["appConnectionProperties"], connection);
        let actors = json!({ "runtimeStatus": "DISABLED", "hostReady": false, "placement": "placement: disconnected" });
        assert_eq!(metadata["actorRuntime"], actors);
        Ok(())
    });
}

#[test]
fn health_follows_the_application() {
    story("health", async |stage| {
        let port = ports::free().await?;
        let id = stage.id("healthy");
        let mut spec = stage.spec(&id, None);
        spec.app_port = Some(port);
        let mut sidecar = Sidecar::start(stage.folder(), &spec, None).await?;
        sidecar.await_outbound().await?;
        let message = fetch(stage.http.get(sidecar.url("healthz")))
            .await?
            .refusal(500, "ERR_HEALTH_NOT_READY")?;
        assert_eq!(message, "dapr is not ready: [runtime]");

        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let server = tokio::spawn(async move { axum::serve(listener, axum::Router::new()).await });
        sidecar.await_ready().await?;
        fetch(stage.http.get(sidecar.url(&format!("healthz?appid={id}"))))
            .await?
            .expect(204)?;
        let message = fetch(stage.http.get(sidecar.url("healthz?appid=other")))
            .await?
            .refusal(500, "ERR_HEALTH_APPID_NOT_MATCH")?;
        assert_eq!(message, "dapr app-id does not match");
        server.abort();
        Ok(())
    });
}

#[test]
fn a_token_guards_the_api() {
    story("token", async |stage| {
        let mut spec = stage.spec(&stage.id("guarded"), None);
        spec.environment
            .insert("DAPR_API_TOKEN".to_owned(), "secret".to_owned());
        let sidecar = stage.sidecar(&spec, None).await?;
        let reply = fetch(stage.http.get(sidecar.url("metadata")))
            .await?
            .expect(401)?;
        assert_eq!(reply.body.trim_end(), "invalid api token");
        let request = stage.http.get(sidecar.url("metadata"));
        fetch(request.header("dapr-api-token", "secret"))
            .await?
            .expect(200)?;
        Ok(())
    });
}

#[test]
fn requests_are_counted() {
    story("metrics", async |stage| {
        let app = App::plain().await?;
        let id = stage.id("counted");
        let sidecar = stage.sidecar(&stage.spec(&id, Some(&app)), None).await?;
        fetch(
            stage
                .http
                .get(sidecar.url(&format!("invoke/{id}/method/count"))),
        )
        .await?
        .expect(200)?;
        await_condition("the requests are counted", LIMIT, || async {
            for name in [
                "dapr_http_server_request_count",
                "dapr_http_client_completed_count",
            ] {
                let count = metric(sidecar.metrics_port, name).await?;
                anyhow::ensure!(count >= 1.0, "{name} is {count}");
            }
            Ok(())
        })
        .await
    });
}

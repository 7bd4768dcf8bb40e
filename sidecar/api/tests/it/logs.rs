//! What is logged and counted of the HTTP API, and what is answered before that.

use std::fmt;
use std::sync::Arc;

use dapr_sidecar_api::settings::{ApiLogging, Cors, Settings};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::fixture::{World, with_settings};

/// The fields `method` of API log lines, in order.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "dapr.runtime.http-info"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Method(&self.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Method<'a>(&'a Mutex<Vec<String>>);

impl Visit for Method<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "method" {
            self.0.lock().push(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

async fn ask(world: &World, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).expect("valid");
    let response = dapr_sidecar_api::http::handle(Arc::clone(&world.core), request).await;
    let status = response.status().as_u16();
    response.into_body().collect().await.expect("a body");
    status
}

#[tokio::test]
async fn what_comes_before_the_log_is_not_logged() {
    let lines = Lines::default();
    let _default = tracing::subscriber::set_default(lines.clone());
    let world = with_settings(Settings {
        api_token: Some("secret".to_owned()),
        cors: Cors::parse("*"),
        api_logging: Some(ApiLogging {
            obfuscate_urls: false,
            omit_health_checks: false,
        }),
        ..Settings::default()
    });
    let path = "/v1.0/metadata";
    let token = ("dapr-api-token", "secret");
    let preflight = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "GET"),
    ];
    assert_eq!(ask(&world, "GET", path, &[]).await, 401);
    assert_eq!(ask(&world, "OPTIONS", path, &preflight).await, 200);
    let baggage = [token, ("baggage", "bad baggage;;")];
    assert_eq!(ask(&world, "GET", path, &baggage).await, 400);
    assert_eq!(ask(&world, "GET", path, &[token]).await, 200);
    assert_eq!(ask(&world, "GET", "/nowhere", &[token]).await, 404);
    assert_eq!(
        *lines.0.lock(),
        ["GET /v1.0/metadata", "GET /nowhere"],
        "the log stands behind the token"
    );
    // What the token and CORS answer is counted, what tracing answers is not.
    let text = dapr_kit::metrics::encode(&world.registry.gather());
    let counted = |status: &str| {
        let status = format!("status=\"{status}\"");
        text.lines()
            .filter(|line| line.starts_with("dapr_http_server_request_count{"))
            .any(|line| line.contains(&status))
    };
    assert!(counted("401") && counted("404"), "{text}");
    assert!(!counted("400"), "{text}");
}

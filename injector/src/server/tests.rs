use std::convert::Infallible;

use axum::body::Body;
use http::Request as HttpRequest;
use http_body_util::{BodyExt as _, StreamBody};
use tower::ServiceExt as _;

use super::*;
use crate::patch::ComponentContainer;
use crate::requester::Rules;

#[derive(Debug)]
struct Nothing;

impl Cluster for Nothing {
    fn trust_anchors(&self) -> Arc<str> {
        "PEM".into()
    }

    fn is_mtls(&self) -> bool {
        true
    }

    fn is_allowed_uid(&self, _uid: &str) -> bool {
        false
    }

    fn components(&self, _namespace: &str) -> Option<Vec<ComponentContainer>> {
        Some(Vec::new())
    }
}

struct Server {
    routes: Router,
    registry: prometheus::Registry,
}

impl Server {
    fn new() -> Self {
        let injector = Injector {
            settings: crate::patch::tests::settings(),
            rules: Rules::new(&[]),
        };
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let routes = Webhook::new(injector, Arc::new(Nothing), metrics).routes();
        Self { routes, registry }
    }

    async fn ask(&self, path: &str, kind: Option<&str>, body: Body) -> (u16, String) {
        let mut request = HttpRequest::post(path);
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        let request = request.body(body).unwrap();
        let answer = self.routes.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|it| it.name() == name);
        let metrics = family.into_iter().flat_map(|it| it.get_metric());
        metrics.map(|it| it.get_counter().get_value()).sum()
    }
}

const JSON_KIND: Option<&str> = Some("application/json");

#[tokio::test]
async fn rows_1_and_2_are_http_errors() {
    let server = Server::new();
    let empty = (400, "empty body\n".to_owned());
    assert_eq!(server.ask("/mutate", JSON_KIND, Body::empty()).await, empty);
    assert_eq!(
        server.ask("/mutate", None, Body::empty()).await,
        empty,
        "the body comes first"
    );
    let huge = Body::from(vec![b' '; BODY_LIMIT + 1]);
    assert_eq!(server.ask("/mutate", JSON_KIND, huge).await, empty);
    for kind in [
        None,
        Some("text/plain"),
        Some("application/json; charset=utf-8"),
    ] {
        let (status, text) = server.ask("/mutate", kind, Body::from("{}")).await;
        assert_eq!(status, 415, "{kind:?}");
        assert_eq!(text, "invalid Content-Type, expected `application/json`\n");
    }
    assert_eq!(
        server.ask("/other", JSON_KIND, Body::from("{}")).await,
        (404, "404 page not found\n".to_owned())
    );
    let requests = server.metric("dapr_injector_sidecar_injection_requests_total");
    assert!(
        (requests - 6.0).abs() < 0.5,
        "every one on the path counts: {requests}"
    );
}

#[tokio::test]
async fn row_3_is_an_answer() {
    let server = Server::new();
    let (status, text) = server
        .ask("/mutate", JSON_KIND, Body::from("nonsense"))
        .await;
    assert_eq!(status, 200);
    assert!(
        text.starts_with(
            r#"{"response":{"uid":"","allowed":false,"status":{"metadata":{},"message":"#
        ),
        "{text}"
    );
    let failed = server.metric("dapr_injector_sidecar_injection_failed_total");
    assert!((failed - 1.0).abs() < 0.5, "{failed}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_cut() {
    let server = Server::new();
    let first = futures::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(
        "{",
    )))]);
    let endless = futures::StreamExt::chain(first, futures::stream::pending());
    let begun = tokio::time::Instant::now();
    let (status, _) = server
        .ask("/mutate", JSON_KIND, Body::new(StreamBody::new(endless)))
        .await;
    assert_eq!((status, begun.elapsed()), (400, BODY_TIME));
}

#[tokio::test(start_paused = true)]
async fn bodies_that_do_not_end_take_bounded_memory_and_give_it_back() {
    let server = Server::new();
    let part = Bytes::from(vec![b' '; BODY_LIMIT]);
    let endless = || {
        let first =
            futures::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(part.clone()))]);
        Body::new(StreamBody::new(futures::StreamExt::chain(
            first,
            futures::stream::pending(),
        )))
    };
    let greedy = BODIES_LIMIT / BODY_LIMIT;
    let greedy = (0..greedy).map(|_| server.ask("/mutate", JSON_KIND, endless()));
    let late = async {
        // The others have taken everything by now; this one waits until they are cut.
        tokio::task::yield_now().await;
        server.ask("/mutate", JSON_KIND, Body::from("{}")).await
    };
    let begun = tokio::time::Instant::now();
    let (cut, (status, _)) = tokio::join!(futures::future::join_all(greedy), late);
    assert!(cut.iter().all(|(status, _)| *status == 400), "{cut:?}");
    assert_eq!((status, begun.elapsed()), (200, BODY_TIME));
}

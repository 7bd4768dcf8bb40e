//! The edge: requests to the API server and the bytes of its answers. One attempt per call.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use url::form_urlencoded::Serializer;

use super::config::Config;
use super::failure::Failure;
use super::frames::Frames;
use super::wire::Status;

/// The largest page of a list; a server that does not page sends everything at once.
const PAGE_LIMIT: usize = 256 << 20;
/// The largest answer to a refused request that is read for its reason.
const REASON_LIMIT: usize = 64 << 10;
/// How long the reason of a refused request may take.
const REASON_TIMEOUT: Duration = Duration::from_secs(5);
/// What a reader of metadata alone asks for; the second form is for servers that do not know the first.
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const JSON: &str = "application/json";

/// The collection of one kind.
pub(super) struct Server {
    client: kube::Client,
    path: String,
    /// Where objects are that do not say it.
    pub(super) namespace: Option<String>,
    /// How the kind is called in the log.
    pub(super) kind: String,
    metadata_only: bool,
    labels: Option<String>,
    fields: Option<String>,
    page: u32,
    list_timeout: Duration,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    /// Everything at once.
    Whole,
    /// The first page.
    First,
    /// The page a token of the last one names.
    After(&'a str),
}

impl Server {
    pub(super) fn new<K>(api: kube::Api<K>, config: &Config) -> Self
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Self {
            path: api.resource_url().to_owned(),
            namespace: api.namespace().map(ToOwned::to_owned),
            kind: K::kind(&()).into_owned(),
            metadata_only: K::metadata_api(),
            client: api.into_client(),
            labels: config.labels.clone(),
            fields: config.fields.clone(),
            page: config.page,
            list_timeout: config.list_timeout,
        }
    }

    /// One page.
    ///
    /// No `resourceVersion` is sent: zero would be answered from a cache that can be older than what was already seen.
    pub(super) async fn list(&self, part: Part<'_>) -> Result<Bytes, Failure> {
        let page = self.page.to_string();
        let query: &[(&str, &str)] = match part {
            Part::Whole => &[],
            Part::First => &[("limit", &page)],
            Part::After(token) => &[("limit", &page), ("continue", token)],
        };
        let accept = if self.metadata_only {
            METADATA_LIST
        } else {
            JSON
        };
        let call = async {
            let response = send(&self.client, &self.uri(query), accept).await?;
            let body = Limited::new(response.into_body(), PAGE_LIMIT)
                .collect()
                .await;
            let body = body.map_err(|error| {
                Failure::unreachable(format!("the list broke off: {}", chain(&*error)))
            })?;
            Ok(body.to_bytes())
        };
        let late = |_| Failure::unreachable(format!("no list within {:?}", self.list_timeout));
        tokio::time::timeout(self.list_timeout, call)
            .await
            .map_err(late)?
    }

    /// A watch that the server should end after `seconds`. Nothing is sent before it is read.
    pub(super) fn watch(&self, version: Option<&str>, seconds: u32) -> Stream {
        let seconds = seconds.to_string();
        let mut query = vec![
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &seconds),
        ];
        query.extend(version.map(|version| ("resourceVersion", version)));
        let (client, uri) = (self.client.clone(), self.uri(&query));
        let accept = if self.metadata_only { METADATA } else { JSON };
        let answer = async move { send(&client, &uri, accept).await };
        Stream {
            phase: Phase::Asked(Box::pin(answer)),
            frames: Frames::default(),
        }
    }

    fn uri(&self, query: &[(&str, &str)]) -> String {
        let mut pairs = Serializer::new(String::new());
        pairs.extend_pairs(query);
        pairs.extend_pairs(self.labels.iter().map(|labels| ("labelSelector", labels)));
        pairs.extend_pairs(self.fields.iter().map(|fields| ("fieldSelector", fields)));
        let query = pairs.finish();
        if query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{query}", self.path)
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>;

/// A watch that was asked for.
pub(super) struct Stream {
    phase: Phase,
    frames: Frames,
}

enum Phase {
    Asked(Answer),
    Accepted(Body),
    Ended,
}

/// What a watch says next.
#[derive(Debug)]
pub(super) enum Said {
    /// The server accepted the watch.
    Accepted,
    /// An event.
    Event(Bytes),
    /// Nothing more will come, and nothing is missing.
    Ended,
    /// The watch was refused or broke.
    Failed(Failure),
}

impl Stream {
    /// Waits for the next thing said. Nothing is lost when it is dropped early.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            match self.frames.next() {
                Ok(Some(event)) => return Said::Event(event),
                Ok(None) => {}
                Err(broken) => return Said::Failed(Failure::refused(broken.to_string())),
            }
            match &mut self.phase {
                Phase::Asked(answer) => match answer.await {
                    Ok(response) => {
                        self.phase = Phase::Accepted(response.into_body());
                        return Said::Accepted;
                    }
                    Err(failure) => {
                        self.phase = Phase::Ended;
                        return Said::Failed(failure);
                    }
                },
                Phase::Accepted(body) => match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Some(chunk) = frame.data_ref() {
                            self.frames.push(chunk);
                        }
                    }
                    Some(Err(error)) => {
                        self.phase = Phase::Ended;
                        return Said::Failed(Failure::unreachable(format!(
                            "the watch broke off: {}",
                            chain(&error)
                        )));
                    }
                    None => self.phase = Phase::Ended,
                },
                Phase::Ended => return self.end(),
            }
        }
    }

    fn end(&self) -> Said {
        match self.frames.finish() {
            Ok(()) => Said::Ended,
            Err(broken) => Said::Failed(Failure::unreachable(broken.to_string())),
        }
    }
}

/// An accepted answer, or the reason why it is none.
async fn send(
    client: &kube::Client,
    uri: &str,
    accept: &'static str,
) -> Result<Response<Body>, Failure> {
    let request = Request::get(uri)
        .header(header::ACCEPT, accept)
        .body(Body::empty());
    let request =
        request.map_err(|error| Failure::refused(format!("no request can be made: {error}")))?;
    let response = client
        .send(request)
        .await
        .map_err(|error| Failure::unreachable(reason(&error)))?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(refusal(response).await)
}

async fn refusal(response: Response<Body>) -> Failure {
    let code = response.status().as_u16();
    let header = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    // A date is not understood: our own back-off does.
    let retry_after = header
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let body = Limited::new(response.into_body(), REASON_LIMIT).collect();
    let body = match tokio::time::timeout(REASON_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => Bytes::new(),
    };
    // The code of the answer holds, whatever its body claims.
    let status = Status {
        code,
        ..Status::read(&body)
    };
    let failure = Failure::of_status(&status);
    Failure {
        retry_after: retry_after.or(failure.retry_after),
        ..failure
    }
}

/// kube's errors repeat their source in their own text.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(source) => chain(&**source),
        other => other.to_string(),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn server(config: &Config) -> Server {
        let nobody = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, tower::BoxError>>()
        });
        let client = kube::Client::new(nobody, "default");
        Server::new(kube::Api::<Pod>::namespaced(client, "shop"), config)
    }

    #[tokio::test]
    async fn selectors_are_part_of_every_request() {
        let config = Config {
            labels: Some("app=a,tier in (x)".to_owned()),
            ..Config::default()
        };
        let server = server(&config);
        assert_eq!(
            server.uri(&[("limit", "5"), ("continue", "a/b=")]),
            "/api/v1/namespaces/shop/pods?limit=5&continue=a%2Fb%3D&labelSelector=app%3Da%2Ctier+in+%28x%29"
        );
        assert_eq!(
            (&*server.kind, server.namespace.as_deref()),
            ("Pod", Some("shop"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_nobody_answers_ends() {
        let failure = server(&Config::default())
            .list(Part::First)
            .await
            .expect_err("no answer");
        assert_eq!(failure.text, "no list within 60s");
    }
}

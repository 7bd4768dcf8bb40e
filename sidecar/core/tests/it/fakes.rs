//! Applications, sidecars and resolvers that do what a test says.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dapr_components_core::name_resolution::{ResolveRequest, Resolver};
use dapr_components_core::pubsub::PubSub;
use dapr_components_core::{Error as ComponentError, Metadata};
use dapr_sidecar_core::app::{
    self, AppChannel, BulkEvent, BulkOutcome, Config, Event, EventOutcome, Protocol,
};
use dapr_sidecar_core::invoke::{External, HttpEndpoint, Origin, Request, Response, Status};
use dapr_sidecar_core::peer::{Failure, Peers, ReminderCall, Target};
use dapr_sidecar_core::pubsub::Subscription;
use dapr_sidecar_core::{actors, body, rpc};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// A request as it reached its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) to: String,
    pub(crate) method: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

async fn seen(to: &str, request: Request) -> Seen {
    Seen {
        to: to.to_owned(),
        method: request.method,
        headers: request.headers,
        body: request
            .body
            .collect()
            .await
            .expect("a whole body")
            .to_bytes(),
    }
}

pub(crate) fn request(method: &str, data: &str) -> Request {
    Request {
        verb: Some(Method::POST),
        method: method.to_owned(),
        query: String::new(),
        headers: HeaderMap::new(),
        type_url: String::new(),
        origin: Origin::Http,
        body: body::full(data.to_owned()),
    }
}

pub(crate) fn response(status: Status) -> Response {
    Response {
        status,
        headers: HeaderMap::new(),
        trailers: HeaderMap::new(),
        type_url: String::new(),
        body: body::full("answer"),
        is_untouched: false,
    }
}

/// An application, an external server and all other sidecars in one: notes what reaches it and answers what
/// it was told, 200 when it was told nothing.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) answers: Mutex<VecDeque<Result<Status, rpc::Status>>>,
    pub(crate) grpc: bool,
    /// An address nobody answers at.
    pub(crate) dead: Option<&'static str>,
    /// An address whose application has gone.
    pub(crate) without_app: Option<&'static str>,
    /// Whether bodies of requests to other sidecars break.
    pub(crate) unreadable: bool,
}

impl World {
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Result<Status, rpc::Status>>) {
        self.answers.lock().extend(answers);
    }

    async fn take(&self, to: &str, request: Request) -> Result<Response, rpc::Status> {
        let seen = seen(to, request).await;
        self.seen.lock().push(seen);
        let answer = self.answers.lock().pop_front();
        answer
            .unwrap_or(Ok(Status::Http(StatusCode::OK)))
            .map(response)
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().len()
    }
}

#[async_trait]
impl AppChannel for World {
    fn protocol(&self) -> Protocol {
        if self.grpc {
            Protocol::Grpc
        } else {
            Protocol::Http
        }
    }

    async fn invoke(&self, request: Request) -> Result<Response, app::Error> {
        self.take("app", request).await.map_err(app::Error::Status)
    }

    async fn config(&self) -> Result<Config, app::Error> {
        Ok(Config::default())
    }

    async fn subscriptions(&self) -> Result<Vec<Subscription>, app::Error> {
        Ok(Vec::new())
    }

    async fn deliver(&self, _: Event, _: &HeaderMap) -> Result<EventOutcome, app::Error> {
        Ok(EventOutcome::Success)
    }

    async fn probe(&self) -> bool {
        true
    }
}

#[async_trait]
impl Peers for World {
    async fn reach(&self, target: &Target) -> Result<(), rpc::Status> {
        if self.dead == Some(target.address.as_str()) {
            return Err(rpc::Status::new(
                rpc::Code::Unavailable,
                "connection refused",
            ));
        }
        Ok(())
    }

    async fn call_local(&self, target: &Target, request: Request) -> Result<Response, Failure> {
        if self.without_app == Some(target.address.as_str()) {
            // It took all of the request first, as the wire does.
            seen("nobody", request).await;
            return Err(Failure {
                status: rpc::Status::new(rpc::Code::Internal, "connection refused"),
                is_untouched: true,
                is_own: false,
            });
        }
        if self.unreadable {
            let status = rpc::Status::new(rpc::Code::Internal, "stream too large");
            return Err(Failure {
                is_own: true,
                ..Failure::from(status)
            });
        }
        let to = format!("{}/{}@{}", target.namespace, target.app_id, target.address);
        self.take(&to, request).await.map_err(Failure::from)
    }

    async fn call_actor(&self, _: &Target, _: actors::Call) -> Result<actors::Reply, rpc::Status> {
        Err(rpc::Status::new(rpc::Code::Unimplemented, "no actors"))
    }

    async fn call_actor_reminder(&self, _: &Target, _: ReminderCall) -> Result<(), rpc::Status> {
        Err(rpc::Status::new(rpc::Code::Unimplemented, "no actors"))
    }
}

#[async_trait]
impl External for World {
    async fn call(
        &self,
        base_url: &str,
        endpoint: Option<&HttpEndpoint>,
        request: Request,
    ) -> Result<Response, app::Error> {
        let to = match endpoint {
            Some(endpoint) => format!("{}={base_url}", endpoint.name),
            None => base_url.to_owned(),
        };
        self.take(&to, request).await.map_err(app::Error::Status)
    }
}

/// Knows two pods: calls go to the first until that failed.
#[derive(Default)]
pub(crate) struct TwoPods {
    pub(crate) failed: Mutex<Vec<String>>,
}

#[async_trait]
impl Resolver for TwoPods {
    async fn resolve(&self, _: &ResolveRequest) -> Result<String, ComponentError> {
        let failed = self.failed.lock();
        let pods = ["10.0.0.1:1", "10.0.0.2:1"];
        let well = pods
            .iter()
            .find(|pod| !failed.iter().any(|other| other == *pod));
        Ok((*well.unwrap_or(&pods[0])).to_owned())
    }

    fn failed(&self, _: &ResolveRequest, address: &str) {
        self.failed.lock().push(address.to_owned());
    }

    fn alternatives(&self) -> usize {
        3
    }
}

/// Gives addresses in turn, the last one for ever.
pub(crate) struct Addresses(pub(crate) Mutex<Vec<&'static str>>);

#[async_trait]
impl Resolver for Addresses {
    async fn resolve(&self, request: &ResolveRequest) -> Result<String, ComponentError> {
        if request.app_id == "missing" {
            let text = format!("couldn't find service: {}", request.app_id);
            return Err(ComponentError::new(
                dapr_components_core::ErrorKind::Unavailable,
                text,
            ));
        }
        let mut addresses = self.0.lock();
        let address = if addresses.len() > 1 {
            addresses.remove(0)
        } else {
            addresses[0]
        };
        Ok(address.to_owned())
    }
}

/// An application that hands every event to the test and answers as scripted, `Success` after the script.
pub(crate) struct Listener {
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) batches: mpsc::UnboundedSender<BulkEvent>,
    pub(crate) script: Mutex<VecDeque<EventOutcome>>,
}

/// What a [`Listener`] hears.
pub(crate) struct Heard {
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    pub(crate) batches: mpsc::UnboundedReceiver<BulkEvent>,
}

impl Listener {
    pub(crate) fn new(script: impl IntoIterator<Item = EventOutcome>) -> (Arc<Self>, Heard) {
        let (events, heard_events) = mpsc::unbounded_channel();
        let (batches, heard_batches) = mpsc::unbounded_channel();
        let listener = Self {
            events,
            batches,
            script: Mutex::new(script.into_iter().collect()),
        };
        let heard = Heard {
            events: heard_events,
            batches: heard_batches,
        };
        (Arc::new(listener), heard)
    }

    fn next(&self) -> EventOutcome {
        let next = self.script.lock().pop_front();
        next.unwrap_or(EventOutcome::Success)
    }
}

#[async_trait]
impl AppChannel for Listener {
    fn protocol(&self) -> Protocol {
        Protocol::Http
    }

    async fn invoke(&self, _: Request) -> Result<Response, app::Error> {
        Err(app::Error::Unhealthy)
    }

    async fn config(&self) -> Result<Config, app::Error> {
        Ok(Config::default())
    }

    async fn subscriptions(&self) -> Result<Vec<Subscription>, app::Error> {
        Ok(Vec::new())
    }

    async fn deliver(&self, event: Event, _: &HeaderMap) -> Result<EventOutcome, app::Error> {
        self.events.send(event).expect("the test listens");
        Ok(self.next())
    }

    async fn deliver_bulk(
        &self,
        events: BulkEvent,
        _: &HeaderMap,
    ) -> Result<BulkOutcome, app::Error> {
        let outcomes = events
            .entries
            .iter()
            .map(|entry| (entry.entry_id.clone(), self.next()))
            .collect();
        self.batches.send(events).expect("the test listens");
        Ok(BulkOutcome::Entries(outcomes))
    }

    async fn probe(&self) -> bool {
        true
    }
}

pub(crate) fn metadata(name: &str, properties: &[(&str, &str)]) -> Metadata {
    let properties = properties
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Metadata::new(name, "test", "v1", properties).expect("no duplicates")
}

pub(crate) fn bus() -> Arc<dyn PubSub> {
    Arc::new(dapr_components_in_memory::pubsub::Bus::default())
}

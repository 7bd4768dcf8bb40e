//! A core with in-memory components; application, peers and actors are scripted.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dapr_components_core::name_resolution::{ResolveRequest, Resolver};
use dapr_components_core::secret_store::{self, Secret, SecretStore};
use dapr_components_core::state::{self, StateStore};
use dapr_components_core::{Error as ComponentError, ErrorKind, Metadata as ComponentMetadata};
use dapr_components_in_memory::pubsub::Bus;
use dapr_components_in_memory::state::Store;
use dapr_proto::dapr::proto::runtime::v1::subscribe_actor_events_request_alpha1::RequestType;
use dapr_proto::dapr::proto::runtime::v1::subscribe_actor_events_response_alpha1::ResponseType as CallType;
use dapr_proto::dapr::proto::runtime::v1::{
    SubscribeActorEventsRequestAlpha1, SubscribeActorEventsResponseAlpha1,
    SubscribeActorEventsResponseInvokeRequestAlpha1,
};
use dapr_sidecar_api::Core;
use dapr_sidecar_api::metrics::{ApiMetrics, MetricsSettings};
use dapr_sidecar_api::services::{
    ActorAnswers, ActorCalls, ActorStreams, HealthView, Proxy, Shutdown, ShutdownKind,
};
use dapr_sidecar_api::settings::Settings;
use dapr_sidecar_core::actors::{self, Actors, Phase, RuntimeStatus};
use dapr_sidecar_core::app::{self, AppChannel, Event, EventOutcome, Protocol};
use dapr_sidecar_core::body::{self, Body, BoxError};
use dapr_sidecar_core::invoke::{self, Invoker, InvokerSettings, Location, Status};
use dapr_sidecar_core::metadata::{AppConnection, Component, Metadata, Snapshot};
use dapr_sidecar_core::peer::{Failure, Peers, ReminderCall, Target};
use dapr_sidecar_core::pubsub::{PubSubs, Subscription};
use dapr_sidecar_core::resiliency::Resiliency;
use dapr_sidecar_core::rpc::{self, Code};
use dapr_sidecar_core::secrets::{ScopeSpec, Scopes, Secrets};
use dapr_sidecar_core::state::Stores;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

/// What a test may look at or change afterwards.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) core: Arc<Core>,
    pub(crate) health: Arc<Health>,
    pub(crate) shutdowns: Arc<Shutdowns>,
    pub(crate) registry: Registry,
    pub(crate) resiliency: Arc<Resiliency>,
}

/// The outside in its usual state, with the state stores `store` and `disk` and one pub/sub `pubsub`.
pub(crate) fn world() -> World {
    build(Settings::default(), Components::Some, Phase::Running)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Components {
    None,
    Some,
}

pub(crate) fn with_settings(settings: Settings) -> World {
    build(settings, Components::Some, Phase::Running)
}

fn secrets(resiliency: &Arc<Resiliency>, metrics: Arc<ApiMetrics>) -> Secrets {
    let scope = ScopeSpec {
        store_name: "vault".to_owned(),
        denied_secrets: vec!["hidden".to_owned()],
        ..ScopeSpec::default()
    };
    let scopes = Scopes::parse([scope]).expect("valid");
    Secrets::new(scopes, Arc::clone(resiliency), metrics)
}

/// Holds `redis` with two values and `hidden` with one; it knows what metadata it was asked with.
struct Vault;

#[async_trait]
impl SecretStore for Vault {
    fn features(&self) -> &[secret_store::Feature] {
        &[]
    }

    async fn get(&self, request: secret_store::GetRequest) -> Result<Secret, ComponentError> {
        let mut all = self.bulk_get(request.metadata).await?;
        all.remove(&request.name)
            .ok_or_else(|| ComponentError::new(ErrorKind::Invalid, "no such secret"))
    }

    async fn bulk_get(
        &self,
        metadata: secret_store::RequestMetadata,
    ) -> Result<BTreeMap<String, Secret>, ComponentError> {
        let version = metadata.get("version").cloned().unwrap_or_default();
        let redis = [
            ("password".to_owned(), "p".to_owned()),
            ("version".to_owned(), version),
        ];
        Ok(BTreeMap::from([
            ("redis".to_owned(), Secret(redis.into())),
            ("hidden".to_owned(), Secret::single("hidden", "h")),
        ]))
    }
}

/// A store that keeps empty values, as those that write to a disk do.
struct Disk(Store);

#[async_trait]
impl StateStore for Disk {
    fn features(&self) -> &[state::Feature] {
        self.0.features()
    }

    async fn get(&self, request: state::GetRequest) -> Result<Option<state::Item>, ComponentError> {
        self.0.get(request).await
    }

    async fn set(&self, request: state::SetRequest) -> Result<(), ComponentError> {
        self.0.set(request).await
    }

    async fn delete(&self, request: state::DeleteRequest) -> Result<(), ComponentError> {
        self.0.delete(request).await
    }
}

pub(crate) fn build(settings: Settings, components: Components, phase: Phase) -> World {
    let registry = Registry::new();
    let metrics = ApiMetrics::new(&registry, "app", "ns", MetricsSettings::default());
    let metrics = Arc::new(metrics.expect("registers"));
    let resiliency = Arc::new(Resiliency::default());
    let stores = Arc::new(Stores::new(
        "app",
        Some("ns"),
        Arc::clone(&resiliency),
        metrics.clone(),
    ));
    let pubsubs = Arc::new(PubSubs::new(
        "app",
        Some("ns"),
        Arc::clone(&resiliency),
        metrics.clone(),
    ));
    let secrets = secrets(&resiliency, metrics.clone());
    if components == Components::Some {
        drop(secrets.add("vault", Arc::new(Vault)));
        stores
            .add(&component("store", &[]), Arc::new(Store::open()))
            .expect("loads");
        stores
            .add(&component("disk", &[]), Arc::new(Disk(Store::open())))
            .expect("loads");
        let scopes = [("protectedTopics", "secret")];
        drop(pubsubs.add(&component("pubsub", &scopes), Arc::new(Bus::default())));
    }
    let invoker = Arc::new(Invoker::new(InvokerSettings {
        app_id: "app".to_owned(),
        namespace: "ns".to_owned(),
        internal_port: 50002,
        host_address: "127.0.0.1".to_owned(),
        hostname: "host".to_owned(),
        max_replay: 4 << 20,
        peers: Arc::new(NoPeers),
        external: Arc::new(NoPeers),
        resiliency: Arc::clone(&resiliency),
        metrics: metrics.clone(),
    }));
    invoker.set_app(Some(Arc::new(App)));
    invoker.set_resolver(Arc::new(NoPeers));
    let health = Arc::new(Health::default());
    let shutdowns = Arc::new(Shutdowns::default());
    let core = Core {
        app_id: "app".to_owned(),
        namespace: "ns".to_owned(),
        stores,
        pubsubs,
        secrets: Arc::new(secrets),
        invoker,
        actors: Arc::new(FakeActors {
            phase,
            state: Mutex::default(),
        }),
        actor_streams: Arc::new(Greeter),
        metadata: Arc::new(Extended::default()),
        health: health.clone(),
        shutdown: shutdowns.clone(),
        proxy: Arc::new(EchoProxy),
        metrics: Some(metrics),
        settings,
        stopping: CancellationToken::new(),
    };
    World {
        core: Arc::new(core),
        health,
        shutdowns,
        registry,
        resiliency,
    }
}

fn component(name: &str, properties: &[(&str, &str)]) -> ComponentMetadata {
    let properties = properties
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ComponentMetadata::new(name, "test.in-memory", "v1", properties).expect("no duplicates")
}

/// An application: `echo` gives back what it got, `teapot` refuses, `fail` does not answer, `break` stops within its
/// answer, `status` and `trailers` speak gRPC, `typed` says what message its answer is.
struct App;

#[async_trait]
impl AppChannel for App {
    fn protocol(&self) -> Protocol {
        Protocol::Http
    }

    async fn invoke(&self, request: invoke::Request) -> Result<invoke::Response, app::Error> {
        let verb = request
            .verb
            .as_ref()
            .map_or("NONE", |verb| verb.as_str())
            .to_owned();
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let shown = ["content-type", "host", "dapr-authority", "grpc-timeout"];
            if name.as_str().starts_with("x-") || shown.contains(&name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
        let shown = format!("{verb} {} {}", request.method, request.query);
        headers.insert("x-seen", HeaderValue::try_from(shown).expect("a value"));
        headers.insert("date", HeaderValue::from_static("today"));
        let body = match request.body.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return Err(app::Error::Transport(error.to_string())),
        };
        let (status, body) = match request.method.as_str() {
            "teapot" => (
                Status::Http(StatusCode::IM_A_TEAPOT),
                Bytes::from_static(b"short and stout"),
            ),
            "missing" => (
                Status::Http(StatusCode::NOT_FOUND),
                Bytes::from(vec![b'x'; 100]),
            ),
            "status" => (
                Status::Grpc(rpc::Status::new(Code::NotFound, "no such order")),
                Bytes::new(),
            ),
            "trailers" | "typed" => (Status::Grpc(rpc::Status::new(Code::Ok, "")), body),
            "fail" => return Err(app::Error::Transport("EOF".to_owned())),
            _ => (Status::Http(StatusCode::OK), body),
        };
        let body = if request.method == "break" {
            let error = Err::<Frame<Bytes>, BoxError>("unexpected EOF".into());
            StreamBody::new(futures::stream::iter([error])).boxed_unsync()
        } else {
            body::full(body)
        };
        let mut trailers = HeaderMap::new();
        if matches!(status, Status::Grpc(_)) {
            trailers.insert("x-trailer", HeaderValue::from_static("last"));
        }
        let type_url = match request.method.as_str() {
            "typed" => "type.googleapis.com/shop.Order",
            _ => "",
        };
        Ok(invoke::Response {
            status,
            headers,
            trailers,
            type_url: type_url.to_owned(),
            body,
            is_untouched: false,
        })
    }

    async fn config(&self) -> Result<app::Config, app::Error> {
        Ok(app::Config::default())
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

/// Nobody else is there.
struct NoPeers;

fn nobody() -> rpc::Status {
    rpc::Status::new(Code::PermissionDenied, "nobody is there")
}

#[async_trait]
impl Peers for NoPeers {
    async fn call_local(
        &self,
        _: &Target,
        _: invoke::Request,
    ) -> Result<invoke::Response, Failure> {
        Err(nobody().into())
    }

    async fn call_actor(&self, _: &Target, _: actors::Call) -> Result<actors::Reply, rpc::Status> {
        Err(nobody())
    }

    async fn call_actor_reminder(&self, _: &Target, _: ReminderCall) -> Result<(), rpc::Status> {
        Err(nobody())
    }
}

#[async_trait]
impl invoke::External for NoPeers {
    async fn call(
        &self,
        base_url: &str,
        _: Option<&invoke::HttpEndpoint>,
        _: invoke::Request,
    ) -> Result<invoke::Response, app::Error> {
        Err(app::Error::Transport(format!(
            "{base_url} is not reachable"
        )))
    }
}

#[async_trait]
impl Resolver for NoPeers {
    async fn resolve(&self, _: &ResolveRequest) -> Result<String, ComponentError> {
        Ok("127.0.0.1:1".to_owned())
    }
}

/// Hosts type `T`; every other type has no host.
struct FakeActors {
    phase: Phase,
    state: Mutex<BTreeMap<String, Bytes>>,
}

impl FakeActors {
    fn check(&self) -> Result<(), actors::Error> {
        match self.phase {
            Phase::Disabled => Err(actors::Error::NoPlacement),
            Phase::Initializing | Phase::Running => Ok(()),
        }
    }
}

#[async_trait]
impl Actors for FakeActors {
    async fn invoke(&self, call: actors::Call) -> Result<actors::Reply, actors::Error> {
        self.check()?;
        if call.actor_type != "T" {
            let text = format!("failed to lookup actor: no host for {}", call.actor_type);
            return Err(actors::Error::InvokeStatus(rpc::Status::new(
                Code::FailedPrecondition,
                text,
            )));
        }
        if call.method == "spelling" {
            let keys = call.headers.keys();
            let mut keys: Vec<_> = keys.map(|name| call.spelling.of(name.as_str())).collect();
            keys.sort();
            return Ok(actors::Reply {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: keys.join(" ").into(),
            });
        }
        let mut headers = HeaderMap::new();
        let seen = format!(
            "{}/{} {}",
            call.actor_id,
            call.method,
            call.headers.contains_key(actors::API_CALL_HEADER)
        );
        headers.insert("x-seen", HeaderValue::try_from(seen).expect("a value"));
        Ok(actors::Reply {
            status: StatusCode::OK,
            headers,
            body: call.body,
        })
    }

    async fn invoke_from_peer(&self, call: actors::Call) -> Result<actors::Reply, rpc::Status> {
        let mut headers = HeaderMap::new();
        let remote = call.headers.get(actors::REMOTE_HEADER).cloned();
        headers.insert("x-remote", remote.unwrap_or(HeaderValue::from_static("no")));
        Ok(actors::Reply {
            status: StatusCode::OK,
            headers,
            body: call.body,
        })
    }

    async fn remind_from_peer(&self, call: ReminderCall) -> Result<(), rpc::Status> {
        if call.name == "gone" {
            return Err(rpc::Status::new(Code::NotFound, "gone"));
        }
        Ok(())
    }

    async fn get_state(
        &self,
        kind: &str,
        id: &str,
        key: &str,
    ) -> Result<Option<actors::StateItem>, actors::Error> {
        self.check()?;
        let data = self
            .state
            .lock()
            .get(&format!("{kind}/{id}/{key}"))
            .cloned();
        let metadata = BTreeMap::from([("ttlExpireTime".to_owned(), "soon".to_owned())]);
        Ok(data.map(|data| actors::StateItem { data, metadata }))
    }

    async fn transact(
        &self,
        kind: &str,
        id: &str,
        operations: Vec<actors::StateOperation>,
    ) -> Result<(), actors::Error> {
        self.check()?;
        if kind != "T" {
            return Err(actors::Error::InstanceMissing);
        }
        for operation in operations {
            match operation {
                actors::StateOperation::Upsert { key, value, .. } => {
                    self.state
                        .lock()
                        .insert(format!("{kind}/{id}/{key}"), value);
                }
                actors::StateOperation::Delete { key, .. } => {
                    self.state.lock().remove(&format!("{kind}/{id}/{key}"));
                }
            }
        }
        Ok(())
    }

    async fn create_timer(&self, timer: actors::Timer) -> Result<(), actors::Error> {
        self.check()?;
        if timer.due_time == "soon" {
            return Err(actors::Error::TimerCreate("bad time".to_owned()));
        }
        Ok(())
    }

    async fn delete_timer(&self, _: &str, _: &str, _: &str) -> Result<(), actors::Error> {
        self.check()
    }

    async fn create_reminder(&self, reminder: actors::Reminder) -> Result<(), actors::Error> {
        self.check()?;
        if reminder.overwrite {
            Ok(())
        } else {
            Err(actors::Error::ReminderAlreadyExists(reminder.name))
        }
    }

    async fn get_reminder(
        &self,
        kind: &str,
        id: &str,
        name: &str,
    ) -> Result<actors::Reminder, actors::Error> {
        self.check()?;
        if name == "none" {
            return Err(actors::Error::ReminderNotFound(name.to_owned()));
        }
        Ok(actors::Reminder {
            actor_type: kind.to_owned(),
            actor_id: id.to_owned(),
            period: "@every 1s".to_owned(),
            data: Bytes::from_static(b"{\"a\":1}"),
            ..actors::Reminder::default()
        })
    }

    async fn delete_reminder(&self, _: &str, _: &str, _: &str) -> Result<(), actors::Error> {
        self.check()
    }

    fn status(&self) -> RuntimeStatus {
        RuntimeStatus {
            phase: self.phase,
            active: vec![("T".to_owned(), 1), ("U".to_owned(), 0)],
            host_ready: true,
            placement_connected: true,
        }
    }
}

/// Readiness, set by tests.
#[derive(Default)]
pub(crate) struct Health {
    pub(crate) unready: Mutex<Vec<String>>,
    /// Headers of those who were held.
    pub(crate) held: Mutex<Vec<HeaderMap>>,
}

impl HealthView for Health {
    fn unready(&self) -> Vec<String> {
        self.unready.lock().clone()
    }

    fn hold<'a>(&'a self, headers: &'a HeaderMap) -> BoxFuture<'a, ()> {
        self.held.lock().push(headers.clone());
        Box::pin(std::future::ready(()))
    }

    fn outbound_ready(&self) -> bool {
        self.unready.lock().is_empty()
    }
}

/// Shutdowns asked for.
#[derive(Default)]
pub(crate) struct Shutdowns(pub(crate) Mutex<Vec<ShutdownKind>>);

impl Shutdown for Shutdowns {
    fn shutdown(&self, kind: ShutdownKind) {
        self.0.lock().push(kind);
    }
}

/// Answers the greeting of an actor stream with a call of the types it names.
struct Greeter;

impl ActorStreams for Greeter {
    fn serve(&self, incoming: ActorAnswers) -> Result<ActorCalls, rpc::Status> {
        let greet = |message: Result<SubscribeActorEventsRequestAlpha1, tonic::Status>| {
            let Some(RequestType::InitialRequest(initial)) = message?.request_type else {
                return Err(tonic::Status::invalid_argument("no greeting"));
            };
            let call = CallType::InvokeRequest(SubscribeActorEventsResponseInvokeRequestAlpha1 {
                actor_type: initial.entities.concat(),
                ..Default::default()
            });
            Ok(SubscribeActorEventsResponseAlpha1 {
                response_type: Some(call),
            })
        };
        Ok(incoming.map(greet).boxed())
    }
}

/// Gives back the frames it got, with where they were to go and the metadata that matters.
struct EchoProxy;

#[async_trait]
impl Proxy for EchoProxy {
    async fn forward(
        &self,
        location: Location,
        request: Request<Body>,
    ) -> Result<Response<Body>, rpc::Status> {
        let shown = match location {
            Location::Local => "local".to_owned(),
            Location::Remote(target) => format!("{}@{}", target.app_id, target.address),
            Location::External { .. } => "external".to_owned(),
        };
        let (parts, body) = request.into_parts();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = body.with_trailers(async move { Some(Ok(trailers)) });
        let mut response = Response::new(body.boxed_unsync());
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("x-location", HeaderValue::try_from(shown).expect("a value"));
        for name in [
            "dapr-app-id",
            "dapr-caller-app-id",
            "dapr-callee-app-id",
            "dapr-api-token",
        ] {
            if let Some(value) = parts.headers.get(name) {
                headers.insert(
                    format!("x-{name}")
                        .parse::<http::HeaderName>()
                        .expect("a name"),
                    value.clone(),
                );
            }
        }
        Ok(response)
    }

    async fn reach(&self, _: &Location) -> Result<(), rpc::Status> {
        Ok(())
    }
}

/// The metadata API's source.
#[derive(Default)]
struct Extended(Mutex<BTreeMap<String, String>>);

impl Metadata for Extended {
    fn snapshot(&self) -> Snapshot {
        let mut extended = self.0.lock().clone();
        extended.insert("daprRuntimeVersion".to_owned(), "1.18.3".to_owned());
        Snapshot {
            app_id: "app".to_owned(),
            runtime_version: "1.18.3".to_owned(),
            enabled_features: vec!["HotReload".to_owned()],
            components: vec![Component {
                name: "store".to_owned(),
                component_type: "state.in-memory".to_owned(),
                version: "v1".to_owned(),
                capabilities: vec!["ETAG".to_owned()],
            }],
            extended,
            subscriptions: Vec::new(),
            http_endpoints: vec!["e".to_owned()],
            resiliencies: Vec::new(),
            app: AppConnection {
                port: 0,
                protocol: "http".to_owned(),
                channel_address: "127.0.0.1".to_owned(),
                max_concurrency: 0,
                health: None,
            },
            actors: RuntimeStatus {
                phase: Phase::Running,
                active: vec![("T".to_owned(), 1), ("U".to_owned(), 0)],
                host_ready: true,
                placement_connected: true,
            },
        }
    }

    fn set(&self, key: String, value: String) {
        self.0.lock().insert(key, value);
    }
}

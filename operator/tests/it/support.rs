//! An operator in this process, and sidecars that call it over mutual TLS.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use dapr_kit::health::Health;
use dapr_kubernetes::Place;
use dapr_operator::app::{Duties, Listeners, Service, State, Targets};
use dapr_operator::args::WatchInterval;
use dapr_operator::services::Metrics;
use dapr_proto::dapr::proto::operator::v1 as wire;
use dapr_proto::dapr::proto::operator::v1::operator_client::OperatorClient;
use dapr_security::{Expect, Publisher, SpiffeId};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::authority::Authority;

/// Long against everything that happens here, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// The id of the operator.
pub(crate) const OPERATOR: &str = "spiffe://cluster.local/ns/dapr-system/dapr-operator";

/// A leader that has nothing to do but to write notices.
pub(crate) const IDLE: Duties = Duties {
    services: false,
    rollouts: false,
    other_workloads: false,
    watch_interval: WatchInterval::Disabled,
    restarts_per_minute: None,
    may_label_pods: false,
};

/// A running operator. Dropped, it ends.
pub(crate) struct Operator {
    pub(crate) authority: Authority,
    /// Publishes another identity of it.
    pub(crate) publisher: Publisher,
    pub(crate) state: State,
    pub(crate) health: Health,
    pub(crate) token: CancellationToken,
    pub(crate) tasks: JoinSet<()>,
    /// What ends when the process must not go on.
    pub(crate) work: JoinSet<anyhow::Result<()>>,
    port: u16,
}

impl Operator {
    /// Starts one without webhook and duties, for all namespaces or the one of `scope`.
    pub(crate) async fn start(kubeconfig: PathBuf, scope: Option<&str>) -> Self {
        Self::start_with(kubeconfig, scope, IDLE).await
    }

    /// As [`Operator::start`], with duties.
    pub(crate) async fn start_with(
        kubeconfig: PathBuf,
        scope: Option<&str>,
        duties: Duties,
    ) -> Self {
        Self::start_as(kubeconfig, scope, duties, None).await
    }

    /// As [`Operator::start_with`], and with its duties only while it leads: the Lease is in `election`.
    pub(crate) async fn start_as(
        kubeconfig: PathBuf,
        scope: Option<&str>,
        duties: Duties,
        election: Option<&str>,
    ) -> Self {
        let authority = Authority::new();
        let (security, publisher) = authority.publishes(OPERATOR);
        let state = State::register(&prometheus::Registry::new()).expect("metrics");
        let health = Health::new();
        let client = dapr_kubernetes::client(&Place::Kubeconfig(kubeconfig)).await;
        let service = Service {
            client: client.expect("a client"),
            security,
            namespace: "dapr-system".to_owned(),
            scope: scope.map(str::to_owned),
            webhooks: false,
            duties,
            election: election.map(str::to_owned),
            metrics: Metrics::register(&prometheus::Registry::new()).expect("metrics"),
            state: state.clone(),
            targets: Targets {
                api: health.target("api"),
                webhook: health.target("webhook"),
                cluster: health.target("cluster"),
            },
        };
        let api = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = api.local_addr().expect("bound").port();
        let listeners = Listeners { api, webhook: None };
        let (mut tasks, mut work) = (JoinSet::new(), JoinSet::new());
        let token = CancellationToken::new();
        service.spawn(listeners, &mut tasks, &mut work, &token);
        Self {
            authority,
            publisher,
            state,
            health,
            token,
            tasks,
            work,
            port,
        }
    }

    /// As [`Operator::start`], with all resources known.
    pub(crate) async fn ready(kubeconfig: PathBuf, scope: Option<&str>) -> Self {
        let operator = Self::start(kubeconfig, scope).await;
        let ready = timeout(SOON, operator.health.await_ready()).await;
        assert!(ready.is_ok(), "{:?}", operator.health.unready());
        operator
    }

    /// Where it serves.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port of its API.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The sidecar of an app.
    pub(crate) async fn app(&self, namespace: &str, app_id: &str) -> OperatorClient<Channel> {
        let id = format!("spiffe://public/ns/{namespace}/{app_id}");
        self.client(&id).await
    }

    /// Somebody with this id.
    pub(crate) async fn client(&self, id: &str) -> OperatorClient<Channel> {
        connect(&self.authority, self.port, id).await
    }
}

/// A connection of somebody with this id to an operator.
pub(crate) async fn connect(authority: &Authority, port: u16, id: &str) -> OperatorClient<Channel> {
    OperatorClient::new(channel(authority, port, id).await)
}

/// As [`connect`], for any method.
pub(crate) async fn channel(authority: &Authority, port: u16, id: &str) -> Channel {
    channel_to(OPERATOR, authority, port, id).await
}

/// As [`channel`], to an operator with this id.
pub(crate) async fn channel_to(
    operator: &str,
    authority: &Authority,
    port: u16,
    id: &str,
) -> Channel {
    let operator = SpiffeId::new(operator).expect("an id");
    let connector = authority.security(id).connector(Expect::Id(operator));
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL");
    let channel = timeout(SOON, endpoint.connect_with_connector(connector)).await;
    channel.expect("in time").expect("connected")
}

/// An object of an answer.
pub(crate) fn read(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// The Components of a list, or the code and text of its failure.
pub(crate) async fn components(
    client: &mut OperatorClient<Channel>,
    namespace: &str,
) -> Result<Vec<Value>, (tonic::Code, String)> {
    let request = wire::ListComponentsRequest {
        namespace: namespace.to_owned(),
    };
    let listed = timeout(SOON, client.list_components(request)).await;
    match listed.expect("in time") {
        Ok(list) => Ok(list.into_inner().components.iter().map(read).collect()),
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

/// The stream of Components.
pub(crate) async fn component_stream(
    client: &mut OperatorClient<Channel>,
    namespace: &str,
) -> Streaming<wire::ComponentUpdateEvent> {
    let request = wire::ComponentUpdateRequest {
        namespace: namespace.to_owned(),
    };
    let opened = timeout(SOON, client.component_update(request)).await;
    opened.expect("in time").expect("open").into_inner()
}

/// The next change: its type and the object.
pub(crate) async fn next(stream: &mut Streaming<wire::ComponentUpdateEvent>) -> (i32, Value) {
    let event = timeout(SOON, stream.message()).await.expect("in time");
    let event = event.expect("a stream").expect("an event");
    (event.r#type, read(&event.component))
}

/// Names of objects.
pub(crate) fn names(objects: &[Value]) -> Vec<&str> {
    let names = objects.iter().map(|object| &object["metadata"]["name"]);
    names.filter_map(Value::as_str).collect()
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(SOON, wait).await.is_ok(), "{what} did not happen");
}

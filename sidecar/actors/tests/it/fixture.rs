//! Scripted neighbours of a runtime.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dapr_components_core::state::{self, Feature, StateStore};
use dapr_proto::dapr::proto::placement::v1 as proto;
use dapr_sidecar_actors::app_host::{AppHost, Error as HostError};
use dapr_sidecar_actors::metrics::NoMetrics;
use dapr_sidecar_actors::reminders::Disabled;
use dapr_sidecar_actors::settings::{Dialer, Discovery};
use dapr_sidecar_actors::{Runtime, Settings};
use dapr_sidecar_core::actors::{Call, Reply, Spelling};
use dapr_sidecar_core::app::Config;
use dapr_sidecar_core::body::BoxError;
use dapr_sidecar_core::invoke;
use dapr_sidecar_core::peer::{Failure, Peers, ReminderCall, Target};
use dapr_sidecar_core::resiliency::Resiliency;
use dapr_sidecar_core::rpc::{Code, Status};
use http::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};

pub(crate) const HERE: &str = "10.0.0.1:50002";
pub(crate) const THERE: &str = "10.0.0.2:50002";

/// What a stream to placement is for the script.
pub(crate) struct Stream {
    pub(crate) address: String,
    pub(crate) hosts: tonic::Streaming<proto::Host>,
    pub(crate) orders: mpsc::Sender<Result<proto::PlacementOrder, tonic::Status>>,
}

impl Stream {
    pub(crate) async fn host(&mut self) -> proto::Host {
        self.hosts
            .message()
            .await
            .expect("the client sends no error")
            .expect("the client keeps the stream")
    }

    pub(crate) async fn order(&self, operation: &str, version: u64, types: &[(&str, &[&str])]) {
        let order = order(operation, version, types);
        self.orders.send(Ok(order)).await.expect("open");
    }

    /// Sends an order and waits for its answer.
    pub(crate) async fn step(&mut self, operation: &str, version: u64, types: &[(&str, &[&str])]) {
        self.order(operation, version, types).await;
        let answer = self.host().await;
        let expected = match operation {
            "lock" => proto::HostOperation::Lock,
            "update" => proto::HostOperation::Update,
            _ => proto::HostOperation::Unlock,
        };
        assert_eq!(answer.operation(), expected);
        assert_eq!(answer.version, Some(version));
        assert_eq!(
            (answer.id.as_str(), answer.namespace.as_str()),
            ("app", "ns")
        );
    }

    pub(crate) async fn round(&mut self, version: u64, types: &[(&str, &[&str])]) {
        for operation in ["lock", "update", "unlock"] {
            self.step(operation, version, types).await;
        }
    }
}

pub(crate) fn order(
    operation: &str,
    version: u64,
    types: &[(&str, &[&str])],
) -> proto::PlacementOrder {
    let entries = types
        .iter()
        .map(|(name, hosts)| {
            let load_map = hosts
                .iter()
                .map(|host| {
                    let info = proto::Host {
                        name: (*host).to_owned(),
                        id: if *host == HERE { "app" } else { "other" }.to_owned(),
                        ..proto::Host::default()
                    };
                    ((*host).to_owned(), info)
                })
                .collect();
            let table = proto::PlacementTable {
                load_map,
                ..proto::PlacementTable::default()
            };
            ((*name).to_owned(), table)
        })
        .collect();
    let tables = (operation == "update").then(|| proto::PlacementTables {
        entries,
        replication_factor: 100,
        ..proto::PlacementTables::default()
    });
    proto::PlacementOrder {
        tables,
        operation: operation.to_owned(),
        version,
    }
}

/// Placement servers, one for each address, that hand their streams to the script.
pub(crate) struct Placement {
    streams: mpsc::Receiver<Stream>,
    pub(crate) dials: Arc<AtomicUsize>,
    pub(crate) refuse_dials: Arc<AtomicUsize>,
    pub(crate) redirects: Arc<AtomicUsize>,
}

impl Placement {
    pub(crate) async fn accept(&mut self) -> Stream {
        self.streams.recv().await.expect("the dialer lives")
    }

    pub(crate) fn try_accept(&mut self) -> Option<Stream> {
        self.streams.try_recv().ok()
    }
}

struct TestDialer {
    streams: mpsc::Sender<Stream>,
    dials: Arc<AtomicUsize>,
    /// That many dials fail.
    refuse: Arc<AtomicUsize>,
    /// That many streams are redirected.
    redirects: Arc<AtomicUsize>,
}

struct Service {
    address: String,
    streams: mpsc::Sender<Stream>,
    redirects: Arc<AtomicUsize>,
}

fn take(counter: &AtomicUsize) -> bool {
    let less = |count: usize| count.checked_sub(1);
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        .is_ok()
}

#[async_trait]
impl proto::placement_server::Placement for Service {
    type ReportDaprStatusStream = ReceiverStream<Result<proto::PlacementOrder, tonic::Status>>;

    async fn report_dapr_status(
        &self,
        request: tonic::Request<tonic::Streaming<proto::Host>>,
    ) -> Result<tonic::Response<Self::ReportDaprStatusStream>, tonic::Status> {
        if take(&self.redirects) {
            return Err(tonic::Status::failed_precondition(
                "node id=a is not a leader. Only the leader can serve requests",
            ));
        }
        let (orders, receiver) = mpsc::channel(16);
        let stream = Stream {
            address: self.address.clone(),
            hosts: request.into_inner(),
            orders,
        };
        self.streams.send(stream).await.expect("the script lives");
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }
}

#[async_trait]
impl Dialer for TestDialer {
    async fn connect(&self, address: &str) -> Result<Channel, BoxError> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        if take(&self.refuse) {
            return Err("connection refused".into());
        }
        let (client, server) = tokio::io::duplex(1 << 20);
        let service = Service {
            address: address.to_owned(),
            streams: self.streams.clone(),
            redirects: Arc::clone(&self.redirects),
        };
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(server));
        tokio::spawn(
            Server::builder()
                .add_service(proto::placement_server::PlacementServer::new(service))
                .serve_with_incoming(incoming),
        );
        let mut client = Some(client);
        let connector = tower::service_fn(move |_: http::Uri| {
            let client: Option<DuplexStream> = client.take();
            async move { client.map(TokioIo::new).ok_or("only one connection") }
        });
        let endpoint = Endpoint::from_static("http://placement");
        Ok(endpoint.connect_with_connector(connector).await?)
    }
}

/// What the application saw, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Begin(String),
    End(String),
    Remind(String),
    Timer(String),
    Deactivate(String),
}

/// An application that holds methods named `hold…` until they are released.
#[derive(Default)]
pub(crate) struct App {
    seen: Mutex<Vec<Seen>>,
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) fires: Mutex<Vec<(ReminderCall, String)>>,
    pub(crate) release: Notify,
    pub(crate) changed: Notify,
    pub(crate) failure: Mutex<Option<HostError>>,
}

impl App {
    fn see(&self, seen: Seen) {
        self.seen.lock().push(seen);
        self.changed.notify_waiters();
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(crate) fn forget(&self) {
        self.seen.lock().clear();
    }

    /// Waits until the application has seen this, once for each time it was seen.
    pub(crate) async fn until(&self, expected: &Seen, times: usize) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let count = self
                .seen
                .lock()
                .iter()
                .filter(|seen| *seen == expected)
                .count();
            if count >= times {
                return;
            }
            changed.await;
        }
    }
}

pub(crate) fn begin(text: &str) -> Seen {
    Seen::Begin(text.to_owned())
}

pub(crate) fn end(text: &str) -> Seen {
    Seen::End(text.to_owned())
}

pub(crate) fn deactivated(text: &str) -> Seen {
    Seen::Deactivate(text.to_owned())
}

pub(crate) fn fired(text: &str) -> Seen {
    Seen::Timer(text.to_owned())
}

#[async_trait]
impl AppHost for App {
    async fn invoke(&self, call: &Call) -> Result<Reply, HostError> {
        let label = format!("{}/{}.{}", call.actor_type, call.actor_id, call.method);
        self.see(Seen::Begin(label.clone()));
        self.calls.lock().push(call.clone());
        if call.method.starts_with("hold") {
            self.release.notified().await;
        }
        if let Some(failure) = self.failure.lock().clone() {
            return Err(failure);
        }
        self.see(Seen::End(label));
        Ok(reply("done"))
    }

    async fn remind(&self, reminder: &ReminderCall) -> Result<(), HostError> {
        self.fires.lock().push((reminder.clone(), String::new()));
        let label = format!(
            "{}/{}.{}",
            reminder.actor_type, reminder.actor_id, reminder.name
        );
        self.see(Seen::Remind(label));
        Ok(())
    }

    async fn timer(&self, timer: &ReminderCall, callback: &str) -> Result<(), HostError> {
        self.fires.lock().push((timer.clone(), callback.to_owned()));
        let label = format!("{}/{}.{}", timer.actor_type, timer.actor_id, timer.name);
        self.see(Seen::Timer(label));
        if timer.name.starts_with("hold") {
            self.release.notified().await;
        }
        Ok(())
    }

    async fn deactivate(&self, actor_type: &str, actor_id: &str) -> Result<(), HostError> {
        self.see(Seen::Deactivate(format!("{actor_type}/{actor_id}")));
        if actor_id.starts_with("slow") {
            self.release.notified().await;
        }
        Ok(())
    }
}

pub(crate) fn reply(body: &'static str) -> Reply {
    Reply {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

/// Other sidecars: answers in the order given, then success.
#[derive(Default)]
pub(crate) struct OtherSidecars {
    pub(crate) answers: Mutex<VecDeque<Status>>,
    pub(crate) calls: Mutex<Vec<(Target, Call)>>,
    pub(crate) fires: Mutex<Vec<(Target, ReminderCall)>>,
}

#[async_trait]
impl Peers for OtherSidecars {
    async fn call_local(
        &self,
        _: &Target,
        _: invoke::Request,
    ) -> Result<invoke::Response, Failure> {
        Err(Status::new(Code::Unimplemented, "actors do not invoke services").into())
    }

    async fn call_actor(&self, target: &Target, call: Call) -> Result<Reply, Status> {
        self.calls.lock().push((target.clone(), call));
        match self.answers.lock().pop_front() {
            Some(status) => Err(status),
            None => Ok(reply("remote")),
        }
    }

    async fn call_actor_reminder(&self, target: &Target, call: ReminderCall) -> Result<(), Status> {
        self.fires.lock().push((target.clone(), call));
        match self.answers.lock().pop_front() {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }
}

type Transaction = (Vec<state::Operation>, BTreeMap<String, String>);

/// A store that remembers what it was asked for.
pub(crate) struct Store {
    pub(crate) features: Vec<Feature>,
    pub(crate) items: Mutex<BTreeMap<String, Bytes>>,
    pub(crate) transactions: Mutex<Vec<Transaction>>,
    pub(crate) gets: Mutex<Vec<state::GetRequest>>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            features: vec![Feature::Etag, Feature::Transactional],
            items: Mutex::default(),
            transactions: Mutex::default(),
            gets: Mutex::default(),
        }
    }
}

#[async_trait]
impl StateStore for Store {
    fn features(&self) -> &[Feature] {
        &self.features
    }

    fn max_transaction_size(&self) -> Option<usize> {
        Some(3)
    }

    async fn get(
        &self,
        request: state::GetRequest,
    ) -> Result<Option<state::Item>, dapr_components_core::Error> {
        let data = self.items.lock().get(&request.key).cloned();
        self.gets.lock().push(request);
        Ok(data.map(|data| state::Item {
            data,
            ..state::Item::default()
        }))
    }

    async fn set(&self, request: state::SetRequest) -> Result<(), dapr_components_core::Error> {
        let value = request.value.bytes().clone();
        self.items.lock().insert(request.key, value);
        Ok(())
    }

    async fn delete(
        &self,
        request: state::DeleteRequest,
    ) -> Result<(), dapr_components_core::Error> {
        self.items.lock().remove(&request.key);
        Ok(())
    }

    async fn transact(
        &self,
        operations: Vec<state::Operation>,
        metadata: BTreeMap<String, String>,
    ) -> Result<(), dapr_components_core::Error> {
        for operation in &operations {
            match operation.clone() {
                state::Operation::Upsert(request) => self.set(request).await?,
                state::Operation::Delete(request) => self.delete(request).await?,
            }
        }
        self.transactions.lock().push((operations, metadata));
        Ok(())
    }
}

/// A runtime and everybody around it.
pub(crate) struct World {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) app: Arc<App>,
    pub(crate) peers: Arc<OtherSidecars>,
    pub(crate) store: Arc<Store>,
    pub(crate) placement: Placement,
    pub(crate) ready: Arc<AtomicUsize>,
    pub(crate) stop: CancellationToken,
    pub(crate) run: JoinHandle<()>,
}

pub(crate) const ADDRESSES: [&str; 2] = ["p0:1", "p1:1"];

impl World {
    /// A running runtime with a store, not yet registered.
    pub(crate) async fn new() -> Self {
        Self::without_store(&ADDRESSES).with_store().await
    }

    pub(crate) async fn with_store(self) -> Self {
        let store = Arc::clone(&self.store);
        self.runtime
            .set_state_store(Some(("store".to_owned(), store)))
            .await
            .expect("usable");
        self
    }

    pub(crate) fn without_store(addresses: &[&str]) -> Self {
        Self::under(addresses, Resiliency::default())
    }

    pub(crate) fn under(addresses: &[&str], resiliency: Resiliency) -> Self {
        let (sender, streams) = mpsc::channel(64);
        let placement = Placement {
            streams,
            dials: Arc::default(),
            refuse_dials: Arc::default(),
            redirects: Arc::default(),
        };
        let dialer = TestDialer {
            streams: sender,
            dials: Arc::clone(&placement.dials),
            refuse: Arc::clone(&placement.refuse_dials),
            redirects: Arc::clone(&placement.redirects),
        };
        let peers = Arc::new(OtherSidecars::default());
        let ready = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ready);
        let settings = Settings {
            app_id: "app".to_owned(),
            namespace: "ns".to_owned(),
            own_address: HERE.to_owned(),
            placement_addresses: addresses
                .iter()
                .map(|address| (*address).to_owned())
                .collect(),
            discovery: Discovery::List,
            disseminate_timeout: Duration::from_secs(30),
            state_ttl: false,
            peers: Arc::clone(&peers) as Arc<dyn Peers>,
            dialer: Arc::new(dialer),
            resiliency: Arc::new(resiliency),
            reminders: Arc::new(Disabled),
            metrics: Arc::new(NoMetrics),
            on_ready: Arc::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            }),
        };
        let (runtime, run) = Runtime::new(settings);
        let stop = CancellationToken::new();
        let run = tokio::spawn(run(stop.clone()));
        Self {
            runtime,
            app: Arc::default(),
            peers,
            store: Arc::default(),
            placement,
            ready,
            stop,
            run,
        }
    }

    pub(crate) async fn register(&self, config: &Config) {
        let app = Arc::clone(&self.app) as Arc<dyn AppHost>;
        self.runtime.register_host(config, app).await;
    }

    /// A runtime that hosts types `a` and `b` alone.
    pub(crate) async fn hosting() -> (Self, Stream) {
        Self::hosting_with(config(&["a", "b"])).await
    }

    pub(crate) async fn hosting_with(config: Config) -> (Self, Stream) {
        Self::new().await.hosts(config).await
    }

    pub(crate) async fn hosts(mut self, config: Config) -> (Self, Stream) {
        self.register(&config).await;
        let mut stream = self.placement.accept().await;
        stream.host().await;
        stream.round(1, &[("a", &[HERE]), ("b", &[HERE])]).await;
        (self, stream)
    }

    /// A call in a task of its own.
    pub(crate) fn start(
        &self,
        actor_type: &str,
        actor_id: &str,
        method: &str,
    ) -> JoinHandle<Result<Reply, dapr_sidecar_core::actors::Error>> {
        use dapr_sidecar_core::actors::Actors as _;
        let runtime = Arc::clone(&self.runtime);
        let call = call(actor_type, actor_id, method);
        tokio::spawn(async move { runtime.invoke(call).await })
    }
}

pub(crate) fn config(types: &[&str]) -> Config {
    Config {
        entities: types.iter().map(|name| (*name).to_owned()).collect(),
        ..Config::default()
    }
}

pub(crate) fn call(actor_type: &str, actor_id: &str, method: &str) -> Call {
    Call {
        actor_type: actor_type.to_owned(),
        actor_id: actor_id.to_owned(),
        method: method.to_owned(),
        query: String::new(),
        headers: HeaderMap::new(),
        spelling: Spelling::default(),
        body: Bytes::new(),
    }
}

/// Lets all tasks run until they wait for something.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

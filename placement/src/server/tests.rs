//! The service behind mTLS: identities decide what a stream may say.

use std::net::SocketAddr;
use std::time::Duration;

use dapr_proto::dapr::proto::placement::v1::HostOperation;
use dapr_proto::dapr::proto::placement::v1::placement_client::PlacementClient;
use dapr_security::{Acceptor, Expect, ServerOptions, serve};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::testing::{Authority, id};

const PLACEMENT: &str = "spiffe://control/ns/dapr-system/dapr-placement";

struct Running {
    authority: Authority,
    address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
    _leads: watch::Sender<Option<Lead>>,
}

async fn start() -> Running {
    start_for(Clients::Identified).await
}

async fn start_for(clients: Clients) -> Running {
    start_with(clients, Some(Lead::alone())).await
}

/// Without a lead it is a follower.
async fn start_with(clients: Clients, lead: Option<Lead>) -> Running {
    let authority = Authority::new();
    let settings = Settings {
        replication_factor: 100,
        timeout: Duration::from_secs(8),
        window: Duration::ZERO,
        lease: Duration::from_secs(5),
        shown: false,
    };
    let metrics = Metrics::register(&prometheus::Registry::new()).expect("names are valid");
    let server = Server::new("p0".to_owned(), clients, settings, metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let acceptor = match clients {
        Clients::Identified => Acceptor::Mutual(authority.security(&id(PLACEMENT))),
        Clients::Anybody => Acceptor::Plaintext,
    };
    let routes = server.clone().routes();
    let token = CancellationToken::new();
    let (leads, leading) = watch::channel(lead.clone());
    server.lead(lead);
    let never = CancellationToken::new();
    let follow = async move { server.follow(leading, never, String::new).await };
    let tasks = [
        AbortOnDropHandle::new(tokio::spawn(serve(
            listener,
            acceptor,
            routes,
            ServerOptions::default(),
            token,
        ))),
        AbortOnDropHandle::new(tokio::spawn(follow)),
    ];
    Running {
        authority,
        address,
        _tasks: tasks,
        _leads: leads,
    }
}

/// Reports as `default/app` with this certificate and returns the first order, or the status.
async fn report(
    running: &Running,
    certificate: &str,
    namespace: &str,
    app: &str,
) -> Result<String, Code> {
    let security = running.authority.security(&id(certificate));
    let connector = security.connector(Expect::Id(id(PLACEMENT)));
    let endpoint =
        Endpoint::from_shared(format!("http://{}", running.address)).expect("an address");
    let mut client = PlacementClient::new(endpoint.connect_with_connector_lazy(connector));
    let report = Host {
        id: app.to_owned(),
        namespace: namespace.to_owned(),
        entities: vec!["t".to_owned()],
        operation: HostOperation::Report.into(),
        ..Host::default()
    };
    let messages =
        futures::StreamExt::chain(futures::stream::iter([report]), futures::stream::pending());
    let mut orders = client
        .report_dapr_status(messages)
        .await
        .map_err(|status| status.code())?
        .into_inner();
    let order = orders.message().await.map_err(|status| status.code())?;
    Ok(order.expect("streams end with a status").operation)
}

#[tokio::test]
async fn messages_must_agree_with_the_certificate() {
    let running = start().await;
    let app = "spiffe://apps/ns/default/app";
    assert_eq!(
        report(&running, app, "default", "app").await,
        Ok("lock".to_owned())
    );
    assert_eq!(
        report(&running, app, "default", "other").await,
        Err(Code::PermissionDenied)
    );
    assert_eq!(
        report(&running, app, "other", "app").await,
        Err(Code::PermissionDenied)
    );
    assert_eq!(
        report(&running, "spiffe://apps/workload", "default", "app").await,
        Err(Code::Unauthenticated)
    );
}

#[tokio::test]
async fn strangers_do_not_get_past_the_handshake() {
    let running = start().await;
    let strangers = Running {
        authority: Authority::new(),
        ..running
    };
    let refused = report(&strangers, "spiffe://apps/ns/default/app", "default", "app").await;
    assert_eq!(refused, Err(Code::Unavailable));
}

/// A client with the certificate of an app, or without TLS.
fn client(running: &Running, clients: Clients, app: &str) -> PlacementClient<Channel> {
    let endpoint =
        Endpoint::from_shared(format!("http://{}", running.address)).expect("an address");
    let security = running
        .authority
        .security(&id(&format!("spiffe://apps/ns/default/{app}")));
    match clients {
        Clients::Identified => {
            let connector = security.connector(Expect::Id(id(PLACEMENT)));
            PlacementClient::new(endpoint.connect_with_connector_lazy(connector))
        }
        Clients::Anybody => PlacementClient::new(endpoint.connect_lazy()),
    }
}

/// The status a server ends a stream with that says this.
async fn refusal(
    running: &Running,
    clients: Clients,
    first: Host,
    later: Option<Host>,
) -> (Code, String) {
    let mut client = client(running, clients, "app");
    let messages = futures::StreamExt::chain(
        futures::stream::iter([first].into_iter().chain(later)),
        futures::stream::pending(),
    );
    let opened = client.report_dapr_status(messages).await;
    let mut orders = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return (status.code(), status.message().to_owned()),
    };
    loop {
        match orders.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return (Code::Ok, String::new()),
            Err(status) => return (status.code(), status.message().to_owned()),
        }
    }
}

#[tokio::test]
async fn bad_messages_end_the_stream_with_tls_and_without() {
    let good = || Host {
        id: "app".to_owned(),
        namespace: "default".to_owned(),
        operation: HostOperation::Report.into(),
        ..Host::default()
    };
    let types = |entities: &[&str]| Host {
        entities: entities.iter().map(|entity| (*entity).to_owned()).collect(),
        ..good()
    };
    let many: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let bad = [
        (
            Host {
                operation: 0,
                version: Some(3),
                ..good()
            },
            Code::InvalidArgument,
            "both operation and version must be set",
        ),
        (
            Host {
                id: String::new(),
                ..good()
            },
            Code::InvalidArgument,
            "host ID and namespace must be provided",
        ),
        (
            Host {
                namespace: String::new(),
                ..good()
            },
            Code::InvalidArgument,
            "host ID and namespace must be provided",
        ),
        (
            types(&["dapr.internal.default.other.workflow"]),
            Code::PermissionDenied,
            "is not allowed for app ID app in namespace default",
        ),
        (
            types(&["dapr.internal.other.app.workflow"]),
            Code::PermissionDenied,
            "is not allowed for app ID app in namespace default",
        ),
        (
            types(&many),
            Code::ResourceExhausted,
            "host fewer types or give them shorter names",
        ),
        (
            Host {
                name: "x".repeat(5 << 20),
                ..good()
            },
            Code::ResourceExhausted,
            "grpc: received message larger than max (5242901 vs. 4194304)",
        ),
    ];
    for clients in [Clients::Anybody, Clients::Identified] {
        let running = start_for(clients).await;
        let mut witness = Peer::connect(&running, clients, "witness", &["w"]).await;
        witness.obey_until(1).await;
        for (host, expected, reason) in &bad {
            let (code, text) = refusal(&running, clients, host.clone(), None).await;
            assert_eq!(code, *expected, "{clients:?}");
            assert!(text.contains(reason), "{text}");
            // A stream that was good so far is no different.
            let later = refusal(&running, clients, good(), Some(host.clone())).await;
            assert_eq!(later, (code, text), "{clients:?}, later");
        }
        // The other host of the namespace has heard of none of them.
        witness.report(&["w", "x"]).await;
        witness.expect("lock", 2).await;
    }
}

/// A sidecar beside others.
struct Peer {
    app: &'static str,
    messages: mpsc::Sender<Host>,
    orders: Streaming<PlacementOrder>,
}

impl Peer {
    async fn connect(
        running: &Running,
        clients: Clients,
        app: &'static str,
        entities: &[&str],
    ) -> Self {
        let (messages, queue) = mpsc::channel(256);
        let queue = futures::stream::unfold(queue, |mut queue| async {
            queue.recv().await.map(|host| (host, queue))
        });
        let mut client = client(running, clients, app);
        let opened = client.report_dapr_status(queue);
        let peer = Self {
            app,
            messages,
            orders: opened.await.expect("opens").into_inner(),
        };
        peer.report(entities).await;
        peer
    }

    async fn say(&self, operation: HostOperation, version: Option<u64>, entities: &[&str]) {
        let host = Host {
            id: self.app.to_owned(),
            namespace: "default".to_owned(),
            name: format!("{}:50002", self.app),
            operation: operation.into(),
            version,
            entities: entities.iter().map(|entity| (*entity).to_owned()).collect(),
            ..Host::default()
        };
        self.messages.send(host).await.expect("room");
    }

    async fn report(&self, entities: &[&str]) {
        self.say(HostOperation::Report, None, entities).await;
    }

    async fn next(&mut self) -> PlacementOrder {
        let order = self.orders.message().await.expect("no status");
        order.expect("streams end with a status")
    }

    async fn expect(&mut self, operation: &str, version: u64) {
        let order = self.next().await;
        assert_eq!(
            (order.operation.as_str(), order.version),
            (operation, version)
        );
    }

    /// Answers all orders until the table has so many types, and returns these.
    async fn obey_until(&mut self, types: usize) -> Vec<String> {
        let mut held = Vec::new();
        loop {
            let order = self.next().await;
            let answer = match order.operation.as_str() {
                "lock" => HostOperation::Lock,
                "update" => {
                    let tables = order.tables.expect("an update has tables");
                    held = tables.entries.into_keys().collect();
                    held.sort();
                    HostOperation::Update
                }
                _ => HostOperation::Unlock,
            };
            self.say(answer, Some(order.version), &[]).await;
            if answer == HostOperation::Unlock && held.len() == types {
                return held;
            }
        }
    }
}

#[tokio::test]
async fn a_flood_of_reports_ends_with_the_last_for_all() {
    for clients in [Clients::Anybody, Clients::Identified] {
        let running = start_for(clients).await;
        let mut witness = Peer::connect(&running, clients, "witness", &["w"]).await;
        witness.obey_until(1).await;
        let mut flood = Peer::connect(&running, clients, "app", &["t"]).await;
        for number in 0..100 {
            flood.report(&[&format!("t{number}")]).await;
            // Answers to a round that never was, of a time to come.
            flood.say(HostOperation::Update, Some(1 << 40), &[]).await;
        }
        flood.report(&["last", "long"]).await;
        let (seen, own) = tokio::join!(witness.obey_until(3), flood.obey_until(3));
        assert_eq!(seen, ["last", "long", "w"], "{clients:?}");
        assert_eq!(own, seen);
    }
}

#[tokio::test]
async fn a_follower_says_so_with_tls_and_without() {
    for clients in [Clients::Anybody, Clients::Identified] {
        let running = start_with(clients, None).await;
        let mut client = client(&running, clients, "app");
        let opened = client.report_dapr_status(futures::stream::pending()).await;
        let refused = opened.expect_err("it does not lead");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{clients:?}");
        let text = "node id=p0 is not a leader. Only the leader can serve requests";
        assert_eq!(refused.message(), text);
    }
}

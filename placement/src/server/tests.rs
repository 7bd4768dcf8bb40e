//! The service behind mTLS: identities decide what a stream may say.

use std::net::SocketAddr;
use std::time::Duration;

use dapr_proto::dapr::proto::placement::v1::HostOperation;
use dapr_proto::dapr::proto::placement::v1::placement_client::PlacementClient;
use dapr_security::{Acceptor, Expect, ServerOptions, serve};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::Endpoint;

use super::*;
use crate::testing::{Authority, id};

const PLACEMENT: &str = "spiffe://control/ns/dapr-system/dapr-placement";

struct Running {
    authority: Authority,
    address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
    _leads: watch::Sender<bool>,
}

async fn start() -> Running {
    let authority = Authority::new();
    let settings = Settings {
        replication_factor: 100,
        timeout: Duration::from_secs(8),
        window: Duration::ZERO,
        shown: false,
    };
    let metrics = Metrics::register(&prometheus::Registry::new()).expect("names are valid");
    let server = Server::new("p0".to_owned(), Clients::Identified, settings, metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let acceptor = Acceptor::Mutual(authority.security(&id(PLACEMENT)));
    let routes = Routes::new(server.clone()).into_axum_router();
    let token = CancellationToken::new();
    let (leads, leading) = watch::channel(false);
    server.lead(true);
    leads.send_replace(true);
    let follow = async move { server.follow(leading, CancellationToken::new()).await };
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

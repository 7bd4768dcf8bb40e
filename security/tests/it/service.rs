//! A gRPC service that tells the caller who it is, and a server for it.

use std::net::SocketAddr;
use std::sync::Arc;

use dapr_proto::dapr::proto::sentry::v1::ca_client::CaClient;
use dapr_proto::dapr::proto::sentry::v1::ca_server::{Ca, CaServer};
use dapr_proto::dapr::proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use dapr_security::{Acceptor, Connector, Peer, ServerOptions, serve};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Answers with the caller's identity as text; waits for the gate if asked with the id `wait`.
#[derive(Default)]
pub(crate) struct WhoAmI {
    pub(crate) entered: Notify,
    pub(crate) gate: Notify,
}

#[tonic::async_trait]
impl Ca for WhoAmI {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .ok_or_else(|| Status::internal("no peer"))?;
        let name = peer
            .identity
            .as_ref()
            .map(|identity| identity.to_string())
            .unwrap_or_default();
        if request.get_ref().id == "wait" {
            self.entered.notify_one();
            self.gate.notified().await;
        }
        Ok(Response::new(SignCertificateResponse {
            workload_certificate: name.into(),
            ..Default::default()
        }))
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<WhoAmI>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) async fn server(acceptor: Acceptor) -> Server {
    server_with(acceptor, ServerOptions::default()).await
}

pub(crate) async fn server_with(acceptor: Acceptor, options: ServerOptions) -> Server {
    let service = Arc::new(WhoAmI::default());
    let routes = Routes::new(CaServer::from_arc(Arc::clone(&service))).into_axum_router();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, acceptor, routes, options, shutdown.clone()));
    Server {
        address,
        service,
        shutdown,
        task,
    }
}

pub(crate) async fn dial(
    address: SocketAddr,
    connector: Connector,
) -> Result<CaClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| chain(&error))?;
    Ok(CaClient::new(channel))
}

pub(crate) async fn ask(client: &mut CaClient<Channel>) -> Result<String, Status> {
    let response = client
        .sign_certificate(SignCertificateRequest::default())
        .await?
        .into_inner();
    Ok(String::from_utf8(response.workload_certificate.to_vec()).unwrap())
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

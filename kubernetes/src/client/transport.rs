//! The stack under the client: connections that notice a dead peer, and calls that end.
//!
//! kube's own stack is not used: it retries for minutes behind the caller's back, and its sockets have no keepalive.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::AUTHORIZATION;
use http::uri::Scheme;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::AuthInfo;
use tokio::time::Instant;
use tower::{BoxError, ServiceBuilder};

use super::token::TokenFile;
use super::{Error, deadline};

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a call other than a watch may take, its body included.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection is silent before TCP asks whether the peer is alive.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long TCP waits between two questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How many unanswered questions make a connection dead.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// How long an unused connection is kept; shorter than the minute after which load balancers forget it.
const IDLE: Duration = Duration::from_secs(45);

pub(super) fn client(mut config: kube::Config) -> Result<kube::Client, Error> {
    let token = token(&mut config.auth_info)?;
    // Without TLS no roots are loaded: an image without certificates can still use a plain API server.
    if config.cluster_url.scheme() == Some(&Scheme::HTTP) {
        return stack(&config, token, sockets());
    }
    let connector = config.rustls_https_connector_with_connector(sockets());
    stack(&config, token, connector.map_err(Error::Credentials)?)
}

fn sockets() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    connector
}

/// The file of the token, if that is how the server is to know us. Other credentials come first in a kubeconfig, but
/// for a plugin.
fn token(credentials: &mut AuthInfo) -> Result<Option<Arc<TokenFile>>, Error> {
    let others = credentials.token.is_some()
        || credentials.username.is_some()
        || credentials.auth_provider.is_some();
    if others {
        return Ok(None);
    }
    let Some(path) = credentials.token_file.take() else {
        return Ok(None);
    };
    credentials.exec = None;
    Ok(Some(Arc::new(TokenFile::open(
        Path::new(&path),
        Instant::now(),
    )?)))
}

fn stack<C>(
    config: &kube::Config,
    token: Option<Arc<TokenFile>>,
    connector: C,
) -> Result<kube::Client, Error>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let http: Client<C, Body> = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(Error::Credentials)?)
        .layer(config.extra_headers_layer().map_err(Error::Credentials)?)
        .map_request(move |mut request: Request<Body>| {
            if let Some(token) = &token {
                request
                    .headers_mut()
                    .insert(AUTHORIZATION, token.bearer(Instant::now()));
            }
            request
        })
        .map_err(BoxError::from)
        .layer(tower::layer::layer_fn(|inner| {
            deadline::Deadline::new(inner, CALL_LIMIT)
        }))
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

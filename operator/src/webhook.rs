//! The conversion of Subscriptions between their two versions, and what makes the API server ask for it here.
//!
//! Every replica does this. How an object is converted stands in `dapr-crds`; here are HTTPS, its bounds, and the part
//! of the CRD that names this operator.

mod crd;
mod ownership;
mod server;

use std::time::Duration;

use dapr_security::{Acceptor, Security, ServerOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crd::{Error, keep_crd};

/// A connection without a request for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Requests one connection may have open; an API server has one per list or read it serves.
const STREAMS: u32 = 256;
/// How long a client may take to send the head of a request.
const HEADER: Duration = Duration::from_secs(10);
/// How long a connection may have requests running without a pause: the API server gives each thirty seconds.
const BUSY: Duration = Duration::from_secs(120);

/// Serves `/convert` with the operator's certificate until `shutdown`, then until requests in flight have ended.
/// No client certificate is asked for: API servers have none.
pub async fn serve(listener: TcpListener, security: Security, shutdown: CancellationToken) {
    let options = ServerOptions {
        max_concurrent_streams: Some(STREAMS),
        max_connection_idle: Some(IDLE),
        max_connection_busy: Some(BUSY),
        header_timeout: Some(HEADER),
        date: true,
        ..ServerOptions::default()
    };
    let acceptor = Acceptor::ServerOnly(security);
    dapr_security::serve(listener, acceptor, server::routes(), options, shutdown).await;
}

//! The gRPC server: HTTP/2 connections, pings, and a stop that lets calls in flight finish.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::GrpcApi;
use crate::http::Listener;
use crate::services::Core;

/// Pause between pings, and how long one may stay unanswered.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Metadata of one call: upstream shifts the header limit of HTTP once more.
const MAX_METADATA: u32 = 4 << 20;
/// The pause after an accept that failed for lack of file descriptors, which would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the gRPC API until `token` is cancelled, then returns once calls in flight have ended. It sets no
/// deadline for that: dropping the future closes what is left.
pub async fn serve<L: Listener>(core: Arc<Core>, mut listener: L, token: CancellationToken) {
    let api = super::service(core);
    let mut connections = JoinSet::new();
    while let Some(accepted) = token.run_until_cancelled(listener.accept()).await {
        while let Some(ended) = connections.try_join_next() {
            log_panic(ended);
        }
        match accepted {
            Ok(io) => {
                connections.spawn(connection(io, api.clone(), token.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a gRPC connection failed");
    }
}

async fn connection<I>(io: I, api: GrpcApi, token: CancellationToken)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // gRPC has no dates: SDKs hand headers on to their users as metadata of the answer.
        .auto_date_header(false)
        .keep_alive_interval(Some(PING.0))
        .keep_alive_timeout(PING.1)
        .max_header_list_size(MAX_METADATA)
        .max_concurrent_streams(None);
    let service = TowerToHyperService::new(api);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a gRPC connection ended early");
    }
}

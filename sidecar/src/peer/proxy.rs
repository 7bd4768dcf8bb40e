//! gRPC calls of unknown services, forwarded frame by frame.

use std::sync::Arc;

use dapr_sidecar_api::wire;
use dapr_sidecar_core::body::{Body, BoxError};
use dapr_sidecar_core::peer::Target;
use dapr_sidecar_core::rpc::{Code, Status};
use http_body_util::BodyExt as _;
use tower::Service as _;

use super::pool::{Connection, Pool};

/// Forwards a call to the sidecar it is meant for.
#[derive(Debug)]
pub struct ProxyClient {
    pool: Arc<Pool>,
}

impl ProxyClient {
    /// Forwards on connections of `pool`.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { pool }
    }

    /// Sends `request` to `target` as it is. A connection that cannot be used is dialled once more.
    pub async fn forward(
        &self,
        target: &Target,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        send(self.connection(target).await?, request).await
    }

    /// Makes sure that there is a connection to `target`.
    pub async fn reach(&self, target: &Target) -> Result<(), Status> {
        self.connection(target).await.map(drop)
    }

    async fn connection(&self, target: &Target) -> Result<Connection, Status> {
        match self.pool.connection(target).await {
            Err(status) if matches!(status.code, Code::Unavailable | Code::Unauthenticated) => {
                self.pool.discard(target);
                self.pool.connection(target).await
            }
            connection => connection,
        }
    }
}

async fn send(
    mut connection: Connection,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Status> {
    let (mut parts, body) = request.into_parts();
    parts.uri = absolute(connection.origin(), &parts.uri)?;
    let request = http::Request::from_parts(parts, tonic::body::Body::new(body));
    let response = connection.call(request).await.map_err(unavailable)?;
    Ok(response.map(|body| body.boxed_unsync()))
}

fn unavailable(error: BoxError) -> Status {
    match error.downcast::<tonic::Status>() {
        Ok(status) => wire::from_tonic(&status),
        Err(error) => Status::new(Code::Unavailable, error.to_string()),
    }
}

/// The path of `uri` at `origin`: HTTP/2 requests carry scheme and authority.
pub(crate) fn absolute(origin: &http::Uri, uri: &http::Uri) -> Result<http::Uri, Status> {
    let mut parts = origin.clone().into_parts();
    parts.path_and_query = uri.path_and_query().cloned();
    http::Uri::from_parts(parts).map_err(|error| Status::new(Code::Internal, error.to_string()))
}

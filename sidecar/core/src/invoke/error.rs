//! Why an invocation did not reach an answer of the application.

use crate::app;
use crate::rpc;

/// Why an invocation failed. `Display` is the `<e>` of `failed to invoke, id: <id>, err: <e>`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target is empty.
    #[error("app id is empty")]
    EmptyAppId,
    /// The target has more than one dot.
    #[error("invalid app id {0}")]
    InvalidAppId(String),
    /// The method has forbidden characters, or the verb cannot be forwarded.
    #[error("{0}")]
    Request(rpc::Status),
    /// The target is this application and there is none.
    #[error("cannot invoke local endpoint: app channel not initialized")]
    NoApp,
    /// This application, or an external endpoint, did not answer.
    #[error("{0}")]
    App(app::Error),
    /// The other sidecar could not be reached, or refused.
    #[error("{0}")]
    Peer(rpc::Status),
    /// The other sidecar could not be reached, also after the built-in retries.
    #[error("failed to invoke target {app_id} after {retries} retries. Error: {status}")]
    Retried {
        /// Target app id.
        app_id: String,
        /// Retries made.
        retries: u32,
        /// How the last attempt ended.
        status: rpc::Status,
    },
    /// No address was found.
    #[error("{0}")]
    Resolve(String),
    /// Name resolution could not be opened. Upstream fails every invocation then, also those it is not needed for.
    #[error("name resolver not initialized")]
    NoResolver,
    /// A timeout policy ended the call.
    #[error("context deadline exceeded")]
    Timeout,
    /// A circuit breaker is open.
    #[error("circuit breaker is open")]
    BreakerOpen,
    /// A half-open circuit breaker admits no more calls.
    #[error("too many requests")]
    TooManyRequests,
}

impl Error {
    /// Whether the access policy of the target refused: HTTP callers then get 403 instead of 500.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Peer(status) | Self::Retried { status, .. } => {
                status.code == rpc::Code::PermissionDenied
            }
            Self::EmptyAppId
            | Self::InvalidAppId(_)
            | Self::Request(_)
            | Self::NoApp
            | Self::App(_)
            | Self::Resolve(_)
            | Self::NoResolver
            | Self::Timeout
            | Self::BreakerOpen
            | Self::TooManyRequests => false,
        }
    }

    /// How a gRPC caller of `InvokeService` reads the error: outcomes of policies bare, everything else as
    /// `INTERNAL` with the target named.
    pub fn to_status(&self, target: &str) -> rpc::Status {
        match self {
            Self::Timeout => rpc::Status::new(rpc::Code::DeadlineExceeded, self.to_string()),
            Self::BreakerOpen | Self::TooManyRequests => {
                rpc::Status::new(rpc::Code::Unknown, self.to_string())
            }
            _ => rpc::Status::new(rpc::Code::Internal, self.message(target)),
        }
    }

    /// `failed to invoke, id: <target>, err: <e>`, as HTTP callers read it.
    pub fn message(&self, target: &str) -> String {
        format!("failed to invoke, id: {target}, err: {self}")
    }
}

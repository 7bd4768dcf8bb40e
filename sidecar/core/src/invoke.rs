//! Service invocation: requests and answers on their way between applications.

pub mod address;
mod callee;
mod caller;
pub mod endpoint;
pub mod error;
pub mod headers;
mod invoker;
pub mod method;
mod replay;
pub mod status;

pub use endpoint::{External, HttpEndpoint, HttpEndpoints};
pub use error::Error;
pub use invoker::{CallerId, Invoker, InvokerSettings, Location};
pub use replay::Recorded;

use http::{HeaderMap, Method, StatusCode};

use crate::body::Body;
use crate::rpc;

/// How the caller spoke to its sidecar; selects where trace context is read and how errors look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// HTTP
    Http,
    /// gRPC
    Grpc,
}

/// A call on its way to an application.
pub struct Request {
    /// HTTP verb; `None` for gRPC callers that give none.
    pub verb: Option<Method>,
    /// Method, normalised; it has a leading slash only if a gRPC caller gave it one.
    pub method: String,
    /// Query string as received, without `?`.
    pub query: String,
    /// Headers or gRPC metadata; `content-type` among them.
    pub headers: HeaderMap,
    /// Type of the message when the data is an encoded protobuf message; empty otherwise.
    pub type_url: String,
    /// How the caller spoke.
    pub origin: Origin,
    /// Body, streamed.
    pub body: Body,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers and body may hold secrets.
        f.debug_struct("Request")
            .field("verb", &self.verb)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// How a call ended at the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// An HTTP application's status.
    Http(StatusCode),
    /// A gRPC application's status; `Ok` has an empty message.
    Grpc(rpc::Status),
}

/// What an application answered.
pub struct Response {
    /// Its status.
    pub status: Status,
    /// Headers; `content-type` among them.
    pub headers: HeaderMap,
    /// Trailers of a gRPC application.
    pub trailers: HeaderMap,
    /// Type of the message when the data is an encoded protobuf message; empty otherwise.
    pub type_url: String,
    /// Body, streamed.
    pub body: Body,
    /// Whether the status says that a gRPC application could not be reached, so that certainly nothing was done with the
    /// request.
    pub is_untouched: bool,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

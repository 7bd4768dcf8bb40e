//! External endpoints: HTTP servers without a sidecar.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::HeaderMap;

use super::{Request, Response};
use crate::app;

/// When a server may ask for a new handshake on a running connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Renegotiation {
    /// Never.
    #[default]
    Never,
    /// Once per connection.
    OnceAsClient,
    /// As often as it likes.
    FreelyAsClient,
}

/// TLS settings of an endpoint; documents are PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Certificates the server is verified with, instead of the system's.
    pub root_ca: Option<String>,
    /// Own certificate chain.
    pub certificate: Option<String>,
    /// Its key.
    pub private_key: Option<String>,
    /// Renegotiation asked for.
    pub renegotiation: Renegotiation,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is a secret.
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// A loaded HTTPEndpoint, secrets resolved.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HttpEndpoint {
    /// Name of the resource.
    pub name: String,
    /// `http(s)://host[:port][/path]`
    pub base_url: String,
    /// Headers that replace those of a request.
    pub headers: HeaderMap,
    /// TLS settings, if any.
    pub tls: Option<ClientTls>,
}

impl std::fmt::Debug for HttpEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers may hold secrets.
        f.debug_struct("HttpEndpoint")
            .field("name", &self.name)
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

/// Loaded endpoints by name.
pub type HttpEndpoints = BTreeMap<String, HttpEndpoint>;

/// Calls servers without a sidecar. One attempt per call.
#[async_trait]
pub trait External: Send + Sync + 'static {
    /// Calls `<base_url>/<method>?<query>`; with an `endpoint` over its own connection, with its headers and
    /// TLS settings, following redirects.
    async fn call(
        &self,
        base_url: &str,
        endpoint: Option<&HttpEndpoint>,
        request: Request,
    ) -> Result<Response, app::Error>;
}

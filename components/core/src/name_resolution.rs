//! Name resolution: from an app id to the address of a sidecar's internal API.

use async_trait::async_trait;

use crate::Error;

/// This sidecar, as it registers itself with a resolver.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Own app id.
    pub app_id: String,
    /// Own namespace; resolvers without namespaces ignore it.
    pub namespace: String,
    /// Address other sidecars reach this one at.
    pub address: String,
    /// Name of this host.
    pub hostname: String,
    /// Port of the internal gRPC API.
    pub internal_port: u16,
    /// Port of the HTTP API.
    pub http_port: u16,
    /// Port of the application; 0 without one.
    pub app_port: u16,
}

/// Whom to look for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResolveRequest {
    /// App id looked for.
    pub app_id: String,
    /// Its namespace.
    pub namespace: String,
    /// Own internal port, which equals the target's where all sidecars use one port.
    pub port: u16,
}

/// A name resolver, registered for this instance until it is closed.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// One address `host:port` of the app; several calls may answer different instances in turn.
    async fn resolve(&self, request: &ResolveRequest) -> Result<String, Error>;

    /// Told that `address`, answered for `request` before, could not be called: a resolver that knows several
    /// addresses answers another one for a while.
    fn failed(&self, request: &ResolveRequest, address: &str) {
        let _ = (request, address);
    }

    /// How many different addresses it may make sense to try for one call.
    fn alternatives(&self) -> usize {
        1
    }

    /// Withdraws this instance.
    async fn close(&self) {}
}

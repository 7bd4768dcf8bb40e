//! What invocations need to know: the application, the resolver, endpoints, access; and where a target lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use dapr_components_core::name_resolution::{ResolveRequest, Resolver};

use super::address::{self, BadName, Name};
use super::endpoint::HttpEndpoints;
use super::headers::Forwarder;
use super::{Error, External, HttpEndpoint};
use crate::access::AccessControl;
use crate::app::AppChannel;
use crate::metrics::InvokeMetrics;
use crate::peer::{self, Peers};
use crate::resiliency::Resiliency;

/// How often a lookup is repeated that gives an empty address.
const EMPTY_ADDRESS_RETRIES: u32 = 5;
/// Time between these lookups.
const EMPTY_ADDRESS_WAIT: Duration = Duration::from_millis(100);

/// The caller of an internal call, from the SPIFFE id of its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerId {
    /// Trust domain.
    pub trust_domain: String,
    /// Namespace.
    pub namespace: String,
    /// App id.
    pub app_id: String,
    /// The id as `spiffe://…`.
    pub url: String,
}

/// Where a target lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// At this sidecar's application.
    Local,
    /// Behind another sidecar.
    Remote(peer::Target),
    /// At a server without sidecar.
    External {
        /// Where requests go.
        base_url: String,
        /// The endpoint that names it, if there is one.
        endpoint: Option<Arc<HttpEndpoint>>,
    },
}

/// What an [`Invoker`] is made of.
#[derive(Clone)]
pub struct InvokerSettings {
    /// Own app id.
    pub app_id: String,
    /// Own namespace; targets without a namespace are looked for here.
    pub namespace: String,
    /// Own internal port, part of a lookup.
    pub internal_port: u16,
    /// Address of this host, for the forwarding headers.
    pub host_address: String,
    /// Name of this host, for the forwarding headers.
    pub hostname: String,
    /// Longest body kept for another attempt, in bytes.
    pub max_replay: usize,
    /// Other sidecars.
    pub peers: Arc<dyn Peers>,
    /// Servers without sidecar.
    pub external: Arc<dyn External>,
    /// Policies.
    pub resiliency: Arc<Resiliency>,
    /// Metrics.
    pub metrics: Arc<dyn InvokeMetrics>,
}

impl std::fmt::Debug for InvokerSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InvokerSettings")
            .field("app_id", &self.app_id)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Calls applications by app id.
pub struct Invoker {
    settings: InvokerSettings,
    forwarder: Forwarder,
    resolver: ArcSwapOption<Arc<dyn Resolver>>,
    app: ArcSwapOption<Arc<dyn AppChannel>>,
    app_healthy: AtomicBool,
    endpoints: ArcSwap<BTreeMap<String, Arc<HttpEndpoint>>>,
    access: ArcSwapOption<AccessControl>,
}

impl std::fmt::Debug for Invoker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invoker")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Invoker {
    /// An invoker without resolver, application or endpoints; they are set as they come up.
    pub fn new(settings: InvokerSettings) -> Self {
        let forwarder = Forwarder::new(
            &settings.app_id,
            &settings.namespace,
            &settings.host_address,
            &settings.hostname,
        );
        Self {
            settings,
            forwarder,
            resolver: ArcSwapOption::empty(),
            app: ArcSwapOption::empty(),
            app_healthy: AtomicBool::new(true),
            endpoints: ArcSwap::default(),
            access: ArcSwapOption::empty(),
        }
    }

    /// Sets how app ids become addresses.
    pub fn set_resolver(&self, resolver: Arc<dyn Resolver>) {
        self.resolver.store(Some(Arc::new(resolver)));
    }

    /// Sets the application; `None` without `--app-port`.
    pub fn set_app(&self, app: Option<Arc<dyn AppChannel>>) {
        self.app.store(app.map(Arc::new));
    }

    /// Sets what the app health checks found; an unhealthy application is not called. True at the start.
    pub fn set_app_healthy(&self, healthy: bool) {
        self.app_healthy.store(healthy, Ordering::Relaxed);
    }

    /// Sets all loaded HTTP endpoints.
    pub fn set_endpoints(&self, endpoints: HttpEndpoints) {
        let endpoints = endpoints
            .into_iter()
            .map(|(name, endpoint)| (name, Arc::new(endpoint)))
            .collect();
        self.endpoints.store(Arc::new(endpoints));
    }

    /// Sets the access control for calls of other sidecars; `None` allows everything.
    pub fn set_access_control(&self, access: Option<AccessControl>) {
        self.access.store(access.map(Arc::new));
    }

    /// The application, if there is one.
    pub(super) fn app(&self) -> Option<Arc<Arc<dyn AppChannel>>> {
        self.app.load_full()
    }

    pub(super) fn endpoints(&self) -> arc_swap::Guard<Arc<BTreeMap<String, Arc<HttpEndpoint>>>> {
        self.endpoints.load()
    }

    pub(super) fn is_app_healthy(&self) -> bool {
        self.app_healthy.load(Ordering::Relaxed)
    }

    pub(super) fn settings(&self) -> &InvokerSettings {
        &self.settings
    }

    pub(super) fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    pub(super) fn access(&self) -> Option<Arc<AccessControl>> {
        self.access.load_full()
    }

    /// Where `target` lives.
    pub async fn locate(&self, target: &str) -> Result<Location, Error> {
        let name = address::parse(target);
        if name.is_ok() && self.resolver.load().is_none() {
            return Err(Error::NoResolver);
        }
        let (app_id, namespace) = match name {
            Ok(Name::Url(base_url)) => {
                return Ok(Location::External {
                    base_url: base_url.to_owned(),
                    endpoint: None,
                });
            }
            Ok(Name::App { app_id, namespace }) => (app_id, namespace),
            Err(BadName::Empty) => return Err(Error::EmptyAppId),
            Err(BadName::Dots) => return Err(Error::InvalidAppId(target.to_owned())),
        };
        if let Some(endpoint) = self.endpoints.load().get(app_id) {
            return Ok(Location::External {
                base_url: endpoint.base_url.clone(),
                endpoint: Some(Arc::clone(endpoint)),
            });
        }
        let namespace = namespace.unwrap_or(&self.settings.namespace);
        if app_id == self.settings.app_id && namespace == self.settings.namespace {
            return Ok(Location::Local);
        }
        self.resolve(app_id, namespace).await.map(Location::Remote)
    }

    /// Looks an app up. Of several addresses one that can be called is taken: nothing of a request is sent yet, so
    /// that this is safe for every one.
    pub(super) async fn resolve(
        &self,
        app_id: &str,
        namespace: &str,
    ) -> Result<peer::Target, Error> {
        let resolver = self.resolver.load_full().ok_or(Error::NoResolver)?;
        let request = self.request(app_id, namespace);
        let address = look_up(&**resolver, &request).await?;
        let mut target = peer::Target {
            app_id: request.app_id,
            namespace: request.namespace,
            address,
        };
        for _ in 1..resolver.alternatives() {
            if self.settings.peers.reach(&target).await.is_ok() {
                break;
            }
            let request = self.request(app_id, namespace);
            resolver.failed(&request, &target.address);
            let address = look_up(&**resolver, &request).await?;
            if address == target.address {
                // There is no other one: the call itself tells what is wrong with it.
                break;
            }
            target.address = address;
        }
        Ok(target)
    }

    fn request(&self, app_id: &str, namespace: &str) -> ResolveRequest {
        ResolveRequest {
            app_id: app_id.to_owned(),
            namespace: namespace.to_owned(),
            port: self.settings.internal_port,
        }
    }

    /// Tells the resolver that a target could not be called; whether another one may be tried at once.
    pub fn unreachable(&self, target: &peer::Target) -> bool {
        let Some(resolver) = self.resolver.load_full() else {
            return false;
        };
        let request = self.request(&target.app_id, &target.namespace);
        resolver.failed(&request, &target.address);
        resolver.alternatives() > 1
    }
}

/// One lookup; an empty address is asked for again a few times.
async fn look_up(resolver: &dyn Resolver, request: &ResolveRequest) -> Result<String, Error> {
    for attempt in 0..=EMPTY_ADDRESS_RETRIES {
        if attempt > 0 {
            tokio::time::sleep(EMPTY_ADDRESS_WAIT).await;
        }
        let address = resolver
            .resolve(request)
            .await
            .map_err(|error| Error::Resolve(error.to_string()))?;
        if !address.is_empty() {
            return Ok(address);
        }
    }
    Err(Error::Resolve(format!(
        "resolver returned empty address for app id {}/{}",
        request.namespace, request.app_id
    )))
}

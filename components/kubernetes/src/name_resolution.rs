//! From app ids to pods: every sidecar has a headless Service, whose name has the addresses of all its pods.
//!
//! Names are looked up by the system. What is known of one name is in `pods`, the name itself in `template`.

mod pods;
mod template;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapr_components_core::name_resolution::{ResolveRequest, Resolver};
use dapr_components_core::{Error, ErrorKind};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use pods::{Answer, Pods};
use template::Template;

/// Domain of a cluster, unless the Configuration says otherwise.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Names that are remembered: callers make them up, so there must be an end.
const NAMES: usize = 4096;
/// A lookup that takes longer has failed.
const LOOKUP: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried for one call.
const ALTERNATIVES: usize = 3;

/// Who turns `host:port` into addresses.
#[async_trait]
pub trait Names: Send + Sync + 'static {
    /// All addresses of a name.
    async fn look_up(&self, host: &str) -> io::Result<Vec<SocketAddr>>;
}

/// The resolver of the system: its hosts file, its name servers, their search list.
#[derive(Debug, Clone, Copy)]
pub struct System;

#[async_trait]
impl Names for System {
    async fn look_up(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host(host).await?.collect())
    }
}

/// The resolver.
pub struct Kubernetes {
    inner: Arc<Inner>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

struct Inner {
    template: Template,
    system: Box<dyn Names>,
    names: Mutex<HashMap<String, Arc<Name>>>,
}

/// One name, and who looks it up at the moment.
struct Name {
    pods: Mutex<Pods>,
    /// Held by the first caller, so that others share its lookup.
    looking: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes")
            .field("names", &self.inner.names.lock().len())
            .finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// A resolver by the `spec.nameResolution.configuration` of a Configuration.
    ///
    /// # Errors
    /// A template that cannot be filled in.
    pub fn open(configuration: &serde_json::Value) -> Result<Self, Error> {
        Self::open_with(configuration, System)
    }

    /// As [`Kubernetes::open`], with names of somebody else than the system.
    ///
    /// # Errors
    /// A template that cannot be filled in.
    pub fn open_with(configuration: &serde_json::Value, names: impl Names) -> Result<Self, Error> {
        let field = |name: &str| {
            let fields = configuration.as_object()?;
            let (_, value) = fields
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            value.as_str().filter(|text| !text.is_empty())
        };
        let template = match field("template") {
            Some(text) => Template::parse(text)
                .map_err(|error| Error::new(ErrorKind::Configuration, error.to_string()))?,
            None => {
                let domain = field("clusterDomain").unwrap_or(CLUSTER_DOMAIN);
                Template::of_services(domain.trim_matches('.'))
            }
        };
        Ok(Self {
            inner: Arc::new(Inner {
                template,
                system: Box::new(names),
                names: Mutex::default(),
            }),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    /// Looks a name up beside the calls that still use what is known.
    fn refresh(&self, host: String, name: Arc<Name>) {
        let (inner, closed) = (Arc::clone(&self.inner), self.closed.clone());
        self.tasks.spawn(async move {
            let looking = async {
                let _turn = name.looking.lock().await;
                // An error is told to the calls that find nothing; those that use what is known go on.
                if let Err(error) = inner.look_up(&host, &name).await {
                    tracing::debug!(target: "dapr.contrib", "{error}");
                }
            };
            closed.run_until_cancelled(looking).await;
        });
    }
}

impl Inner {
    fn name(&self, host: &str) -> Arc<Name> {
        let mut names = self.names.lock();
        if let Some(name) = names.get(host) {
            return Arc::clone(name);
        }
        if names.len() >= NAMES {
            let oldest = names.iter().min_by_key(|(_, name)| name.pods.lock().used());
            if let Some(host) = oldest.map(|(host, _)| host.clone()) {
                names.remove(&host);
            }
        }
        let name = Arc::new(Name {
            pods: Mutex::new(Pods::new(rand::random())),
            looking: tokio::sync::Mutex::default(),
        });
        names.insert(host.to_owned(), Arc::clone(&name));
        name
    }

    async fn look_up(&self, host: &str, name: &Name) -> Result<(), Error> {
        let found = tokio::time::timeout(LOOKUP, self.system.look_up(host)).await;
        let failed = match found {
            Ok(Ok(found)) => {
                if !found.is_empty() {
                    name.pods.lock().found(found, Instant::now());
                    return Ok(());
                }
                "it has no address".to_owned()
            }
            Ok(Err(error)) if is_passing(&error) => {
                name.pods.lock().unknown(Instant::now());
                error.to_string()
            }
            Ok(Err(error)) => {
                name.pods.lock().gone();
                error.to_string()
            }
            Err(_) => {
                name.pods.lock().unknown(Instant::now());
                format!("no answer within {} s", LOOKUP.as_secs())
            }
        };
        let text = format!("lookup {host}: {failed}");
        Err(Error::new(ErrorKind::Unavailable, text))
    }
}

/// Whether the name server failed, instead of saying that there is no such name. The system's error has no kind.
fn is_passing(error: &io::Error) -> bool {
    error.to_string().contains("Temporary failure")
}

#[async_trait]
impl Resolver for Kubernetes {
    async fn resolve(&self, request: &ResolveRequest) -> Result<String, Error> {
        let host = self.inner.template.fill(request);
        let name = self.inner.name(&host);
        let answer = name.pods.lock().pick(Instant::now());
        match answer {
            Answer::Fresh(address) => return Ok(address.to_string()),
            Answer::Aging(address) => {
                self.refresh(host, name);
                return Ok(address.to_string());
            }
            Answer::Nothing => {}
        }
        let _turn = name.looking.lock().await;
        // Somebody else may have looked it up meanwhile.
        let answer = name.pods.lock().pick(Instant::now());
        if let Answer::Fresh(address) | Answer::Aging(address) = answer {
            return Ok(address.to_string());
        }
        let looked_up = self.inner.look_up(&host, &name).await;
        let answer = name.pods.lock().pick(Instant::now());
        match (answer, looked_up) {
            (Answer::Fresh(address) | Answer::Aging(address), _) => Ok(address.to_string()),
            (Answer::Nothing, Err(error)) => {
                self.inner.names.lock().remove(&host);
                Err(error)
            }
            // As upstream: the caller asks again.
            (Answer::Nothing, Ok(())) => Ok(String::new()),
        }
    }

    fn failed(&self, request: &ResolveRequest, address: &str) {
        let Ok(address) = address.parse() else { return };
        let host = self.inner.template.fill(request);
        let name = self.inner.name(&host);
        let is_due = name.pods.lock().failed(address, Instant::now());
        if is_due {
            self.refresh(host, name);
        }
    }

    fn alternatives(&self) -> usize {
        ALTERNATIVES
    }

    async fn close(&self) {
        self.closed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

//! The components of a sidecar: opened one after the other, secret stores first, and changed while others serve.
//!
//! There is one writer: the start, then whoever reloads. Which changes a new set of resources means is decided in
//! `plan`; how a component that was taken out ends is in `closing`.

mod closing;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dapr_components_core::state::Feature;
use dapr_components_core::{Metadata, Registries};
use dapr_crds::Component;
use dapr_kit::flags::Environment;
use dapr_sidecar_core::metadata;
use dapr_sidecar_core::pubsub::{PubSubs, TopicNames};
use dapr_sidecar_core::secrets::Secrets;
use dapr_sidecar_core::state::Stores;
use parking_lot::Mutex;

use crate::loader::properties::{self, Names};
use crate::loader::references;
use crate::metrics::RuntimeMetrics;

pub use closing::Taken;
use closing::{Block, Part};
pub use plan::Plan;

/// Time a component may take to open, unless its `initTimeout` says otherwise.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Categories that upstream has and this build does not serve yet.
const NOT_SERVED: [&str; 6] = [
    "bindings",
    "configuration",
    "lock",
    "crypto",
    "middleware",
    "conversation",
];

/// A component without which the sidecar does not start. Texts are upstream's.
#[derive(Debug, thiserror::Error)]
#[error("process component {name} error: {reason}")]
pub struct Error {
    name: String,
    reason: String,
}

/// Whether the sidecar starts, or serves already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// A second actor store is an error.
    Start,
    /// A second actor store waits for the first to disappear.
    Live,
}

/// All open components of this sidecar.
pub struct Components {
    /// State stores, as the APIs call them.
    pub stores: Arc<Stores>,
    /// Pub/sub components, as the APIs call them.
    pub pubsubs: Arc<PubSubs>,
    /// Secret stores, as the API calls them.
    pub secrets: Arc<Secrets>,
    /// What the metadata API lists, in load order; what was loaded again is last.
    pub loaded: Arc<ArcSwap<Vec<metadata::Component>>>,
    registries: Registries,
    opening: Opening,
    metrics: Arc<RuntimeMetrics>,
    state: Mutex<State>,
}

/// What the writer knows.
#[derive(Default)]
struct State {
    open: BTreeMap<String, Opened>,
    /// Components that wait for their secret store.
    parked: Vec<Component>,
}

/// A component at work, and the resource it was made from.
struct Opened {
    resource: Component,
    part: Part,
    is_actor_store: bool,
}

impl std::fmt::Debug for Components {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.loaded.load().iter().map(|component| &component.name))
            .finish()
    }
}

/// What opening needs to know.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Own app id, for templates in values.
    pub app_id: String,
    /// Own namespace, for templates in values.
    pub namespace: Option<String>,
    /// The environment.
    pub environment: Arc<Environment>,
    /// `spec.components.deny` of the Configuration.
    pub denied: Vec<String>,
    /// Whether actors are asked for, without which an actor store is an ordinary store.
    pub actors: bool,
}

/// What became of a component that was to be opened.
enum Outcome {
    Opened {
        opened: Box<Opened>,
        /// The one of that name before.
        replaced: Option<Taken>,
    },
    /// It waits for its secret store.
    Parked,
    /// It waits for another one to disappear.
    Postponed,
}

impl Components {
    /// No components yet.
    pub fn new(
        stores: Arc<Stores>,
        pubsubs: Arc<PubSubs>,
        secrets: Arc<Secrets>,
        registries: Registries,
        opening: Opening,
        metrics: Arc<RuntimeMetrics>,
    ) -> Self {
        Self {
            stores,
            pubsubs,
            secrets,
            loaded: Arc::default(),
            registries,
            opening,
            metrics,
            state: Mutex::default(),
        }
    }

    /// Opens `components`, secret stores first. One that fails ends the start, unless it says `ignoreErrors`.
    pub async fn open_all(&self, components: &[Component]) -> Result<(), Error> {
        let (stores, others): (Vec<_>, Vec<_>) =
            components.iter().partition(|it| is_secret_store(it));
        for component in stores.into_iter().chain(others) {
            self.open(component, When::Start).await?;
        }
        Ok(())
    }

    /// Opens one component, and those that waited for it. Returns what it replaces, for the caller to close.
    pub async fn open(&self, component: &Component, when: When) -> Result<Vec<Taken>, Error> {
        let mut replaced = Vec::new();
        replaced.extend(self.open_one(component, when).await?);
        if is_secret_store(component) {
            let parked = std::mem::take(&mut self.state.lock().parked);
            for component in &parked {
                replaced.extend(self.open_one(component, when).await?);
            }
        }
        Ok(replaced)
    }

    async fn open_one(&self, component: &Component, when: When) -> Result<Option<Taken>, Error> {
        if !is_allowed(component, &self.opening.denied) {
            return Ok(None);
        }
        let name = component.metadata.name.clone().unwrap_or_default();
        self.state
            .lock()
            .parked
            .retain(|parked| parked.metadata.name != component.metadata.name);
        let reason = match self.try_open(component, when).await {
            Ok(Outcome::Opened { opened, replaced }) => {
                self.state.lock().open.insert(name, *opened);
                return Ok(replaced);
            }
            Ok(Outcome::Parked) => {
                self.state.lock().parked.push(component.clone());
                return Ok(None);
            }
            Ok(Outcome::Postponed) => return Ok(None),
            Err(reason) => reason,
        };
        self.metrics
            .component_failed(&component.spec.r#type, &name, failed_step(&reason));
        let error = Error { name, reason };
        if !component.spec.ignore_errors {
            tracing::error!(target: "dapr.runtime", "Error processing component, daprd will exit gracefully: {error}");
            return Err(error);
        }
        tracing::error!(target: "dapr.runtime", "Ignoring error processing component: {error}");
        Ok(None)
    }

    async fn try_open(&self, component: &Component, when: When) -> Result<Outcome, String> {
        let log_name = component.log_name();
        let own_namespace = self.opening.namespace.as_deref();
        let revealed = references::component(component, &self.secrets, own_namespace).await;
        let revealed = match revealed {
            Ok(revealed) => revealed,
            Err(missing) => {
                tracing::warn!(target: "dapr.runtime", "{missing}");
                return Ok(Outcome::Parked);
            }
        };
        let names = Names {
            app_id: &self.opening.app_id,
            namespace: own_namespace,
        };
        let metadata = properties::resolve(&revealed, names, &self.opening.environment)
            .map_err(|error| init_failure(&log_name, &error.to_string()))?;
        let is_actor_store = self.opening.actors
            && category(component) == "state"
            && metadata
                .get("actorStateStore")
                .is_some_and(dapr_components_core::metadata::is_truthy);
        if is_actor_store && let Some(first) = self.other_actor_store(&metadata.name) {
            let text = format!(
                "detected duplicate actor state store: {first} and {}",
                metadata.name
            );
            match when {
                When::Start => return Err(init_failure(&log_name, &text)),
                When::Live => {
                    tracing::error!(target: "dapr.runtime", "{log_name} is not loaded before the other one is gone: {text}");
                    return Ok(Outcome::Postponed);
                }
            }
        }
        let (part, capabilities) = match category(component) {
            "state" => self.open_store(&metadata, &log_name, component).await?,
            "pubsub" => self.open_pubsub(&metadata, &log_name, component).await?,
            "secretstores" => self.open_secrets(&metadata, &log_name, component).await?,
            category if NOT_SERVED.contains(&category) => {
                return Err(format!(
                    "components of category {category} are not served by this build yet: remove {log_name} from the resources, or set spec.ignoreErrors: true to start without it"
                ));
            }
            _ => return Err(format!("incorrect type {}", component.spec.r#type)),
        };
        tracing::info!(target: "dapr.runtime", "Component loaded: {log_name}");
        if is_actor_store {
            tracing::info!(target: "dapr.runtime", "Using '{}' as actor state store", metadata.name);
        }
        self.metrics.component_loaded(&component.spec.r#type);
        let replaced = self.take_opened(&metadata.name, Some(part.block()));
        self.list(&metadata.name, Some(component), capabilities);
        Ok(Outcome::Opened {
            opened: Box::new(Opened {
                resource: component.clone(),
                part,
                is_actor_store,
            }),
            replaced,
        })
    }

    fn other_actor_store(&self, name: &str) -> Option<String> {
        let state = self.state.lock();
        let mut others = state.open.iter().filter(|(other, _)| *other != name);
        others
            .find(|(_, opened)| opened.is_actor_store)
            .map(|(other, _)| other.clone())
    }

    async fn open_store(
        &self,
        metadata: &Metadata,
        log_name: &str,
        component: &Component,
    ) -> Result<(Part, Vec<String>), String> {
        let opening = self.registries.state.open(metadata.clone());
        let store = within(component, log_name, opening).await?;
        let lease = self
            .stores
            .add(metadata, Arc::clone(&store))
            .map_err(|error| init_failure(log_name, &error.to_string()))?;
        let features = store.features();
        let mut capabilities: Vec<String> = features
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect();
        if features.contains(&Feature::Etag) && features.contains(&Feature::Transactional) {
            capabilities.push("ACTOR".to_owned());
        }
        Ok((Part::State(store, lease), capabilities))
    }

    async fn open_pubsub(
        &self,
        metadata: &Metadata,
        log_name: &str,
        component: &Component,
    ) -> Result<(Part, Vec<String>), String> {
        let opening = self.registries.pubsub.open(metadata.clone());
        let pubsub = within(component, log_name, opening).await?;
        let names = if properties::is_namespace_scoped(component) {
            TopicNames::NamespacePrefixed
        } else {
            TopicNames::AsGiven
        };
        let lease = self.pubsubs.add_with(metadata, Arc::clone(&pubsub), names);
        let capabilities = pubsub
            .features()
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect();
        Ok((Part::PubSub(pubsub, lease), capabilities))
    }

    async fn open_secrets(
        &self,
        metadata: &Metadata,
        log_name: &str,
        component: &Component,
    ) -> Result<(Part, Vec<String>), String> {
        let opening = self.registries.secret_stores.open(metadata.clone());
        let store = within(component, log_name, opening).await?;
        let lease = self.secrets.add(&metadata.name, Arc::clone(&store));
        let capabilities = store
            .features()
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect();
        Ok((Part::Secrets(store, lease), capabilities))
    }

    /// Takes a component out of use: no call finds it any more. The caller closes it.
    pub fn take(&self, name: &str) -> Option<Taken> {
        self.state
            .lock()
            .parked
            .retain(|parked| parked.metadata.name.as_deref() != Some(name));
        let taken = self.take_opened(name, None);
        self.list(name, None, Vec::new());
        taken
    }

    /// Takes what was open under `name`; in a block where its successor stands already, nothing is removed.
    fn take_opened(&self, name: &str, successor: Option<Block>) -> Option<Taken> {
        let opened = self.state.lock().open.remove(name)?;
        let block = opened.part.block();
        if successor != Some(block) {
            match block {
                Block::State => drop(self.stores.remove(name)),
                Block::PubSub => drop(self.pubsubs.remove(name)),
                Block::Secrets => self.secrets.remove(name),
            }
        }
        tracing::info!(target: "dapr.runtime", "Component taken out: {}", opened.resource.log_name());
        Some(Taken::new(opened.resource.log_name(), opened.part))
    }

    /// Puts a component at the end of what the metadata API lists, or takes it off.
    fn list(&self, name: &str, component: Option<&Component>, capabilities: Vec<String>) {
        let mut loaded = Vec::clone(&self.loaded.load());
        loaded.retain(|listed| listed.name != name);
        if let Some(component) = component {
            loaded.push(metadata::Component {
                name: name.to_owned(),
                component_type: component.spec.r#type.clone(),
                version: component.spec.version.clone(),
                capabilities,
            });
        }
        self.loaded.store(Arc::new(loaded));
    }

    /// What has to happen so that `desired` are open, and nothing else.
    pub fn plan(&self, desired: &[Component]) -> Plan {
        let state = self.state.lock();
        let open = state.open.values().map(|opened| &opened.resource);
        Plan::new(open.chain(&state.parked), desired)
    }

    /// Closes all components side by side.
    pub async fn close(&self) {
        let open = std::mem::take(&mut self.state.lock().open);
        let closing = open.values().map(|opened| opened.part.close());
        futures::future::join_all(closing).await;
    }
}

fn category(component: &Component) -> &str {
    let kind = component.spec.r#type.split_once('.');
    kind.map_or("", |(category, _)| category)
}

fn is_secret_store(component: &Component) -> bool {
    category(component) == "secretstores"
}

/// Whether the Configuration lets this type be loaded; says so if not.
fn is_allowed(component: &Component, denied: &[String]) -> bool {
    if denied.is_empty() {
        return true;
    }
    let (kind, version) = (&component.spec.r#type, &component.spec.version);
    let full = format!("{kind}/{version}");
    let is_denied = kind.is_empty()
        || version.is_empty()
        || denied.iter().any(|entry| {
            // `type/` names no version, and means all of them.
            let whole = entry.strip_suffix('/').unwrap_or(entry);
            whole.eq_ignore_ascii_case(kind) || entry.eq_ignore_ascii_case(&full)
        });
    if is_denied {
        let name = component.metadata.name.as_deref().unwrap_or_default();
        let log_name = component.log_name();
        tracing::warn!(
            target: "dapr.runtime",
            "component '{name}' cannot be loaded because components of type '{log_name}' are not allowed"
        );
    }
    !is_denied
}

async fn within<T>(
    component: &Component,
    log_name: &str,
    opening: impl Future<Output = Result<T, dapr_components_core::Error>>,
) -> Result<T, String> {
    let limit = dapr_kit::duration::parse(&component.spec.init_timeout)
        .ok()
        .and_then(|limit| Duration::try_from(limit).ok())
        .filter(|limit| !limit.is_zero())
        .unwrap_or(INIT_TIMEOUT);
    match tokio::time::timeout(limit, opening).await {
        Ok(Ok(opened)) => Ok(opened),
        // The registry names what it does not have; everything else failed while opening.
        Ok(Err(error)) if error.to_string().starts_with("couldn't find ") => Err(format!(
            "[INIT_COMPONENT_FAILURE]: initialization error occurred for {log_name}: [CREATE_COMPONENT_FAILURE]: initialization error occurred for {log_name}: {error}"
        )),
        Ok(Err(error)) => Err(init_failure(log_name, &error.to_string())),
        Err(_) => {
            let text = format!("context deadline exceeded\ninit timeout for component {log_name}");
            Err(init_failure(log_name, &text))
        }
    }
}

/// The `reason` of the failure metric: whether there is no such component, or it could not be opened.
fn failed_step(reason: &str) -> &'static str {
    if reason.contains("[CREATE_COMPONENT_FAILURE]") {
        "creation"
    } else {
        "init"
    }
}

fn init_failure(log_name: &str, inner: &str) -> String {
    let prefix = format!("[INIT_COMPONENT_FAILURE]: initialization error occurred for {log_name}");
    format!("{prefix}: {prefix}: {inner}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(kind: &str, version: &str) -> Component {
        let mut component = Component::default();
        component.metadata.name = Some("c".to_owned());
        component.spec.r#type = kind.to_owned();
        component.spec.version = version.to_owned();
        component
    }

    #[test]
    fn a_deny_list_names_types_or_versions() {
        let check = |kind: &str, version: &str, denied: &[&str], expected: bool| {
            let denied: Vec<String> = denied.iter().map(|entry| (*entry).to_owned()).collect();
            assert_eq!(
                is_allowed(&component(kind, version), &denied),
                expected,
                "{kind}/{version} {denied:?}"
            );
        };
        check("state.redis", "v1", &[], true);
        check("state.redis", "v1", &["state.redis"], false);
        check("state.redis", "v2", &["state.redis/v1"], true);
        check("state.redis", "v1", &["state.redis/v1"], false);
        check("state.redis", "v1", &["state.redis/"], false);
        check("state.redis", "v2", &["state.redis/"], false);
        check("state.redis", "v1", &["state/"], true);
        check("state.redis", "", &["pubsub.redis"], false);
    }

    #[test]
    fn the_metric_tells_a_missing_component_from_a_broken_one() {
        let missing = "[INIT_COMPONENT_FAILURE]: x: [CREATE_COMPONENT_FAILURE]: x: couldn't find";
        assert_eq!(failed_step(missing), "creation");
        assert_eq!(failed_step(&init_failure("c", "no host")), "init");
    }

    #[tokio::test(start_paused = true)]
    async fn opening_is_limited() {
        let mut slow = component("state.x", "v1");
        slow.spec.init_timeout = "1s".to_owned();
        let error = within::<()>(&slow, "c (state.x/v1)", std::future::pending())
            .await
            .expect_err("too slow");
        assert!(
            error.ends_with("init timeout for component c (state.x/v1)"),
            "{error}"
        );
    }
}

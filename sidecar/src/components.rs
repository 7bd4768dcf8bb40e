//! Opening components: secret stores will come first, then all others in load order, one after the other.

use std::sync::Arc;
use std::time::Duration;

use dapr_components_core::pubsub::PubSub;
use dapr_components_core::state::{Feature, StateStore};
use dapr_components_core::{Metadata, Registries};
use dapr_crds::Component;
use dapr_kit::flags::Environment;
use dapr_sidecar_core::metadata;
use dapr_sidecar_core::pubsub::{PubSubs, TopicNames};
use dapr_sidecar_core::state::Stores;
use parking_lot::Mutex;

use crate::loader::properties::{self, Names};
use crate::metrics::RuntimeMetrics;

/// Time a component may take to open, unless its `initTimeout` says otherwise.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Categories that upstream has and this build does not serve yet.
const NOT_SERVED: [&str; 7] = [
    "bindings",
    "secretstores",
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

/// All open components of this sidecar.
pub struct Components {
    /// State stores, as the APIs call them.
    pub stores: Arc<Stores>,
    /// Pub/sub components, as the APIs call them.
    pub pubsubs: Arc<PubSubs>,
    /// What the metadata API lists, in load order.
    pub loaded: Vec<metadata::Component>,
    /// Whether one is marked to hold actors.
    pub actor_store: Option<String>,
    metrics: Arc<RuntimeMetrics>,
    open: Mutex<Vec<Open>>,
}

impl std::fmt::Debug for Components {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.loaded.iter().map(|component| &component.name))
            .finish()
    }
}

/// What has to be closed at the end.
enum Open {
    State(Arc<dyn StateStore>),
    PubSub(Arc<dyn PubSub>),
}

/// What opening needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// Templates in values.
    pub names: Names<'a>,
    /// The environment.
    pub environment: &'a Environment,
    /// `spec.components.deny` of the Configuration.
    pub denied: &'a [String],
    /// Whether placement is configured, without which an actor store is an ordinary store.
    pub actors: bool,
}

impl Components {
    /// No components yet.
    pub fn new(stores: Arc<Stores>, pubsubs: Arc<PubSubs>, metrics: Arc<RuntimeMetrics>) -> Self {
        Self {
            stores,
            pubsubs,
            loaded: Vec::new(),
            actor_store: None,
            metrics,
            open: Mutex::default(),
        }
    }

    /// Opens `components`. One that fails ends the start, unless it says `ignoreErrors`.
    pub async fn open(
        &mut self,
        components: &[Component],
        registries: &Registries,
        opening: Opening<'_>,
    ) -> Result<(), Error> {
        for component in components
            .iter()
            .filter(|component| is_allowed(component, opening.denied))
        {
            let name = component.metadata.name.clone().unwrap_or_default();
            let Err(reason) = self.open_one(component, registries, opening).await else {
                continue;
            };
            self.metrics
                .component_failed(&component.spec.r#type, &name, failed_step(&reason));
            let error = Error { name, reason };
            if !component.spec.ignore_errors {
                tracing::error!(target: "dapr.runtime", "Error processing component, daprd will exit gracefully: {error}");
                return Err(error);
            }
            tracing::error!(target: "dapr.runtime", "Ignoring error processing component: {error}");
        }
        Ok(())
    }

    async fn open_one(
        &mut self,
        component: &Component,
        registries: &Registries,
        opening: Opening<'_>,
    ) -> Result<(), String> {
        let log_name = component.log_name();
        let category = component
            .spec
            .r#type
            .split_once('.')
            .map_or("", |(category, _)| category);
        let metadata = match properties::resolve(component, opening.names, opening.environment) {
            Ok(metadata) => metadata,
            Err(error @ properties::Error::SecretStore { .. }) => {
                // As upstream: the component waits for its store, which this build cannot load.
                tracing::warn!(target: "dapr.runtime", "{error}");
                return Ok(());
            }
            Err(error) => return Err(init_failure(&log_name, &error.to_string())),
        };
        let capabilities = match category {
            "state" => {
                self.open_store(metadata, &log_name, component, registries, opening)
                    .await?
            }
            "pubsub" => {
                self.open_pubsub(metadata, &log_name, component, registries)
                    .await?
            }
            category if NOT_SERVED.contains(&category) => {
                return Err(format!(
                    "components of category {category} are not served by this build yet: remove {log_name} from the resources, or set spec.ignoreErrors: true to start without it"
                ));
            }
            _ => return Err(format!("incorrect type {}", component.spec.r#type)),
        };
        tracing::info!(target: "dapr.runtime", "Component loaded: {log_name}");
        self.metrics.component_loaded(&component.spec.r#type);
        self.loaded.push(metadata::Component {
            name: component.metadata.name.clone().unwrap_or_default(),
            component_type: component.spec.r#type.clone(),
            version: component.spec.version.clone(),
            capabilities,
        });
        Ok(())
    }

    async fn open_store(
        &mut self,
        metadata: Metadata,
        log_name: &str,
        component: &Component,
        registries: &Registries,
        opening: Opening<'_>,
    ) -> Result<Vec<String>, String> {
        let is_actor_store = opening.actors
            && metadata
                .get("actorStateStore")
                .is_some_and(dapr_components_core::metadata::is_truthy);
        if let (true, Some(first)) = (is_actor_store, &self.actor_store) {
            let text = format!(
                "detected duplicate actor state store: {first} and {}",
                metadata.name
            );
            return Err(init_failure(log_name, &text));
        }
        let store = within(component, log_name, registries.state.open(metadata.clone())).await?;
        self.stores
            .add(&metadata, Arc::clone(&store))
            .map_err(|error| init_failure(log_name, &error.to_string()))?;
        let features = store.features();
        let mut capabilities: Vec<String> = features
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect();
        if features.contains(&Feature::Etag) && features.contains(&Feature::Transactional) {
            capabilities.push("ACTOR".to_owned());
        }
        self.open.lock().push(Open::State(store));
        if is_actor_store {
            tracing::info!(target: "dapr.runtime", "Using '{}' as actor state store", metadata.name);
            self.actor_store = Some(metadata.name);
        }
        Ok(capabilities)
    }

    async fn open_pubsub(
        &mut self,
        metadata: Metadata,
        log_name: &str,
        component: &Component,
        registries: &Registries,
    ) -> Result<Vec<String>, String> {
        let pubsub = within(
            component,
            log_name,
            registries.pubsub.open(metadata.clone()),
        )
        .await?;
        let names = if properties::is_namespace_scoped(component) {
            TopicNames::NamespacePrefixed
        } else {
            TopicNames::AsGiven
        };
        self.pubsubs.add_with(&metadata, Arc::clone(&pubsub), names);
        let capabilities = pubsub
            .features()
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect();
        self.open.lock().push(Open::PubSub(pubsub));
        Ok(capabilities)
    }

    /// Closes all components side by side.
    pub async fn close(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        let closing = open.iter().map(|component| async move {
            match component {
                Open::State(store) => store.close().await,
                Open::PubSub(pubsub) => pubsub.close().await,
            }
        });
        futures::future::join_all(closing).await;
    }
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
        || denied
            .iter()
            .any(|entry| entry.eq_ignore_ascii_case(kind) || entry.eq_ignore_ascii_case(&full));
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

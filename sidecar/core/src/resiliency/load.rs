//! From resources to policies, and from targets to the policies that apply.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::breaker::{Breaker, Settings};
use super::policies::{Cache, Names, Policies, Scope};
use super::run::{Classify, Failed, Labels, Policy, Retry, epoch};
use super::spec::Spec;
use super::target::{Builtin, ComponentKind, Target};
use crate::metrics::{Off, ResiliencyMetrics};

/// Breakers kept for a target that only has default policies.
const DEFAULT_BREAKERS: usize = 5000;

/// A Resiliency resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// App ids it applies to; empty is all.
    pub scopes: Vec<String>,
    /// Policies and targets.
    pub spec: Spec,
}

/// The policies in effect.
pub struct Resiliency {
    metrics: Arc<dyn ResiliencyMetrics>,
    loaded: ArcSwap<Loaded>,
}

/// One load of resources with the breakers that belong to it.
struct Loaded {
    policies: Policies,
    /// Nothing applies to any target but the built-in ones.
    is_empty: bool,
    /// By target: an app, an actor type or a component.
    breakers: Mutex<BTreeMap<String, Cache>>,
}

impl std::fmt::Debug for Resiliency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resiliency").finish_non_exhaustive()
    }
}

impl Default for Resiliency {
    fn default() -> Self {
        Self::new("", Vec::new(), Arc::new(Off))
    }
}

impl Resiliency {
    /// Policies of `resources`, merged in their order, for application `app_id`; what cannot be read is
    /// logged and left out.
    pub fn new(
        app_id: &str,
        resources: Vec<Resource>,
        metrics: Arc<dyn ResiliencyMetrics>,
    ) -> Self {
        let resiliency = Self {
            metrics,
            loaded: ArcSwap::from_pointee(Loaded::new(Policies::default())),
        };
        resiliency.load(app_id, resources);
        resiliency
    }

    /// Replaces all policies; breakers start closed. Resources whose scopes exclude `app_id` are ignored.
    pub fn load(&self, app_id: &str, resources: Vec<Resource>) {
        let mut policies = Policies::default();
        for resource in resources {
            let in_scope =
                resource.scopes.is_empty() || resource.scopes.iter().any(|scope| scope == app_id);
            if !in_scope {
                continue;
            }
            self.metrics.loaded(&resource.name, &resource.namespace);
            policies.resource = (
                resource.name.as_str().into(),
                resource.namespace.as_str().into(),
            );
            if let Err(error) = policies.merge(resource.spec) {
                tracing::error!(
                    "Could not read resiliency policy {}: {error}",
                    resource.name
                );
            }
        }
        self.loaded.store(Arc::new(Loaded::new(policies)));
    }

    /// Whether no policy applies to any target but the built-in ones.
    pub fn is_empty(&self) -> bool {
        self.loaded.load().is_empty
    }

    /// The retries of a built-in policy.
    pub fn builtin(&self, builtin: Builtin) -> Arc<Retry> {
        self.loaded.load().policies.builtin(builtin)
    }

    /// Whether a resource has a target for application `name`; the built-in retry is off then.
    pub fn has_app_target(&self, name: &str) -> bool {
        self.loaded.load().policies.apps.contains_key(name)
    }

    /// Whether a resource has a target for actors of this type; the built-in retry is off then.
    pub fn has_actor_target(&self, actor_type: &str) -> bool {
        self.loaded.load().policies.actors.contains_key(actor_type)
    }

    /// The policies of `target`; `None` where nothing applies and calls need no wrapping.
    pub fn policy(&self, target: Target<'_>) -> Option<Policy> {
        let loaded = self.loaded.load();
        if let Target::Builtin(builtin) = target {
            return Some(self.builtin_policy(&loaded, builtin));
        }
        if loaded.is_empty {
            return None;
        }
        let found = loaded.find(target);
        let is_none = found.retry.is_none() && found.timeout.is_none() && found.breaker.is_none();
        (!is_none).then(|| Policy {
            labels: self.labels(&loaded, target),
            retry: found.retry,
            breaker: found.breaker,
            timeout: found.timeout,
        })
    }

    /// Runs `operation` under the policies of `target`, once for each attempt.
    pub async fn run<T, E, F>(
        &self,
        target: Target<'_>,
        mut operation: impl FnMut() -> F,
    ) -> Result<T, Failed<E>>
    where
        E: Classify,
        F: Future<Output = Result<T, E>>,
    {
        match self.policy(target) {
            None => operation().await.map_err(Failed::Operation),
            Some(policy) => policy.run(operation).await,
        }
    }

    fn builtin_policy(&self, loaded: &Loaded, builtin: Builtin) -> Policy {
        Policy {
            labels: self.labels(loaded, Target::Builtin(builtin)),
            retry: Some(loaded.policies.builtin(builtin)),
            breaker: None,
            timeout: None,
        }
    }

    fn labels(&self, loaded: &Loaded, target: Target<'_>) -> Labels {
        let (resource, namespace) = loaded.policies.resource.clone();
        Labels {
            operation: target.operation(),
            resource,
            namespace,
            direction: target.direction(),
            target: target.label(),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// The policies found for a target.
#[derive(Default)]
struct Found {
    retry: Option<Arc<Retry>>,
    timeout: Option<Duration>,
    breaker: Option<Arc<Mutex<Breaker>>>,
}

impl Loaded {
    fn new(policies: Policies) -> Self {
        let is_empty = policies.timeouts.is_empty()
            && policies.retries.is_empty()
            && policies.breakers.is_empty();
        Self {
            policies,
            is_empty,
            breakers: Mutex::default(),
        }
    }

    fn find(&self, target: Target<'_>) -> Found {
        match target {
            Target::App { name, endpoint } => {
                let app = self.policies.apps.get(name);
                let names = app.map(|app| &app.names);
                let size = app.map_or(DEFAULT_BREAKERS, |app| app.breakers);
                self.resolve(names, &["App", ""], &format!("app/{name}"), endpoint, size)
            }
            Target::ActorPreLock {
                actor_type,
                actor_id,
            } => Found {
                timeout: None,
                ..self.find_actor(actor_type, actor_id)
            },
            // The breaker and the retries of an actor wrap the call before its lock.
            Target::ActorPostLock { actor_type, .. } => {
                let names = self
                    .policies
                    .actors
                    .get(actor_type)
                    .map(|actor| &actor.names);
                Found {
                    timeout: self.timeout(names, &["Actor", ""]),
                    ..Found::default()
                }
            }
            Target::Outbound { component, kind } => {
                self.find_component(component, kind, "Outbound")
            }
            Target::Inbound { component, kind } => self.find_component(component, kind, "Inbound"),
            Target::Builtin(_) => Found::default(),
        }
    }

    fn find_actor(&self, actor_type: &str, actor_id: &str) -> Found {
        let actor = self.policies.actors.get(actor_type);
        let names = actor.map(|actor| &actor.names);
        let size = actor.map_or(DEFAULT_BREAKERS, |actor| actor.breakers);
        let key = match actor.map_or(Scope::Type, |actor| actor.scope) {
            Scope::Type => actor_type.to_owned(),
            Scope::Id => format!("{actor_type}-{actor_id}"),
        };
        self.resolve(
            names,
            &["Actor", ""],
            &format!("actor/{actor_type}"),
            &key,
            size,
        )
    }

    fn find_component(&self, name: &str, kind: ComponentKind, direction: &str) -> Found {
        let names = self.policies.components.get(name).map(|component| {
            if direction == "Inbound" {
                &component.inbound
            } else {
                &component.outbound
            }
        });
        let defaults = [
            &*format!("{}Component{direction}", kind.name()),
            &*format!("Component{direction}"),
            "Component",
            "",
        ];
        // Both directions share one breaker.
        self.resolve(names, &defaults, &format!("component/{name}"), name, 1)
    }

    fn resolve(
        &self,
        names: Option<&Names>,
        defaults: &[&str],
        group: &str,
        key: &str,
        breakers: usize,
    ) -> Found {
        let retry = match names {
            Some(names) => self.policies.retries.get(&names.retry),
            None => default(&self.policies.retries, defaults, "Retry"),
        };
        let settings = match names {
            Some(names) => self.policies.breakers.get(&names.breaker),
            None => default(&self.policies.breakers, defaults, "CircuitBreaker"),
        };
        Found {
            retry: retry.map(Arc::clone),
            timeout: self.timeout(names, defaults),
            breaker: settings.map(|settings| self.breaker(settings, group, key, breakers)),
        }
    }

    fn timeout(&self, names: Option<&Names>, defaults: &[&str]) -> Option<Duration> {
        let timeout = match names {
            Some(names) => self.policies.timeouts.get(&names.timeout),
            None => default(&self.policies.timeouts, defaults, "Timeout"),
        };
        timeout.copied().filter(|timeout| !timeout.is_zero())
    }

    fn breaker(
        &self,
        settings: &Arc<Settings>,
        group: &str,
        key: &str,
        limit: usize,
    ) -> Arc<Mutex<Breaker>> {
        let mut breakers = self.breakers.lock();
        if !breakers.contains_key(group) {
            breakers.insert(group.to_owned(), Cache::new(limit));
        }
        let Some(cache) = breakers.get_mut(group) else {
            return Arc::new(Mutex::new(Breaker::new(Arc::clone(settings), epoch())));
        };
        cache.get(key, || Breaker::new(Arc::clone(settings), epoch()))
    }
}

/// The first policy named `Default<prefix><kind>Policy`.
fn default<'a, T>(
    policies: &'a BTreeMap<String, T>,
    prefixes: &[&str],
    kind: &str,
) -> Option<&'a T> {
    prefixes
        .iter()
        .find_map(|prefix| policies.get(&format!("Default{prefix}{kind}Policy")))
}

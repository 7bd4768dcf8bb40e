//! Resources that change while the sidecar serves: what can be applied is applied, calls in flight end first.
//!
//! Only a changed Configuration makes the run begin anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use dapr_crds::configuration::ConfigurationSpec;
use dapr_sidecar_actors::Runtime;
use dapr_sidecar_core::invoke::Invoker;
use dapr_sidecar_core::pubsub::{Subscription, check_rules};
use dapr_sidecar_core::state::Store;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::base::Base;
use crate::components::{Components, Taken, When};
use crate::loader::{Feed, Loader, Resources, endpoints};
use crate::metadata::Listed;

/// Whom changes are told.
pub(super) struct Reload<'a> {
    pub(super) base: &'a Base,
    pub(super) components: Arc<Components>,
    pub(super) actors: Arc<Runtime>,
    pub(super) invoker: Arc<Invoker>,
    pub(super) listed: Arc<Listed>,
    pub(super) declarative: watch::Sender<Arc<Vec<Subscription>>>,
    /// The store of the actors.
    pub(super) actor_store: Option<Arc<Store>>,
    /// What is in use.
    pub(super) resources: Arc<Resources>,
    /// The Configurations this run began with.
    pub(super) configurations: BTreeMap<String, ConfigurationSpec>,
}

/// Kinds of components that came or changed, and that other resources refer to.
#[derive(Debug, Clone, Copy, Default)]
struct Touched {
    pubsubs: bool,
    secrets: bool,
}

impl Reload<'_> {
    /// Applies changes until the run has to begin anew; an error says why it cannot go on.
    pub(super) async fn run(self, loader: Arc<dyn Loader>) -> anyhow::Result<()> {
        let (feed, changes) = Feed::new(Arc::clone(&self.resources));
        tokio::select! {
            () = loader.follow(&feed) => std::future::pending().await,
            ended = self.apply_all(changes) => ended,
        }
    }

    async fn apply_all(
        mut self,
        mut changes: watch::Receiver<Arc<Resources>>,
    ) -> anyhow::Result<()> {
        // Components that were taken out, until their last call has ended.
        let mut closing = JoinSet::new();
        while changes.changed().await.is_ok() {
            let resources = Arc::clone(&changes.borrow_and_update());
            if let Some(name) = changed(&self.configurations, &resources.configurations) {
                tracing::info!(target: "dapr.runtime", "the Configuration {name} has changed; restarting");
                return Ok(());
            }
            self.apply(resources, &mut closing).await?;
            while let Some(ended) = closing.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(target: "dapr.runtime", %error, "closing a component failed");
                }
            }
        }
        std::future::pending().await
    }

    async fn apply(
        &mut self,
        resources: Arc<Resources>,
        closing: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.resources, Arc::clone(&resources));
        if before.resiliencies != resources.resiliencies {
            tracing::info!(target: "dapr.runtime", "resiliency policies have changed");
            let app_id = &self.base.process.settings.app_id;
            let policies = resources.resiliencies.clone();
            self.base.resiliency.load(app_id, policies);
        }
        let touched = self.apply_components(&resources, closing).await?;
        if touched.secrets || before.http_endpoints != resources.http_endpoints {
            tracing::debug!(target: "dapr.runtime", "HTTP endpoints are loaded again");
            let namespace = self.base.process.settings.namespace.as_deref();
            let secrets = &self.components.secrets;
            let found = endpoints::convert(&resources.http_endpoints, secrets, namespace).await;
            self.invoker.set_endpoints(found);
        }
        self.listed.set(&resources);
        if touched.pubsubs || before.subscriptions != resources.subscriptions {
            let subscriptions = usable(&resources.subscriptions, &self.declarative.borrow());
            self.declarative.send_replace(Arc::new(subscriptions));
        }
        Ok(())
    }

    /// Deletes, updates, creates; says what others have to look at again.
    async fn apply_components(
        &mut self,
        resources: &Resources,
        closing: &mut JoinSet<()>,
    ) -> anyhow::Result<Touched> {
        let plan = self.components.plan(&self.base.wanted(resources));
        if plan.is_empty() {
            return Ok(Touched::default());
        }
        let mut taken: Vec<Taken> = Vec::new();
        for name in &plan.deletes {
            taken.extend(self.components.take(name));
        }
        if !plan.deletes.is_empty() {
            self.follow_actor_store().await?;
        }
        let mut touched = Touched::default();
        for component in plan.updates.iter().chain(&plan.creates) {
            touched.pubsubs |= component.spec.r#type.starts_with("pubsub.");
            touched.secrets |= component.spec.r#type.starts_with("secretstores.");
            taken.extend(self.components.open(component, When::Live).await?);
        }
        self.follow_actor_store().await?;
        for component in taken {
            closing.spawn(component.close());
        }
        Ok(touched)
    }

    /// The actors lose their store, get one, or change it under way.
    async fn follow_actor_store(&mut self) -> anyhow::Result<()> {
        let has_placement = !self
            .base
            .process
            .settings
            .control_plane
            .placement
            .is_empty();
        let store = self.components.stores.actor_store();
        let is_same = match (&store, &self.actor_store) {
            (Some(store), Some(used)) => Arc::ptr_eq(store, used),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !has_placement || is_same {
            return Ok(());
        }
        if store.is_none() {
            tracing::info!(target: "dapr.runtime", "the actor state store is gone: actors are suspended");
            self.actors.set_state_store(None).await?;
            self.actor_store = None;
            return Ok(());
        }
        let actors = Arc::clone(&self.actors);
        self.actor_store = self.base.set_actor_store(&actors, &self.components).await?;
        Ok(())
    }
}

/// The subscriptions of resources. In place of one with a broken rule stands the one in use for the same topic, if there
/// is one: at the start it would end the runtime, but what runs goes on.
fn usable(wanted: &[Subscription], in_use: &[Subscription]) -> Vec<Subscription> {
    let usable = wanted.iter().filter_map(|subscription| {
        let Err(error) = check_rules(std::slice::from_ref(subscription)) else {
            return Some(subscription);
        };
        let same = in_use.iter().find(|used| {
            used.pubsub_name == subscription.pubsub_name && used.topic == subscription.topic
        });
        let rest = same.map_or("it is left out", |_| "the one in use stays");
        tracing::error!(
            target: "dapr.runtime",
            "a subscription of pubsub {} cannot be loaded, {rest}: {error}", subscription.pubsub_name
        );
        same
    });
    usable.cloned().collect()
}

/// A Configuration that is not what it was. One that is not told about is what it was.
fn changed<'a>(
    before: &BTreeMap<String, ConfigurationSpec>,
    now: &'a BTreeMap<String, ConfigurationSpec>,
) -> Option<&'a String> {
    let mut now = now.iter();
    now.find(|(name, spec)| before.get(*name) != Some(spec))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use dapr_sidecar_core::pubsub::{Rule, Source};

    use super::*;

    #[test]
    fn a_subscription_with_a_broken_rule_does_not_replace_the_one_in_use() {
        let subscription = |topic: &str, matches: &str| Subscription {
            pubsub_name: "p".to_owned(),
            topic: topic.to_owned(),
            rules: vec![Rule {
                matches: matches.to_owned(),
                path: "/x".to_owned(),
            }],
            dead_letter_topic: None,
            metadata: BTreeMap::new(),
            bulk: None,
            source: Source::Declarative,
        };
        let in_use = [subscription("a", "event.n == 1")];
        let wanted = [
            subscription("a", "event.n =="),
            subscription("b", "event.n =="),
            subscription("c", ""),
        ];
        let expected = [in_use[0].clone(), wanted[2].clone()];
        assert_eq!(usable(&wanted, &in_use), expected);
    }

    #[test]
    fn only_a_configuration_that_differs_begins_anew() {
        let plain = ConfigurationSpec::default();
        let mut other = ConfigurationSpec::default();
        other.features.push(dapr_crds::configuration::FeatureSpec {
            name: "X".to_owned(),
            enabled: true,
        });
        let with = |spec: &ConfigurationSpec| BTreeMap::from([("c".to_owned(), spec.clone())]);
        assert_eq!(changed(&with(&plain), &with(&plain)), None);
        assert_eq!(changed(&with(&plain), &BTreeMap::new()), None);
        assert_eq!(changed(&with(&plain), &with(&other)), Some(&"c".to_owned()));
        assert_eq!(
            changed(&BTreeMap::new(), &with(&other)),
            Some(&"c".to_owned())
        );
    }
}

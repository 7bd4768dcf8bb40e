//! A loaded pub/sub component, and sending messages to it.

use std::borrow::Cow;
use std::sync::Arc;

use dapr_components_core::pubsub::{Feature, PubSub, PublishRequest};
use dapr_components_core::{Error as ComponentError, Metadata};
use tokio_util::sync::CancellationToken;

use super::scopes::Scopes;
use super::service::TopicNames;
use crate::lease::InUse;
use crate::metrics::ComponentMetrics;
use crate::resiliency::{ComponentKind, Failed, Resiliency, Target};

/// What publishing and delivering share.
pub(super) struct Services {
    pub(super) app_id: String,
    /// Empty without a namespace.
    pub(super) namespace: String,
    pub(super) resiliency: Arc<Resiliency>,
    pub(super) metrics: Arc<dyn ComponentMetrics>,
}

/// A loaded component.
pub(super) struct Component {
    pub(super) name: String,
    pub(super) inner: Arc<dyn PubSub>,
    pub(super) scopes: Scopes,
    /// What stands before every topic at the broker; empty for topics as given.
    prefix: String,
    /// Cancelled once the component is taken out.
    pub(super) removed: CancellationToken,
    _in_use: InUse,
}

impl Component {
    pub(super) fn new(
        metadata: &Metadata,
        inner: Arc<dyn PubSub>,
        names: TopicNames,
        services: &Services,
        in_use: InUse,
    ) -> Self {
        let prefix = match names {
            TopicNames::AsGiven => String::new(),
            TopicNames::NamespacePrefixed => services.namespace.clone(),
        };
        Self {
            name: metadata.name.clone(),
            scopes: Scopes::parse(metadata, &services.app_id),
            inner,
            prefix,
            removed: CancellationToken::new(),
            _in_use: in_use,
        }
    }

    /// The broker's name of a topic.
    pub(super) fn broker_topic(&self, topic: &str) -> String {
        [&self.prefix, topic].concat()
    }

    /// The application's name of a broker's topic: without the first occurrence of the namespace.
    pub(super) fn own_topic<'a>(&self, topic: &'a str) -> Cow<'a, str> {
        if self.prefix.is_empty() {
            Cow::Borrowed(topic)
        } else {
            Cow::Owned(topic.replacen(&self.prefix, "", 1))
        }
    }

    pub(super) fn has(&self, feature: Feature) -> bool {
        self.inner.features().contains(&feature)
    }

    /// Publishes a message, `topic` as the application names it, under the component's outbound policies.
    pub(super) async fn send(
        &self,
        mut request: PublishRequest,
        resiliency: &Resiliency,
    ) -> Result<(), Failed<ComponentError>> {
        request.topic = self.broker_topic(&request.topic);
        match resiliency.policy(self.outbound()) {
            None => self.inner.publish(request).await.map_err(Failed::Operation),
            Some(policy) => policy.run(|| self.inner.publish(request.clone())).await,
        }
    }

    pub(super) fn outbound(&self) -> Target<'_> {
        Target::Outbound {
            component: &self.name,
            kind: ComponentKind::Pubsub,
        }
    }

    pub(super) fn inbound(&self) -> Target<'_> {
        Target::Inbound {
            component: &self.name,
            kind: ComponentKind::Pubsub,
        }
    }
}

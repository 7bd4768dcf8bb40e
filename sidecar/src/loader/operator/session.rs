//! One connection to the operator: its streams, and the objects they keep up to date.

use std::time::Duration;

use dapr_proto::dapr::proto::operator::v1::{
    ComponentUpdateRequest, ConfigurationUpdateRequest, HttpEndpointUpdateRequest,
    ResiliencyUpdateRequest, ResourceEventType, SubscriptionUpdateRequest,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status};

use super::objects::{Event, Kind};
use super::{ATTEMPTS_WHILE_FOLLOWING, Client, Operator, decode, told};
use crate::loader::{Feed, Resources};

/// Events that may wait while a list is on its way; behind them the operator waits.
const EVENTS: usize = 64;
/// An operator of upstream answers the call of a stream with its first event, so nobody knows when it began: what
/// happened between list and stream is found by listing once more.
const SECOND_LIST: Duration = Duration::from_secs(2);

/// What streams tell.
enum Told {
    Object(Event),
    Configuration(bytes::Bytes),
}

/// Follows the operator until the connection fails; says why.
pub(super) async fn run(operator: &Operator, feed: &Feed) -> String {
    match follow(operator, feed).await {
        Ok(reason) | Err(reason) => reason,
    }
}

async fn follow(operator: &Operator, feed: &Feed) -> Result<String, String> {
    let client = operator.client().map_err(|error| error.to_string())?;
    let (sender, mut told) = mpsc::channel(EVENTS);
    let mut streams = open(operator, &client, &sender);
    let mut current = Current {
        operator,
        client,
        configuration: None,
    };
    current.list().await?;
    feed.publish(current.resources());
    let mut next_list = Instant::now() + SECOND_LIST;
    loop {
        tokio::select! {
            Some(told) = told.recv() => {
                if current.apply(told) {
                    feed.publish(current.resources());
                }
            }
            Some(ended) = streams.join_next() => {
                return Ok(ended.unwrap_or_else(|error| error.to_string()));
            }
            () = sleep_until(next_list) => {
                current.list().await?;
                feed.publish(current.resources());
                next_list = Instant::now() + operator.settings.backup;
            }
        }
    }
}

/// What there is at the moment.
struct Current<'a> {
    operator: &'a Operator,
    client: Client,
    configuration: Option<dapr_crds::Configuration>,
}

impl Current<'_> {
    async fn list(&mut self) -> Result<(), String> {
        // A list that is not answered ends the connection: it also tells a dead peer from a quiet one.
        let listed = self
            .operator
            .list(&self.client, ATTEMPTS_WHILE_FOLLOWING)
            .await;
        listed.map_err(|error| error.to_string())?;
        let fetched = self
            .operator
            .fetch(&self.client, ATTEMPTS_WHILE_FOLLOWING)
            .await;
        match fetched {
            Ok(configuration) => self.configuration = configuration,
            Err(error) if error.is_transient() => return Err(error.to_string()),
            // It may have been deleted: a sidecar that runs goes on with the one it has.
            Err(error) => {
                tracing::warn!(target: "dapr.runtime", "the Configuration in use stays: {error}");
            }
        }
        Ok(())
    }

    fn apply(&mut self, told: Told) -> bool {
        match told {
            Told::Object(event) => self.operator.known.lock().apply(&event),
            Told::Configuration(json) => match decode::configuration(&json) {
                Ok(configuration) => {
                    self.configuration = Some(configuration);
                    true
                }
                Err(error) => {
                    tracing::warn!(target: "dapr.runtime", "the Configuration the operator sent cannot be read, the one in use stays: {error}");
                    false
                }
            },
        }
    }

    fn resources(&self) -> Resources {
        let mut resources = self.operator.current();
        if let (Some(name), Some(configuration)) =
            (&self.operator.settings.configuration, &self.configuration)
        {
            resources
                .configurations
                .insert(name.clone(), configuration.spec.clone());
        }
        resources
    }
}

type Events = BoxStream<'static, Result<Told, Status>>;

/// Opens the streams of all kinds that are applied; each task ends with the reason why its stream did.
fn open(operator: &Operator, client: &Client, sender: &mpsc::Sender<Told>) -> JoinSet<String> {
    let mut streams = JoinSet::new();
    let namespace = || operator.settings.namespace.clone();
    let (mut c, request) = (
        client.clone(),
        ComponentUpdateRequest {
            namespace: namespace(),
        },
    );
    streams.spawn(pass_on("components", sender.clone(), async move {
        let events = c.component_update(request).await?.into_inner();
        Ok(events
            .map(|event| {
                event.map(|event| object(Kind::Component, event.r#type(), event.component))
            })
            .boxed())
    }));
    let (mut c, request) = (
        client.clone(),
        SubscriptionUpdateRequest {
            namespace: namespace(),
        },
    );
    streams.spawn(pass_on("subscriptions", sender.clone(), async move {
        let events = c.subscription_update(request).await?.into_inner();
        Ok(events
            .map(|event| {
                event.map(|event| object(Kind::Subscription, event.r#type(), event.subscription))
            })
            .boxed())
    }));
    let (mut c, request) = (
        client.clone(),
        HttpEndpointUpdateRequest {
            namespace: namespace(),
        },
    );
    streams.spawn(pass_on("HTTP endpoints", sender.clone(), async move {
        let events = c.http_endpoint_update(request).await?.into_inner();
        Ok(events
            .map(|event| {
                event.map(|event| object(Kind::HttpEndpoint, event.r#type(), event.http_endpoints))
            })
            .boxed())
    }));
    let (mut c, request) = (
        client.clone(),
        ResiliencyUpdateRequest {
            namespace: namespace(),
        },
    );
    streams.spawn(pass_on("resiliencies", sender.clone(), async move {
        let events = c.resiliency_update(request).await?.into_inner();
        Ok(events
            .map(|event| {
                event.map(|event| object(Kind::Resiliency, event.r#type(), event.resiliency))
            })
            .boxed())
    }));
    if operator.settings.configuration.is_some() {
        let (mut c, request) = (
            client.clone(),
            ConfigurationUpdateRequest {
                namespace: namespace(),
            },
        );
        streams.spawn(pass_on("the Configuration", sender.clone(), async move {
            let events = c.configuration_update(request).await?.into_inner();
            // A sidecar goes on with the Configuration it has when that is deleted.
            let events = events.filter(|event| {
                let is_kept =
                    !matches!(event, Ok(event) if event.r#type() == ResourceEventType::Deleted);
                std::future::ready(is_kept)
            });
            Ok(events
                .map(|event| event.map(|event| Told::Configuration(event.configuration)))
                .boxed())
        }));
    }
    streams
}

fn object(kind: Kind, what: ResourceEventType, object: bytes::Bytes) -> Told {
    Told::Object(Event { kind, what, object })
}

async fn pass_on(
    what: &'static str,
    sender: mpsc::Sender<Told>,
    opening: impl Future<Output = Result<Events, Status>>,
) -> String {
    let mut events = match opening.await {
        Ok(events) => events,
        Err(status) if status.code() == Code::Unimplemented => {
            tracing::info!(target: "dapr.runtime", "this operator does not tell about changes of {what}: they are found by listing");
            return std::future::pending().await;
        }
        Err(status) => return format!("{what}: {}", told(&status)),
    };
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(status) => return format!("{what}: {}", told(&status)),
        };
        if sender.send(event).await.is_err() {
            break;
        }
    }
    format!("{what}: EOF")
}

//! From a broker's message to the application's answer, and what becomes of the message.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dapr_components_core::pubsub::{Handler, Message, NotProcessed, PublishRequest};
use http::HeaderMap;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{Level, error, warn};

use super::component::{Component, Services};
use super::content_type;
use super::event::Incoming;
use super::routing::Routes;
use super::service::EventSink;
use super::subscription::Subscription;
use crate::app::{self, AppChannel, Event, EventOutcome};
use crate::metrics::ProcessStatus;
use crate::resiliency::{Class, Classify, Ended, Failed};

/// Longest time publishing to a dead letter topic may take.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// Who gets the events.
#[derive(Clone)]
pub(super) enum Sink {
    App(Arc<dyn AppChannel>),
    Stream(Arc<dyn EventSink>),
}

impl Sink {
    async fn deliver(&self, event: Event, trace: &HeaderMap) -> Result<EventOutcome, app::Error> {
        match self {
            Self::App(app) => app.deliver(event, trace).await,
            Self::Stream(stream) => stream.deliver(event).await,
        }
    }
}

/// Takes the messages of one subscription.
pub(super) struct Consumer {
    pub(super) services: Arc<Services>,
    pub(super) component: Arc<Component>,
    pub(super) subscription: Subscription,
    pub(super) routes: Routes,
    pub(super) sink: Sink,
    /// Messages that arrive once this is cancelled are not acknowledged.
    pub(super) stopping: CancellationToken,
    /// Deliveries that fail once this is cancelled are not repeated.
    pub(super) giving_up: CancellationToken,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Acknowledged.
    Done,
    /// Acknowledged although nobody took it; no dead letter.
    Ignored,
    /// Acknowledged and given up; dead letter.
    Dropped,
    /// To be delivered again by the component, unless there is a dead letter topic.
    Failed(String),
    /// To be delivered again by the component: the subscription ends before all was tried.
    GivenUp(String),
}

impl Verdict {
    pub(super) fn process_status(&self) -> ProcessStatus {
        match self {
            Self::Done => ProcessStatus::Success,
            Self::Ignored | Self::Dropped => ProcessStatus::Drop,
            Self::Failed(_) | Self::GivenUp(_) => ProcessStatus::Retry,
        }
    }
}

/// An attempt to be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retriable {
    pub(super) reason: String,
    pub(super) code: Option<i32>,
}

impl Classify for Retriable {
    fn class(&self) -> Class {
        self.code.map_or(Class::Uncoded, Class::Code)
    }
}

impl From<app::Error> for Retriable {
    fn from(error: app::Error) -> Self {
        let code = match &error {
            app::Error::Status(status) => Some(status.code as i32),
            app::Error::Unhealthy
            | app::Error::Unreachable(_)
            | app::Error::Transport(_)
            | app::Error::BadAnswer(_) => None,
        };
        Self {
            reason: error.to_string(),
            code,
        }
    }
}

/// What an answer means, before policies see it.
pub(super) fn judge(outcome: EventOutcome) -> Result<Verdict, Retriable> {
    match outcome {
        EventOutcome::Success => Ok(Verdict::Done),
        EventOutcome::Drop | EventOutcome::Rejected(_) => Ok(Verdict::Dropped),
        EventOutcome::Ignored(_) => Ok(Verdict::Ignored),
        EventOutcome::Retry { reason, code } => Err(Retriable { reason, code }),
    }
}

/// What the log says about one attempt, in upstream's words.
fn lines(answer: &Result<EventOutcome, app::Error>, id: &str, topic: &str) -> Vec<(Level, String)> {
    let non_retriable = |reason: &str| {
        format!(
            "non-retriable error returned from app while processing pub/sub event {id}: {reason}"
        )
    };
    let retriable = |error: &str| {
        format!(
            "encountered a retriable error while publishing a subscribed message to topic {topic}, err: {error}"
        )
    };
    match answer {
        Ok(EventOutcome::Success) => Vec::new(),
        Ok(EventOutcome::Drop) => vec![(
            Level::WARN,
            format!("DROP status returned from app while processing pub/sub event {id}"),
        )],
        Ok(EventOutcome::Rejected(reason)) => vec![(Level::ERROR, non_retriable(reason))],
        Ok(EventOutcome::Ignored(reason)) => vec![(Level::WARN, non_retriable(reason))],
        // An HTTP status.
        Ok(EventOutcome::Retry {
            reason,
            code: Some(100..),
        }) => {
            let text = format!(
                "retriable error returned from app while processing pub/sub event {id}, topic: {topic}, body: {reason}"
            );
            let both = retriable(&text);
            vec![(Level::WARN, text), (Level::WARN, both)]
        }
        Ok(EventOutcome::Retry {
            reason,
            code: Some(_),
        }) => vec![(Level::WARN, retriable(reason))],
        // It asks for it, which is no error.
        Ok(EventOutcome::Retry { code: None, .. }) => vec![(Level::WARN, retriable("<nil>"))],
        Err(error) => vec![(Level::WARN, retriable(&error.to_string()))],
    }
}

#[async_trait]
impl Handler for Consumer {
    async fn handle(&self, message: Message) -> Result<(), NotProcessed> {
        if self.stopping.is_cancelled() {
            return Err(NotProcessed("subscription is stopping".to_owned()));
        }
        let started = Instant::now();
        let verdict = self.process(&message).await;
        let status = verdict.process_status();
        self.services.metrics.delivered(
            &self.component.name,
            &self.subscription.topic,
            status,
            status.name(),
            started.elapsed(),
        );
        self.conclude(verdict, &message).await
    }
}

impl Consumer {
    /// Whether messages are wrapped, whatever they hold.
    fn is_raw(&self) -> bool {
        super::is_raw(&self.subscription.metadata).unwrap_or(false)
    }

    /// Reads and routes a message: the event with its path, or its fate when it goes no further.
    pub(super) fn prepare(&self, message: &Message) -> Result<(Incoming, String), Verdict> {
        let pubsub = &self.component.name;
        let topic = self.topic(message);
        let incoming = Incoming::read(message, pubsub, &topic, self.is_raw()).map_err(|error| {
            error!("error deserializing cloud event in pubsub {pubsub} and topic {topic}: {error}");
            Verdict::Failed(error.to_string())
        })?;
        if let Some(expiration) = incoming.expired(Timestamp::now()) {
            warn!(
                "dropping expired pub/sub event {} as of {expiration}",
                incoming.id()
            );
            return Err(Verdict::Dropped);
        }
        match self.routes.find(&incoming.event) {
            Ok(Some(path)) => {
                let path = path.to_owned();
                Ok((incoming, path))
            }
            Ok(None) => {
                warn!("No matching route for event in pubsub {pubsub} and topic {topic}; skipping");
                Err(Verdict::Dropped)
            }
            Err(error) => {
                let text = format!(
                    "error finding matching route for event {error} in pubsub {pubsub} and topic {topic}"
                );
                error!("{text}");
                Err(Verdict::Failed(text))
            }
        }
    }

    /// The topic as the application names it.
    pub(super) fn topic(&self, message: &Message) -> String {
        if message.topic.is_empty() {
            return self.subscription.topic.clone();
        }
        self.component.own_topic(&message.topic).into_owned()
    }

    async fn process(&self, message: &Message) -> Verdict {
        let (incoming, path) = match self.prepare(message) {
            Ok(prepared) => prepared,
            Err(verdict) => return verdict,
        };
        let trace = incoming.trace_headers();
        let mut metadata = message.metadata.clone();
        metadata.insert("pubsubName".to_owned(), self.component.name.clone());
        let event = Event {
            path,
            pubsub_name: self.component.name.clone(),
            topic: self.topic(message),
            cloud_event: incoming.event,
            body: incoming.body,
            content_type: content_type::CLOUD_EVENT.to_owned(),
            metadata,
        };
        let id = super::event::id(&event.cloud_event).to_owned();
        self.deliver(event, &id, &trace).await
    }

    /// Delivers an event under the inbound policies of the component.
    async fn deliver(&self, event: Event, id: &str, trace: &HeaderMap) -> Verdict {
        let result = match self.services.resiliency.policy(self.component.inbound()) {
            None => self
                .attempt(event, id, trace)
                .await
                .map_err(Failed::Operation),
            Some(policy) if policy.retries() => {
                let attempt = || self.attempt(event.clone(), id, trace);
                let result = policy.run_until(&self.giving_up, attempt).await;
                return result.unwrap_or_else(|ended| self.failed(ended));
            }
            Some(policy) => policy.run_once(self.attempt(event, id, trace)).await,
        };
        result.unwrap_or_else(|last| {
            self.failed(Ended {
                last,
                is_early: false,
            })
        })
    }

    async fn attempt(
        &self,
        event: Event,
        id: &str,
        trace: &HeaderMap,
    ) -> Result<Verdict, Retriable> {
        let answer = self.sink.deliver(event, trace).await;
        for (level, line) in lines(&answer, id, &self.subscription.topic) {
            if level == Level::ERROR {
                error!("{line}");
            } else {
                warn!("{line}");
            }
        }
        match answer {
            // There is nobody any more who could take it a second time, and it was not refused: it is not given up.
            Err(error) if self.is_stream() => Ok(Verdict::GivenUp(error.to_string())),
            answer => judge(answer?),
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self.sink, Sink::Stream(_))
    }

    /// What becomes of a message whose delivery failed.
    fn failed(&self, ended: Ended<Retriable>) -> Verdict {
        if !matches!(ended.last, Failed::Operation(_)) {
            // An attempt that was answered has said so already.
            warn!(
                "encountered a retriable error while publishing a subscribed message to topic {}, err: {}",
                self.subscription.topic,
                reason(&ended.last)
            );
        }
        failed(ended)
    }

    /// Acknowledges a message or not; a dead letter topic takes what was given up.
    pub(super) async fn conclude(
        &self,
        verdict: Verdict,
        message: &Message,
    ) -> Result<(), NotProcessed> {
        match verdict {
            Verdict::Done | Verdict::Ignored => Ok(()),
            Verdict::Dropped => match &self.subscription.dead_letter_topic {
                None => Ok(()),
                Some(topic) => self.dead_letter(topic, message).await,
            },
            Verdict::Failed(reason) => match &self.subscription.dead_letter_topic {
                None => Err(NotProcessed(reason)),
                Some(topic) => self.dead_letter(topic, message).await,
            },
            Verdict::GivenUp(reason) => Err(NotProcessed(reason)),
        }
    }

    /// Publishes a message to the dead letter topic as it came.
    async fn dead_letter(&self, topic: &str, message: &Message) -> Result<(), NotProcessed> {
        let failed = |reason: String| {
            error!(
                "failed to send message to dead letter topic {topic} of pubsub {}: {reason}",
                self.component.name
            );
            NotProcessed(reason)
        };
        if !self.component.scopes.may_publish(topic) {
            return Err(failed(format!(
                "topic {topic} is not allowed for app id {}",
                self.services.app_id
            )));
        }
        let request = PublishRequest {
            topic: topic.to_owned(),
            data: message.data.clone(),
            content_type: message.content_type.clone(),
            metadata: message.metadata.clone(),
        };
        let send = self.component.send(request, &self.services.resiliency);
        match tokio::time::timeout(DEAD_LETTER_TIMEOUT, send).await {
            Ok(result) => result.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }
}

/// What becomes of a message whose delivery failed.
pub(super) fn failed(ended: Ended<Retriable>) -> Verdict {
    let text = reason(&ended.last);
    if ended.is_early {
        Verdict::GivenUp(text)
    } else {
        Verdict::Failed(text)
    }
}

/// What a failed delivery reads as.
fn reason(failed: &Failed<Retriable>) -> String {
    match failed {
        Failed::Operation(retriable) => retriable.reason.clone(),
        Failed::Timeout => "context deadline exceeded".to_owned(),
        Failed::Rejected(rejected) => rejected.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_what_came_of_an_attempt() {
        let check = |answer: Result<EventOutcome, app::Error>, expected: &[(Level, &str)]| {
            let lines = lines(&answer, "7", "orders");
            let lines: Vec<_> = lines
                .iter()
                .map(|(level, line)| (*level, &**line))
                .collect();
            assert_eq!(lines, expected);
        };
        let retry = |reason: &str, code| {
            Ok(EventOutcome::Retry {
                reason: reason.to_owned(),
                code,
            })
        };
        let (warn, error) = (Level::WARN, Level::ERROR);
        check(Ok(EventOutcome::Success), &[]);
        check(
            Ok(EventOutcome::Drop),
            &[(
                warn,
                "DROP status returned from app while processing pub/sub event 7",
            )],
        );
        check(
            Ok(EventOutcome::Rejected(
                "gone. status code returned: 404".to_owned(),
            )),
            &[(
                error,
                "non-retriable error returned from app while processing pub/sub event 7: gone. status code returned: 404",
            )],
        );
        let status = "retriable error returned from app while processing pub/sub event 7, topic: orders, body: no. status code returned: 500";
        let both = format!(
            "encountered a retriable error while publishing a subscribed message to topic orders, err: {status}"
        );
        check(
            retry("no. status code returned: 500", Some(500)),
            &[(warn, status), (warn, &both)],
        );
        check(
            retry("RETRY status returned from app", None),
            &[(
                warn,
                "encountered a retriable error while publishing a subscribed message to topic orders, err: <nil>",
            )],
        );
        check(
            Err(app::Error::Unhealthy),
            &[(
                warn,
                "encountered a retriable error while publishing a subscribed message to topic orders, err: app is not in a healthy state",
            )],
        );
    }
}

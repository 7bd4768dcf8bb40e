//! Streaming subscriptions: events go out, the application's answers come back on the same stream.
//!
//! There is no task: the stream itself reads answers while it waits for events, and dropping it stops the
//! subscription and fails what is in flight.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use dapr_proto::dapr::proto::runtime::v1::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as RequestType;
use dapr_proto::dapr::proto::runtime::v1::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as ResponseType;
use dapr_proto::dapr::proto::runtime::v1::{
    SubscribeTopicEventsRequestAlpha1, SubscribeTopicEventsRequestInitialAlpha1,
    SubscribeTopicEventsRequestProcessedAlpha1, SubscribeTopicEventsResponseAlpha1,
    SubscribeTopicEventsResponseInitialAlpha1,
};
use dapr_sidecar_core::app::{self, Event, EventOutcome};
use dapr_sidecar_core::pubsub::{EventSink, Rule, Source, StreamGuard, Subscription};
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use crate::services::Core;
use crate::{error, wire};

/// Events under way to the connection; the component's own limits bound what waits behind.
const CHANNEL: usize = 16;

type Answers = Mutex<HashMap<String, Vec<oneshot::Sender<EventOutcome>>>>;

/// Takes events for one stream.
struct Sink {
    events: mpsc::Sender<SubscribeTopicEventsResponseAlpha1>,
    answers: Arc<Answers>,
}

#[async_trait]
impl EventSink for Sink {
    async fn deliver(&self, mut event: Event) -> Result<EventOutcome, app::Error> {
        "/".clone_into(&mut event.path);
        let message = wire::topic_event(event);
        let id = message.id.clone();
        let (answered, answer) = oneshot::channel();
        let waiting = Waiting::new(&self.answers, id, answered);
        // Locals drop in reverse order, and the receiver has to go first.
        let answer = answer;
        let gone = || app::Error::Transport("stream subscription is closed".to_owned());
        self.events
            .send(response(ResponseType::EventMessage(message)))
            .await
            .map_err(|_| gone())?;
        let outcome = answer.await.map_err(|_| gone());
        drop(waiting);
        outcome
    }
}

/// An event that waits for its answer; also one whose deliverer gives up is taken out again.
struct Waiting<'a> {
    answers: &'a Answers,
    id: String,
}

impl<'a> Waiting<'a> {
    fn new(answers: &'a Answers, id: String, answered: oneshot::Sender<EventOutcome>) -> Self {
        answers.lock().entry(id.clone()).or_default().push(answered);
        Self { answers, id }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut answers = self.answers.lock();
        if let Some(waiting) = answers.get_mut(&self.id) {
            // The receiver is gone by now or its answer came: either way its sender is closed.
            waiting.retain(|waiting| !waiting.is_closed());
            if waiting.is_empty() {
                answers.remove(&self.id);
            }
        }
    }
}

fn response(kind: ResponseType) -> SubscribeTopicEventsResponseAlpha1 {
    SubscribeTopicEventsResponseAlpha1 {
        subscribe_topic_events_response_type: Some(kind),
    }
}

/// The stream of one subscription.
pub(crate) struct Subscribed {
    /// Goes out first: no event overtakes it, and no end.
    greeting: Option<SubscribeTopicEventsResponseAlpha1>,
    requests: Streaming<SubscribeTopicEventsRequestAlpha1>,
    events: mpsc::Receiver<SubscribeTopicEventsResponseAlpha1>,
    answers: Arc<Answers>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    _guard: StreamGuard,
}

pub(super) async fn subscribe(
    core: &Core,
    mut requests: Streaming<SubscribeTopicEventsRequestAlpha1>,
) -> Result<Subscribed, Status> {
    let initial = initial(&mut requests).await?;
    let pubsub = initial.pubsub_name.clone();
    let subscription = Subscription {
        pubsub_name: initial.pubsub_name,
        topic: initial.topic,
        rules: vec![Rule {
            matches: String::new(),
            path: "/".to_owned(),
        }],
        dead_letter_topic: initial.dead_letter_topic.filter(|topic| !topic.is_empty()),
        metadata: initial.metadata.into_iter().collect(),
        bulk: None,
        source: Source::Streaming,
    };
    let (sender, events) = mpsc::channel(CHANNEL);
    let answers = Arc::<Answers>::default();
    let greeting = ResponseType::InitialResponse(SubscribeTopicEventsResponseInitialAlpha1 {});
    let sink = Sink {
        events: sender,
        answers: Arc::clone(&answers),
    };
    let guard = core
        .pubsubs
        .subscribe_stream(subscription, Arc::new(sink))
        .await
        .map_err(|error| wire::to_tonic(error::subscribe(&error, &pubsub)))?;
    Ok(Subscribed {
        greeting: Some(response(greeting)),
        requests,
        events,
        answers,
        stopping: Box::pin(core.stopping.clone().cancelled_owned()),
        _guard: guard,
    })
}

async fn initial(
    requests: &mut Streaming<SubscribeTopicEventsRequestAlpha1>,
) -> Result<SubscribeTopicEventsRequestInitialAlpha1, Status> {
    let first = requests.message().await?.ok_or_else(end_of_stream)?;
    let Some(RequestType::InitialRequest(initial)) = first.subscribe_topic_events_request_type
    else {
        return Err(Status::unknown("initial request is required"));
    };
    if initial.pubsub_name.is_empty() {
        return Err(Status::unknown("pubsubName is required"));
    }
    if initial.topic.is_empty() {
        return Err(Status::unknown("topic is required"));
    }
    Ok(initial)
}

/// How a stream ends whose caller will say nothing more, so that it takes nothing more either.
fn end_of_stream() -> Status {
    Status::unknown("EOF")
}

impl Subscribed {
    fn answered(&self, processed: SubscribeTopicEventsRequestProcessedAlpha1) {
        let outcome = wire::event_outcome(processed.status.unwrap_or_default().status);
        let waiting = {
            let mut answers = self.answers.lock();
            let waiting = answers.get_mut(&processed.id).and_then(Vec::pop);
            if answers.get(&processed.id).is_some_and(Vec::is_empty) {
                answers.remove(&processed.id);
            }
            waiting
        };
        match waiting {
            // The deliverer may have given up meanwhile; then nobody needs the answer.
            Some(waiting) => drop(waiting.send(outcome)),
            None => tracing::warn!(id = processed.id, "no event waits for this answer"),
        }
    }

    fn is_idle(&self) -> bool {
        let answers = self.answers.lock();
        let mut waiting = answers.values().flatten();
        waiting.all(oneshot::Sender::is_closed)
    }

    /// Reads answers until there are none; `Err` ends the stream.
    fn read_answers(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while let Poll::Ready(next) = self.requests.poll_next_unpin(cx) {
            let request = next.ok_or_else(end_of_stream)??;
            match request.subscribe_topic_events_request_type {
                Some(RequestType::EventProcessed(processed)) => self.answered(processed),
                Some(RequestType::InitialRequest(_)) | None => {
                    return Err(Status::unknown("duplicate initial request received"));
                }
            }
        }
        Ok(())
    }
}

impl Stream for Subscribed {
    type Item = Result<SubscribeTopicEventsResponseAlpha1, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(greeting) = self.greeting.take() {
            return Poll::Ready(Some(Ok(greeting)));
        }
        if let Err(end) = self.read_answers(cx) {
            self.answers.lock().clear();
            return Poll::Ready(Some(Err(end)));
        }
        if let Poll::Ready(event) = self.events.poll_recv(cx) {
            return Poll::Ready(event.map(Ok));
        }
        // Answers wake the stream, so it sees the last one.
        let stopping = Future::poll(self.stopping.as_mut(), cx).is_ready();
        if stopping && self.is_idle() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.answers.lock().clear();
    }
}

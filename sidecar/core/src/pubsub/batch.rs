//! Bulk subscriptions: messages are collected and delivered in one call per path.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dapr_components_core::pubsub::{Feature, Handler, Message, NotProcessed};
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::delivery::{Consumer, Retriable, Sink, Verdict, failed, judge};
use super::subscription::BulkSubscribe;
use crate::app::{self, AppChannel, BulkEvent, BulkEventEntry, BulkOutcome, EventOutcome};
use crate::resiliency::{Class, Classify, Ended, Failed};

/// Most messages in one call, unless given.
const DEFAULT_MAX_MESSAGES: u32 = 100;
/// Longest wait in milliseconds, unless given.
const DEFAULT_MAX_AWAIT: u32 = 1000;

/// A message waiting for its batch.
struct Queued {
    message: Message,
    reply: oneshot::Sender<Result<(), NotProcessed>>,
}

/// Hands messages to the collector and waits for what becomes of them.
pub(super) struct Batcher {
    queue: mpsc::Sender<Queued>,
    consumer: Arc<Consumer>,
}

#[async_trait]
impl Handler for Batcher {
    async fn handle(&self, message: Message) -> Result<(), NotProcessed> {
        let stopping = || NotProcessed("subscription is stopping".to_owned());
        if self.consumer.stopping.is_cancelled() {
            return Err(stopping());
        }
        let (reply, answer) = oneshot::channel();
        let queued = Queued { message, reply };
        self.queue.send(queued).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// A handler for `consumer` that collects messages, and the task that does so until the handler is dropped.
pub(super) fn batcher(
    consumer: Arc<Consumer>,
    settings: BulkSubscribe,
) -> (Batcher, impl Future<Output = ()> + Send + 'static) {
    let or_default = |given: u32, default: u32| if given == 0 { default } else { given };
    let max = or_default(settings.max_messages_count, DEFAULT_MAX_MESSAGES);
    let wait = or_default(settings.max_await_duration_ms, DEFAULT_MAX_AWAIT);
    let limits = Limits {
        max: usize::try_from(max).unwrap_or(usize::MAX),
        wait: if consumer.component.has(Feature::BulkSubscribeImmediate) {
            Duration::ZERO
        } else {
            Duration::from_millis(wait.into())
        },
    };
    // One batch waits while another is delivered.
    let (queue, queued) = mpsc::channel(limits.max);
    let batcher = Batcher {
        queue,
        consumer: Arc::clone(&consumer),
    };
    (batcher, collect(consumer, queued, limits))
}

/// When a batch is complete.
#[derive(Clone, Copy)]
struct Limits {
    max: usize,
    /// Zero takes what is queued at once.
    wait: Duration,
}

async fn collect(consumer: Arc<Consumer>, mut queued: mpsc::Receiver<Queued>, limits: Limits) {
    loop {
        let first = tokio::select! {
            first = queued.recv() => first,
            // What is queued already is still delivered.
            () = consumer.stopping.cancelled() => queued.try_recv().ok(),
        };
        let Some(first) = first else {
            return;
        };
        let mut batch = vec![first];
        let deadline = tokio::time::Instant::now() + limits.wait;
        while batch.len() < limits.max {
            let next = if limits.wait.is_zero() {
                queued.try_recv().ok()
            } else {
                let next = tokio::time::timeout_at(deadline, queued.recv()).await;
                next.ok().flatten()
            };
            match next {
                Some(next) => batch.push(next),
                None => break,
            }
        }
        process(&consumer, batch).await;
    }
}

/// Delivers a batch and answers every message in it.
async fn process(consumer: &Consumer, batch: Vec<Queued>) {
    let mut verdicts: Vec<Option<Verdict>> = vec![None; batch.len()];
    let mut calls: BTreeMap<String, Vec<(usize, BulkEventEntry)>> = BTreeMap::new();
    for (index, queued) in batch.iter().enumerate() {
        match consumer.prepare(&queued.message) {
            Ok((incoming, path)) => {
                let is_raw = incoming.raw.is_some();
                let entry = BulkEventEntry {
                    entry_id: uuid::Uuid::new_v4().to_string(),
                    cloud_event: incoming.event,
                    body: incoming.raw.unwrap_or(incoming.body),
                    is_raw,
                    content_type: queued.message.content_type.clone().unwrap_or_default(),
                    metadata: Some(queued.message.metadata.clone())
                        .filter(|metadata| !metadata.is_empty()),
                };
                calls.entry(path).or_default().push((index, entry));
            }
            Err(verdict) => verdicts[index] = Some(verdict),
        }
    }
    for (path, entries) in calls {
        for (index, verdict) in deliver(consumer, &path, entries).await {
            verdicts[index] = Some(verdict);
        }
    }
    let conclusions = batch
        .into_iter()
        .zip(verdicts)
        .map(|(queued, verdict)| async move {
            let verdict = verdict.unwrap_or_else(|| Verdict::Failed("not delivered".to_owned()));
            let result = consumer.conclude(verdict, &queued.message).await;
            // The component has stopped waiting when its side is gone.
            drop(queued.reply.send(result));
        });
    futures::future::join_all(conclusions).await;
}

/// Entries not settled yet, and the verdicts of the others.
struct Progress {
    pending: Vec<(usize, BulkEventEntry)>,
    settled: Vec<(usize, Verdict)>,
}

/// An attempt that left entries to be delivered again.
struct Unsettled(Retriable);

impl Classify for Unsettled {
    fn class(&self) -> Class {
        self.0.class()
    }
}

/// Delivers the entries of one path under the inbound policies; only those that failed are tried again.
async fn deliver(
    consumer: &Consumer,
    path: &str,
    entries: Vec<(usize, BulkEventEntry)>,
) -> Vec<(usize, Verdict)> {
    let Sink::App(app) = &consumer.sink else {
        // Streams take events one by one; they are never subscribed in bulk.
        return Vec::new();
    };
    let progress = Mutex::new(Progress {
        pending: entries,
        settled: Vec::new(),
    });
    let attempt = || attempt(consumer, &**app, path, &progress);
    let outcome = match consumer
        .services
        .resiliency
        .policy(consumer.component.inbound())
    {
        None => attempt().await.map_err(|unsettled| Ended {
            last: Failed::Operation(unsettled),
            is_early: false,
        }),
        Some(policy) => policy.run_until(&consumer.giving_up, attempt).await,
    };
    let Progress {
        pending,
        mut settled,
    } = progress.into_inner();
    if let Err(Ended { last, is_early }) = outcome {
        let last = match last {
            Failed::Operation(Unsettled(retriable)) => Failed::Operation(retriable),
            Failed::Timeout => Failed::Timeout,
            Failed::Rejected(rejected) => Failed::Rejected(rejected),
        };
        let verdict = failed(Ended { last, is_early });
        if let Verdict::Failed(reason) | Verdict::GivenUp(reason) = &verdict {
            warn!(
                "encountered a retriable error while publishing a subscribed message to topic {}, err: {reason}",
                consumer.subscription.topic
            );
        }
        let failed = pending
            .into_iter()
            .map(|(index, _)| (index, verdict.clone()));
        settled.extend(failed);
    }
    settled
}

async fn attempt(
    consumer: &Consumer,
    app: &dyn AppChannel,
    path: &str,
    progress: &Mutex<Progress>,
) -> Result<(), Unsettled> {
    let pending = progress.lock().pending.clone();
    let name = consumer.component.name.clone();
    let events = BulkEvent {
        id: uuid::Uuid::new_v4().to_string(),
        path: path.to_owned(),
        pubsub_name: name.clone(),
        topic: consumer.subscription.topic.clone(),
        metadata: BTreeMap::from([("pubsubName".to_owned(), name)]),
        entries: pending.iter().map(|(_, entry)| entry.clone()).collect(),
    };
    let started = Instant::now();
    let answer = app.deliver_bulk(events, &HeaderMap::new()).await;
    if let Ok(BulkOutcome::All(EventOutcome::Ignored(reason))) = &answer {
        error!(
            "non-retriable error returned from app while processing bulk pub/sub event. {reason}"
        );
    }
    let mut progress = progress.lock();
    let retriable = settle(&mut progress, answer, pending);
    let mut statuses: Vec<_> = progress
        .settled
        .iter()
        .map(|(_, verdict)| verdict.process_status())
        .chain(
            retriable
                .as_ref()
                .map(|_| crate::metrics::ProcessStatus::Retry),
        )
        .collect();
    statuses.sort_unstable();
    statuses.dedup();
    consumer.services.metrics.delivered_bulk(
        &consumer.component.name,
        &consumer.subscription.topic,
        &statuses,
        started.elapsed(),
    );
    retriable.map_or(Ok(()), |retriable| Err(Unsettled(retriable)))
}

/// Sorts entries by what the application said; gives why some are left, if some are.
fn settle(
    progress: &mut Progress,
    answer: Result<BulkOutcome, app::Error>,
    entries: Vec<(usize, BulkEventEntry)>,
) -> Option<Retriable> {
    let mut retriable = None;
    let mut outcomes = match answer {
        Ok(BulkOutcome::Entries(outcomes)) => Ok(outcomes.into_iter().collect::<BTreeMap<_, _>>()),
        Ok(BulkOutcome::All(outcome)) => Err(judge(outcome)),
        Err(error) => Err(Err(error.into())),
    };
    progress.pending.clear();
    for (index, entry) in entries {
        let judged = match &mut outcomes {
            Err(all) => all.clone(),
            Ok(outcomes) => judge(outcomes.remove(&entry.entry_id).unwrap_or_else(missing)),
        };
        match judged {
            Ok(verdict) => progress.settled.push((index, verdict)),
            Err(reason) => {
                retriable = Some(reason);
                progress.pending.push((index, entry));
            }
        }
    }
    retriable
}

/// The outcome of an entry the application said nothing about.
fn missing() -> EventOutcome {
    EventOutcome::Retry {
        reason: "no status returned for the entry".to_owned(),
        code: None,
    }
}

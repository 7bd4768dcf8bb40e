//! Pub/sub.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dapr_components_core::pubsub::{
    Feature, Handler, Message, NotProcessed, PubSub, PublishRequest as ComponentRequest,
    SubscribeRequest, Subscription as ComponentSubscription,
};
use dapr_components_core::{Error as ComponentError, ErrorKind};
use dapr_sidecar_core::app::{self, AppChannel, Event, EventOutcome};
use dapr_sidecar_core::metrics::Off;
use dapr_sidecar_core::pubsub::{
    BulkEntry, BulkPublishError, BulkSubscribe, EventSink, PubSubs, PublishRequest, Rule, Source,
    SubscribeError, Subscription, TopicNames,
};
use dapr_sidecar_core::resiliency::{Resiliency, Resource};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;

use crate::fakes::{Listener, bus, metadata};

/// Longest any of these tests waits for something to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

fn pubsubs(policies: serde_json::Value) -> Arc<PubSubs> {
    let resource = Resource {
        name: "r".to_owned(),
        spec: serde_json::from_value(policies).expect("a specification"),
        ..Resource::default()
    };
    let resiliency = Arc::new(Resiliency::new("app", vec![resource], Arc::new(Off)));
    Arc::new(PubSubs::new("app", Some("ns"), resiliency, Arc::new(Off)))
}

fn subscription(topic: &str, rules: &[(&str, &str)]) -> Subscription {
    Subscription {
        pubsub_name: "bus".to_owned(),
        topic: topic.to_owned(),
        rules: rules
            .iter()
            .map(|(matches, path)| Rule {
                matches: (*matches).to_owned(),
                path: (*path).to_owned(),
            })
            .collect(),
        dead_letter_topic: None,
        metadata: BTreeMap::new(),
        bulk: None,
        source: Source::Declarative,
    }
}

fn message(topic: &str, data: &str) -> PublishRequest {
    PublishRequest {
        pubsub: "bus".to_owned(),
        topic: topic.to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        content_type: Some("application/json".to_owned()),
        ..PublishRequest::default()
    }
}

async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(PATIENCE, receiver.recv())
        .await
        .expect("in time")
        .expect("the other side is there")
}

fn retry() -> EventOutcome {
    EventOutcome::Retry {
        reason: "not now".to_owned(),
        code: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_reaches_the_matching_route() {
    let pubsubs = pubsubs(json!({}));
    pubsubs.add_with(&metadata("bus", &[]), bus(), TopicNames::NamespacePrefixed);
    let (app, mut heard) = Listener::new([]);
    let rules = [("event.data.n > 5", "/large"), ("", "/small")];
    pubsubs
        .start(vec![subscription("orders", &rules)], app)
        .await;
    assert_eq!(pubsubs.subscriptions().len(), 1);
    for (data, path) in [("{\"n\":6}", "/large"), ("{\"n\":5}", "/small")] {
        pubsubs
            .publish(message("orders", data))
            .await
            .expect("published");
        let event = next(&mut heard.events).await;
        assert_eq!(
            (event.path.as_str(), event.topic.as_str()),
            (path, "orders")
        );
        assert_eq!(event.content_type, "application/cloudevents+json");
        assert_eq!(
            event.metadata.get("pubsubName").map(String::as_str),
            Some("bus")
        );
        assert_eq!(event.cloud_event["source"], "app");
        let body: serde_json::Value = serde_json::from_slice(&event.body).expect("json");
        assert_eq!(body["data"]["n"], if path == "/large" { 6 } else { 5 });
    }
    pubsubs.stop().await;
    assert!(pubsubs.subscriptions().is_empty());
    pubsubs
        .publish(message("orders", "1"))
        .await
        .expect("published");
    assert!(heard.events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn publishing_is_checked_in_order() {
    let pubsubs = pubsubs(json!({}));
    pubsubs.add(&metadata("bus", &[("allowedTopics", "a")]), bus());
    let check = async |request: PublishRequest, expected: &str| {
        let error = pubsubs.publish(request).await.expect_err("refused");
        assert_eq!(error.to_string(), expected);
    };
    let mut request = message("", "x");
    request.pubsub.clear();
    check(request.clone(), "pubsub name is empty").await;
    request.pubsub = "other".to_owned();
    check(request.clone(), "pubsub other is not found").await;
    request.pubsub = "bus".to_owned();
    check(request.clone(), "topic is empty in pubsub bus").await;
    request.topic = "b".to_owned();
    request
        .metadata
        .insert("rawPayload".to_owned(), "maybe".to_owned());
    check(
        request.clone(),
        "failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is 'maybe'",
    )
    .await;
    request.metadata.clear();
    request.content_type = Some("application/cloudevents+json".to_owned());
    check(request.clone(), "cannot create cloudevent").await;
    request.content_type = None;
    check(request, "topic b is not allowed for app id app").await;
    pubsubs.publish(message("a", "x")).await.expect("allowed");
}

#[tokio::test(start_paused = true)]
async fn dropped_and_failed_messages_go_to_the_dead_letter_topic() {
    let pubsubs = pubsubs(json!({}));
    pubsubs.add(&metadata("bus", &[]), bus());
    for outcome in [EventOutcome::Drop, retry()] {
        let (app, mut heard) = Listener::new([outcome]);
        let mut first = subscription("orders", &[("", "/orders")]);
        first.dead_letter_topic = Some("dead".to_owned());
        let second = subscription("dead", &[("", "/dead")]);
        pubsubs.start(vec![first, second], app).await;
        pubsubs
            .publish(message("orders", "1"))
            .await
            .expect("published");
        let event = next(&mut heard.events).await;
        let dead = next(&mut heard.events).await;
        assert_eq!(
            (event.path.as_str(), dead.path.as_str()),
            ("/orders", "/dead")
        );
        assert_eq!(dead.body, event.body);
        assert_eq!(
            (dead.topic.as_str(), &dead.cloud_event["topic"]),
            ("dead", &json!("orders"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn unroutable_and_unreadable_messages_go_to_the_dead_letter_topic() {
    let pubsubs = pubsubs(json!({}));
    let bus = bus();
    pubsubs.add(&metadata("bus", &[]), Arc::clone(&bus));
    let (app, mut heard) = Listener::new([]);
    let mut orders = subscription("orders", &[("event.missing == 1", "/orders")]);
    orders.dead_letter_topic = Some("dead".to_owned());
    let mut dead = subscription("dead", &[("", "/dead")]);
    dead.metadata
        .insert("rawPayload".to_owned(), "true".to_owned());
    pubsubs.start(vec![orders, dead], app).await;
    let raw = ComponentRequest {
        topic: "orders".to_owned(),
        data: Bytes::from_static(b"no json"),
        content_type: None,
        metadata: BTreeMap::new(),
    };
    bus.publish(raw).await.expect("published");
    let event = next(&mut heard.events).await;
    assert_eq!(
        (event.path.as_str(), &event.cloud_event["data_base64"]),
        ("/dead", &json!("bm8ganNvbg=="))
    );
    pubsubs
        .publish(message("orders", "1"))
        .await
        .expect("published");
    assert_eq!(next(&mut heard.events).await.path, "/dead");
}

#[tokio::test(start_paused = true)]
async fn inbound_policies_retry_deliveries() {
    let pubsubs = pubsubs(json!({
        "policies": {"retries": {"r": {"duration": "1s", "maxRetries": 3}}},
        "targets": {"components": {"bus": {"inbound": {"retry": "r"}}}}
    }));
    pubsubs.add(&metadata("bus", &[]), bus());
    let (app, mut heard) = Listener::new([retry(), retry()]);
    pubsubs
        .start(vec![subscription("orders", &[("", "/o")])], app)
        .await;
    pubsubs
        .publish(message("orders", "1"))
        .await
        .expect("published");
    for _ in 0..3 {
        assert_eq!(next(&mut heard.events).await.path, "/o");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(heard.events.try_recv().is_err());
}

/// Hands out messages side by side, as most brokers do.
#[derive(Default)]
struct Parallel(Mutex<Vec<(String, Arc<dyn Handler>)>>);

#[async_trait]
impl PubSub for Parallel {
    fn features(&self) -> &[Feature] {
        &[]
    }

    async fn publish(&self, request: ComponentRequest) -> Result<(), ComponentError> {
        for (topic, handler) in self.0.lock().iter() {
            if *topic == request.topic {
                let message = Message {
                    topic: topic.clone(),
                    data: request.data.clone(),
                    content_type: None,
                    metadata: BTreeMap::new(),
                };
                let handler = Arc::clone(handler);
                tokio::spawn(async move { handler.handle(message).await });
            }
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn ComponentSubscription>, ComponentError> {
        self.0.lock().push((request.topic, handler));
        Ok(Box::new(Nothing))
    }
}

#[tokio::test(start_paused = true)]
async fn batches_are_collected_and_answered_by_entry() {
    let pubsubs = pubsubs(json!({
        "policies": {"retries": {"r": {"duration": "1s", "maxRetries": 3}}},
        "targets": {"components": {"bus": {"inbound": {"retry": "r"}}}}
    }));
    pubsubs.add(&metadata("bus", &[]), Arc::new(Parallel::default()));
    let (app, mut heard) = Listener::new([EventOutcome::Success, retry(), EventOutcome::Drop]);
    let mut orders = subscription("orders", &[("", "/bulk")]);
    orders.bulk = Some(BulkSubscribe {
        max_messages_count: 3,
        max_await_duration_ms: 1000,
    });
    orders.dead_letter_topic = Some("dead".to_owned());
    let dead = subscription("dead", &[("", "/dead")]);
    pubsubs.start(vec![orders, dead], app).await;
    let publishes = (0..3).map(|n| pubsubs.publish(message("orders", &n.to_string())));
    for result in futures::future::join_all(publishes).await {
        result.expect("published");
    }
    let batch = next(&mut heard.batches).await;
    assert_eq!((batch.path.as_str(), batch.entries.len()), ("/bulk", 3));
    assert_eq!(batch.entries[0].content_type, "");
    let again = next(&mut heard.batches).await;
    assert_eq!(again.entries.len(), 1);
    assert_eq!(again.entries[0].entry_id, batch.entries[1].entry_id);
    assert_eq!(next(&mut heard.events).await.body, batch.entries[2].body);
    pubsubs.stop().await;
}

/// Deliveries on `bus` are repeated for ever.
fn stubborn() -> serde_json::Value {
    json!({
        "policies": {"retries": {"r": {"duration": "1s"}}},
        "targets": {"components": {"bus": {"inbound": {"retry": "r"}}}}
    })
}

fn in_bulk(topic: &str) -> Subscription {
    let mut subscription = subscription(topic, &[("", "/bulk")]);
    subscription.bulk = Some(BulkSubscribe {
        max_messages_count: 1,
        max_await_duration_ms: 1,
    });
    subscription
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_given_up_gets_no_retries_and_comes_back_at_once() {
    let pubsubs = pubsubs(stubborn());
    let bus = Arc::new(Parallel::default());
    drop(pubsubs.add(&metadata("bus", &[]), bus));
    let (app, mut heard) = Listener::new(std::iter::repeat_n(retry(), 2));
    let mut orders = subscription("orders", &[("", "/o")]);
    orders.dead_letter_topic = Some("dead".to_owned());
    let wanted = vec![orders, in_bulk("bulk")];
    pubsubs.start(wanted.clone(), app.clone()).await;
    for topic in ["orders", "bulk"] {
        pubsubs.publish(message(topic, "1")).await.expect("sent");
    }
    next(&mut heard.events).await;
    next(&mut heard.batches).await;
    let (letters, mut dead) = mpsc::unbounded_channel();
    let dead_letters = subscription("dead", &[]);
    let sink = Arc::new(Sink(letters));
    let _guard = pubsubs.subscribe_stream(dead_letters, sink).await;
    pubsubs.give_up();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(heard.events.try_recv().is_err());
    assert!(heard.batches.try_recv().is_err());
    // Not all was tried that there is to try.
    assert!(dead.try_recv().is_err());
    let before = tokio::time::Instant::now();
    pubsubs.start(wanted, app).await;
    pubsubs.publish(message("orders", "2")).await.expect("sent");
    next(&mut heard.events).await;
    assert!(before.elapsed() < Duration::from_secs(1));
    pubsubs.stop().await;
}

/// Answers nothing before it is told to.
struct Slow(Arc<Listener>, tokio::sync::Semaphore);

#[async_trait]
impl AppChannel for Slow {
    fn protocol(&self) -> app::Protocol {
        self.0.protocol()
    }

    async fn invoke(
        &self,
        request: dapr_sidecar_core::invoke::Request,
    ) -> Result<dapr_sidecar_core::invoke::Response, app::Error> {
        self.0.invoke(request).await
    }

    async fn config(&self) -> Result<app::Config, app::Error> {
        self.0.config().await
    }

    async fn subscriptions(&self) -> Result<Vec<Subscription>, app::Error> {
        self.0.subscriptions().await
    }

    async fn deliver(
        &self,
        event: Event,
        trace: &http::HeaderMap,
    ) -> Result<EventOutcome, app::Error> {
        let answer = self.0.deliver(event, trace).await;
        self.1.acquire().await.expect("it is open").forget();
        answer
    }

    async fn probe(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_given_up_may_finish_and_a_new_start_does_not_wait_for_it() {
    let pubsubs = pubsubs(json!({}));
    drop(pubsubs.add(&metadata("bus", &[]), bus()));
    let (listener, mut heard) = Listener::new([]);
    let app = Arc::new(Slow(listener, tokio::sync::Semaphore::new(0)));
    let wanted = vec![subscription("orders", &[("", "/o")])];
    pubsubs.start(wanted.clone(), app.clone()).await;
    pubsubs.publish(message("orders", "1")).await.expect("sent");
    next(&mut heard.events).await;
    let before = tokio::time::Instant::now();
    pubsubs.give_up();
    pubsubs.start(wanted, app.clone()).await;
    pubsubs.publish(message("orders", "2")).await.expect("sent");
    next(&mut heard.events).await;
    assert!(before.elapsed() < Duration::from_secs(1));
    app.1.add_permits(2);
    pubsubs.stop().await;
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn retries_end_some_time_after_their_subscription() {
    let pubsubs = pubsubs(stubborn());
    let lease = pubsubs.add(&metadata("bus", &[]), bus());
    let (app, mut heard) = Listener::new(std::iter::repeat_n(retry(), 1000));
    let wanted = vec![subscription("orders", &[("", "/o")]), in_bulk("bulk")];
    pubsubs.start(wanted, app).await;
    for topic in ["orders", "bulk"] {
        pubsubs.publish(message(topic, "1")).await.expect("sent");
    }
    next(&mut heard.events).await;
    next(&mut heard.batches).await;
    drop(pubsubs.remove("bus"));
    let ended = tokio::time::timeout(Duration::from_secs(60), lease.ended()).await;
    ended.expect("nothing uses the component any more");
    while heard.events.try_recv().is_ok() {}
    while heard.batches.try_recv().is_ok() {}
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(heard.events.try_recv().is_err());
    assert!(heard.batches.try_recv().is_err());
    pubsubs.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_for_ever() {
    let pubsubs = pubsubs(stubborn());
    drop(pubsubs.add(&metadata("bus", &[]), bus()));
    let (app, mut heard) = Listener::new(std::iter::repeat_n(retry(), 1000));
    pubsubs.start(vec![in_bulk("bulk")], app).await;
    pubsubs.publish(message("bulk", "1")).await.expect("sent");
    next(&mut heard.batches).await;
    let stopped = tokio::time::timeout(Duration::from_secs(60), pubsubs.stop()).await;
    stopped.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn json_whose_texts_are_no_text_stays_json() {
    let pubsubs = pubsubs(json!({}));
    pubsubs.add(&metadata("bus", &[]), bus());
    let (app, mut heard) = Listener::new([]);
    pubsubs
        .start(vec![subscription("orders", &[("", "/o")])], app)
        .await;
    let request = PublishRequest {
        data: Bytes::from_static(b"{\"a\":\"\xff\"}"),
        ..message("orders", "")
    };
    pubsubs.publish(request).await.expect("published");
    let event = next(&mut heard.events).await;
    assert_eq!(event.cloud_event["data"], json!({"a": "\u{fffd}"}));
}

#[tokio::test(start_paused = true)]
async fn bulk_publishing() {
    let pubsubs = pubsubs(json!({}));
    pubsubs.add(&metadata("bus", &[]), bus());
    let (app, mut heard) = Listener::new([]);
    pubsubs
        .start(vec![subscription("orders", &[("", "/o")])], app)
        .await;
    let entry = |id: &str, metadata: Option<&[(&str, &str)]>| BulkEntry {
        entry_id: id.to_owned(),
        data: Bytes::from_static(b"x"),
        content_type: "text/plain".to_owned(),
        metadata: metadata.map(|own| {
            let own = own.iter();
            own.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        }),
        ..BulkEntry::default()
    };
    let request = BTreeMap::from([("cloudevent.type".to_owned(), "given".to_owned())]);
    let entries = vec![
        entry("1", None),
        entry("2", Some(&[("a", "b")])),
        entry("3", Some(&[])),
    ];
    pubsubs
        .publish_bulk("bus", "orders", entries, request)
        .await
        .expect("published");
    let mut types: Vec<String> = Vec::new();
    for _ in 0..3 {
        let event = next(&mut heard.events).await;
        types.push(
            event.cloud_event["type"]
                .as_str()
                .expect("a text")
                .to_owned(),
        );
    }
    types.sort();
    assert_eq!(types, ["com.dapr.event.sent", "given", "given"]);
    for ids in [["1", "1"], ["", "2"]] {
        let entries = ids.map(|id| entry(id, None)).to_vec();
        let error = pubsubs
            .publish_bulk("bus", "orders", entries, BTreeMap::new())
            .await
            .expect_err("ids");
        assert!(
            matches!(error, BulkPublishError::EntryIds { .. }),
            "{error:?}"
        );
    }
}

/// Fails to publish what says so, a few times; refuses to subscribe a few times.
#[derive(Default)]
struct Flaky {
    failures: Mutex<u32>,
    refusals: Mutex<u32>,
    published: Mutex<Vec<Bytes>>,
}

fn count_down(counter: &Mutex<u32>) -> bool {
    let mut left = counter.lock();
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}

struct Nothing;

#[async_trait]
impl ComponentSubscription for Nothing {
    async fn close(self: Box<Self>) {}
}

#[async_trait]
impl PubSub for Flaky {
    fn features(&self) -> &[Feature] {
        &[]
    }

    async fn publish(&self, request: ComponentRequest) -> Result<(), ComponentError> {
        let fails = request.data.windows(4).any(|window| window == b"fail");
        if fails && count_down(&self.failures) {
            return Err(ComponentError::new(
                ErrorKind::Unavailable,
                "broker is away",
            ));
        }
        self.published.lock().push(request.data);
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn ComponentSubscription>, ComponentError> {
        if count_down(&self.refusals) {
            return Err(ComponentError::new(ErrorKind::Unavailable, "not yet"));
        }
        let message = Message {
            topic: request.topic,
            data: Bytes::from_static(b"{\"id\":\"1\"}"),
            content_type: None,
            metadata: BTreeMap::new(),
        };
        let result: Result<(), NotProcessed> = handler.handle(message).await;
        result.map_err(|error| ComponentError::new(ErrorKind::Internal, error.to_string()))?;
        Ok(Box::new(Nothing))
    }
}

#[tokio::test(start_paused = true)]
async fn only_failed_entries_are_published_again() {
    let pubsubs = pubsubs(json!({
        "policies": {"retries": {"r": {"duration": "1s", "maxRetries": 2}}},
        "targets": {"components": {"bus": {"outbound": {"retry": "r"}}}}
    }));
    let flaky = Arc::new(Flaky::default());
    pubsubs.add(&metadata("bus", &[]), Arc::clone(&flaky) as _);
    let entries = || {
        ["good", "fail"].map(|data| BulkEntry {
            entry_id: data.to_owned(),
            data: Bytes::copy_from_slice(data.as_bytes()),
            ..BulkEntry::default()
        })
    };
    *flaky.failures.lock() = 2;
    pubsubs
        .publish_bulk("bus", "t", entries().to_vec(), BTreeMap::new())
        .await
        .expect("in the end");
    assert_eq!(flaky.published.lock().len(), 2);
    *flaky.failures.lock() = 9;
    let error = pubsubs
        .publish_bulk("bus", "t", entries().to_vec(), BTreeMap::new())
        .await
        .expect_err("away");
    let BulkPublishError::Entries { failed, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*failed, [("fail".to_owned(), "broker is away".to_owned())]);
    assert_eq!(
        error.to_string(),
        "error when publishing to topic t in pubsub bus: broker is away"
    );
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_retried_and_survive_reloads() {
    let pubsubs = pubsubs(json!({}));
    let (app, mut heard) = Listener::new([]);
    pubsubs
        .start(vec![subscription("orders", &[("", "/o")])], app)
        .await;
    let flaky = Arc::new(Flaky::default());
    *flaky.refusals.lock() = 3;
    pubsubs.add(&metadata("bus", &[]), flaky);
    assert_eq!(next(&mut heard.events).await.path, "/o");
    pubsubs.add(&metadata("bus", &[]), Arc::new(Flaky::default()));
    assert_eq!(next(&mut heard.events).await.path, "/o");
    assert!(pubsubs.remove("bus").is_some());
    assert!(!pubsubs.contains("bus"));
    pubsubs.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_subscribed_after_the_end() {
    let pubsubs = pubsubs(json!({}));
    drop(pubsubs.add(&metadata("bus", &[]), bus()));
    let (app, mut heard) = Listener::new([]);
    let wanted = vec![subscription("t", &[("", "/t")])];
    pubsubs.start(wanted.clone(), app.clone()).await;
    pubsubs.shutdown().await;
    // The application recovers, and resources change, while the end is held back.
    pubsubs.start(wanted.clone(), app.clone()).await;
    pubsubs.update(wanted, app).await;
    assert!(pubsubs.subscriptions().is_empty());
    pubsubs
        .publish(message("t", "1"))
        .await
        .expect("publishing goes on");
    tokio::task::yield_now().await;
    assert!(heard.events.try_recv().is_err());
    pubsubs.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn subscriptions_change_while_others_go_on() {
    let pubsubs = pubsubs(json!({}));
    let lease = pubsubs.add(&metadata("bus", &[]), bus());
    let (app, mut heard) = Listener::new([]);
    let (kept, gone) = (
        subscription("kept", &[("", "/kept")]),
        subscription("gone", &[("", "/gone")]),
    );
    pubsubs.start(vec![kept.clone(), gone], app.clone()).await;
    let moved = subscription("new", &[("", "/new")]);
    pubsubs.update(vec![kept.clone(), moved], app.clone()).await;
    let listed = || -> Vec<String> {
        let subscriptions = pubsubs.subscriptions().into_iter();
        subscriptions
            .map(|subscription| subscription.topic)
            .collect()
    };
    assert_eq!(listed(), ["kept", "new"]);
    // The new one begins in a task of its own.
    let mut event = None;
    while event.is_none() {
        pubsubs.publish(message("new", "{}")).await.expect("sent");
        let soon = Duration::from_millis(100);
        event = tokio::time::timeout(soon, heard.events.recv()).await.ok();
    }
    assert_eq!(event.flatten().expect("an event").path, "/new");
    while heard.events.try_recv().is_ok() {}
    for topic in ["gone", "kept"] {
        pubsubs.publish(message(topic, "{}")).await.expect("sent");
    }
    assert_eq!(next(&mut heard.events).await.path, "/kept");
    // Another route of the same topic takes over.
    let other = subscription("kept", &[("", "/other")]);
    pubsubs.update(vec![other], app.clone()).await;
    assert_eq!(listed(), ["kept"]);
    let mut path = String::new();
    while path != "/other" {
        pubsubs.publish(message("kept", "{}")).await.expect("sent");
        let soon = Duration::from_millis(100);
        if let Ok(event) = tokio::time::timeout(soon, heard.events.recv()).await {
            path = event.expect("an event").path;
        }
    }
    // While the application is down nothing starts.
    pubsubs.stop().await;
    pubsubs.update(vec![kept], app).await;
    assert!(listed().is_empty());
    drop(pubsubs.remove("bus"));
    lease.ended().await;
}

#[tokio::test(start_paused = true)]
async fn subscriptions_out_of_scope_receive_nothing() {
    let pubsubs = pubsubs(json!({}));
    pubsubs.add(
        &metadata("bus", &[("subscriptionScopes", "app=")]),
        Arc::new(Flaky::default()),
    );
    let (app, mut heard) = Listener::new([]);
    pubsubs
        .start(vec![subscription("orders", &[("", "/o")])], app)
        .await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(heard.events.try_recv().is_err());
    pubsubs.shutdown().await;
}

struct Sink(mpsc::UnboundedSender<Event>);

#[async_trait]
impl EventSink for Sink {
    async fn deliver(&self, event: Event) -> Result<EventOutcome, app::Error> {
        self.0.send(event).expect("the test listens");
        Ok(EventOutcome::Success)
    }
}

#[tokio::test(start_paused = true)]
async fn streams_receive_until_their_guard_is_dropped() {
    let pubsubs = pubsubs(json!({}));
    pubsubs.add(
        &metadata("bus", &[("subscriptionScopes", "app=orders")]),
        bus(),
    );
    let (events, mut heard) = mpsc::unbounded_channel();
    let sink: Arc<dyn EventSink> = Arc::new(Sink(events));
    let guard = pubsubs
        .subscribe_stream(subscription("orders", &[]), Arc::clone(&sink))
        .await
        .expect("subscribed");
    assert_eq!(pubsubs.subscriptions().len(), 1);
    pubsubs
        .publish(message("orders", "1"))
        .await
        .expect("published");
    assert_eq!(next(&mut heard).await.path, "/");
    // Stopping what the application subscribes to leaves streams alone.
    pubsubs.stop().await;
    pubsubs
        .publish(message("orders", "1"))
        .await
        .expect("published");
    next(&mut heard).await;
    drop(guard);
    while !pubsubs.subscriptions().is_empty() {
        tokio::task::yield_now().await;
    }
    let check = async |subscription: Subscription, expected: SubscribeError| {
        let result = pubsubs
            .subscribe_stream(subscription, Arc::clone(&sink))
            .await;
        assert_eq!(result.map(drop), Err(expected));
    };
    let mut unknown = subscription("orders", &[]);
    unknown.pubsub_name = "other".to_owned();
    check(unknown, SubscribeError::NotFound("other".to_owned())).await;
    let not_allowed = SubscribeError::NotAllowed {
        pubsub: "bus".to_owned(),
        topic: "secret".to_owned(),
    };
    check(subscription("secret", &[]), not_allowed).await;
    let guard = pubsubs
        .subscribe_stream(subscription("orders", &[]), Arc::clone(&sink))
        .await
        .expect("subscribed");
    assert!(pubsubs.remove("bus").is_some());
    guard.ended().await;
    pubsubs.shutdown().await;
    check(subscription("orders", &[]), SubscribeError::Stopped).await;
}

/// A stream whose caller leaves while it has an event.
struct Gone(mpsc::UnboundedSender<Event>);

#[async_trait]
impl EventSink for Gone {
    async fn deliver(&self, event: Event) -> Result<EventOutcome, app::Error> {
        self.0.send(event).expect("the test listens");
        Err(app::Error::Transport("stream is closed".to_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_stream_that_is_gone_is_given_back() {
    let pubsubs = pubsubs(stubborn());
    pubsubs.add(&metadata("bus", &[]), Arc::new(Parallel::default()));
    let (events, mut heard) = mpsc::unbounded_channel();
    let (letters, mut dead) = mpsc::unbounded_channel();
    let mut orders = subscription("orders", &[]);
    orders.dead_letter_topic = Some("dead".to_owned());
    let gone = pubsubs.subscribe_stream(orders, Arc::new(Gone(events)));
    let _gone = gone.await.expect("subscribed");
    let letters = pubsubs.subscribe_stream(subscription("dead", &[]), Arc::new(Sink(letters)));
    let _letters = letters.await.expect("subscribed");
    pubsubs.publish(message("orders", "1")).await.expect("sent");
    next(&mut heard).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    // It was neither refused nor is there anybody to try it with again.
    assert!(dead.try_recv().is_err());
    assert!(heard.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn raw_payloads_go_out_as_they_are() {
    let pubsubs = pubsubs(json!({}));
    let flaky = Arc::new(Flaky::default());
    pubsubs.add(&metadata("bus", &[]), Arc::clone(&flaky) as _);
    let mut request = message("t", "raw");
    request
        .metadata
        .insert("rawPayload".to_owned(), "T".to_owned());
    pubsubs.publish(request).await.expect("published");
    assert_eq!(*flaky.published.lock(), ["raw"]);
    let (app, _heard) = Listener::new([]);
    let app: Arc<dyn AppChannel> = app;
    let mut broken = subscription("orders", &[("event.", "/o")]);
    broken.source = Source::Programmatic;
    pubsubs.start(vec![broken], app).await;
    assert!(pubsubs.subscriptions().is_empty());
}

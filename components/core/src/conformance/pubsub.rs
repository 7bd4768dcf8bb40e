//! The suite of pub/sub components.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::PATIENCE;
use crate::pubsub::{
    Feature, Handler, Message, NotProcessed, PubSub, PublishRequest, SubscribeRequest, Subscription,
};

/// Runs every case the component's features select, on topics with random names.
pub async fn run(pubsub: &dyn PubSub) {
    let suite = Suite {
        pubsub,
        prefix: format!("conformance-{}", Uuid::new_v4().simple()),
    };
    publishing_needs_no_subscriber(&suite).await;
    messages_arrive_as_published(&suite).await;
    topics_are_separate(&suite).await;
    a_failing_handler_does_not_end_the_subscription(&suite).await;
    closed_subscriptions_get_nothing(&suite).await;
    if pubsub.features().contains(&Feature::SubscribeWildcards) {
        wildcards(&suite).await;
    }
}

struct Suite<'a> {
    pubsub: &'a dyn PubSub,
    prefix: String,
}

/// Room for every message of a case, so a handler never waits for the test.
const ROOM: usize = 64;

impl Suite<'_> {
    fn topic(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    async fn publish(&self, name: &str, data: &str) {
        let request = PublishRequest {
            topic: self.topic(name),
            data: Bytes::copy_from_slice(data.as_bytes()),
            content_type: Some("application/json".to_owned()),
            metadata: BTreeMap::new(),
        };
        self.pubsub
            .publish(request)
            .await
            .unwrap_or_else(|error| panic!("publish to {name}: {error}"));
    }

    async fn subscribe(&self, name: &str) -> Receiver {
        let (sender, messages) = mpsc::channel(ROOM);
        let request = SubscribeRequest {
            topic: self.topic(name),
            metadata: BTreeMap::new(),
        };
        let subscription = self
            .pubsub
            .subscribe(request, Arc::new(Recorder { sender }))
            .await;
        let subscription =
            subscription.unwrap_or_else(|error| panic!("subscribe to {name}: {error}"));
        Receiver {
            subscription,
            messages,
        }
    }
}

struct Receiver {
    subscription: Box<dyn Subscription>,
    messages: mpsc::Receiver<Message>,
}

impl Receiver {
    async fn next(&mut self) -> Message {
        let message = tokio::time::timeout(PATIENCE, self.messages.recv())
            .await
            .expect("a message arrives in time");
        message.expect("the subscription is running")
    }

    async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts
                .push(String::from_utf8(self.next().await.data.into()).expect("text as published"));
        }
        texts.sort();
        texts
    }
}

/// Hands on what it gets and fails for the text `fail`.
struct Recorder {
    sender: mpsc::Sender<Message>,
}

#[async_trait]
impl Handler for Recorder {
    async fn handle(&self, message: Message) -> Result<(), NotProcessed> {
        let fails = message.data == "fail";
        self.sender
            .send(message)
            .await
            .map_err(|_| NotProcessed("the test is over".to_owned()))?;
        if fails {
            Err(NotProcessed("asked to fail".to_owned()))
        } else {
            Ok(())
        }
    }
}

async fn publishing_needs_no_subscriber(suite: &Suite<'_>) {
    suite.publish("nobody", "1").await;
}

async fn messages_arrive_as_published(suite: &Suite<'_>) {
    let mut receiver = suite.subscribe("plain").await;
    suite.publish("plain", "{\"a\":1}").await;
    let message = receiver.next().await;
    assert_eq!(message.topic, suite.topic("plain"));
    assert_eq!(message.data, "{\"a\":1}");
    let expected: Vec<_> = (10..30).map(|n| n.to_string()).collect();
    for text in &expected {
        suite.publish("plain", text).await;
    }
    assert_eq!(
        receiver.texts(expected.len()).await,
        expected,
        "every message arrives"
    );
    receiver.subscription.close().await;
}

async fn topics_are_separate(suite: &Suite<'_>) {
    let mut one = suite.subscribe("one").await;
    let mut two = suite.subscribe("two").await;
    suite.publish("one", "1").await;
    suite.publish("two", "2").await;
    assert_eq!(one.next().await.data, "1");
    assert_eq!(two.next().await.data, "2");
    one.subscription.close().await;
    two.subscription.close().await;
}

async fn a_failing_handler_does_not_end_the_subscription(suite: &Suite<'_>) {
    let mut receiver = suite.subscribe("failing").await;
    suite.publish("failing", "fail").await;
    suite.publish("failing", "after").await;
    while receiver.next().await.data != "after" {}
    receiver.subscription.close().await;
}

async fn closed_subscriptions_get_nothing(suite: &Suite<'_>) {
    let mut receiver = suite.subscribe("closed").await;
    suite.publish("closed", "1").await;
    assert_eq!(receiver.next().await.data, "1");
    receiver.subscription.close().await;
    suite.publish("closed", "2").await;
    assert!(
        receiver.messages.recv().await.is_none(),
        "the handler is released without another message"
    );
}

async fn wildcards(suite: &Suite<'_>) {
    let mut receiver = suite.subscribe("wild/*").await;
    suite.publish("wild/a", "1").await;
    suite.publish("tame/a", "2").await;
    suite.publish("wild/b", "3").await;
    assert_eq!(
        receiver.texts(2).await,
        ["1", "3"],
        "a wildcard takes the topics it matches"
    );
    receiver.subscription.close().await;
}

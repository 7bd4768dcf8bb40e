use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dapr_components_core::pubsub::{
    Handler, Message, NotProcessed, PubSub, PublishRequest, SubscribeRequest,
};
use dapr_components_core::{Metadata, Registries, conformance};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

async fn open() -> Arc<dyn PubSub> {
    let mut registries = Registries::default();
    dapr_components_in_memory::register(&mut registries);
    let metadata = Metadata::new("bus", "pubsub.in-memory", "v1", []).expect("metadata");
    registries.pubsub.open(metadata).await.expect("open")
}

fn message(topic: &str) -> PublishRequest {
    PublishRequest {
        topic: topic.to_owned(),
        data: Bytes::from_static(b"1"),
        content_type: None,
        metadata: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
    }
}

fn to(topic: &str) -> SubscribeRequest {
    SubscribeRequest {
        topic: topic.to_owned(),
        metadata: BTreeMap::new(),
    }
}

/// A handler that waits for a permit per message.
struct Gate {
    /// One for each message that has come.
    begun: Semaphore,
    permits: Semaphore,
    done: AtomicUsize,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Semaphore::new(0),
            permits: Semaphore::new(0),
            done: AtomicUsize::new(0),
        })
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Handler for Gate {
    async fn handle(&self, _: Message) -> Result<(), NotProcessed> {
        self.begun.add_permits(1);
        self.permits.acquire().await.expect("never closed").forget();
        self.done.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct Forward(mpsc::Sender<Message>);

#[async_trait]
impl Handler for Forward {
    async fn handle(&self, message: Message) -> Result<(), NotProcessed> {
        self.0
            .send(message)
            .await
            .map_err(|error| NotProcessed(error.to_string()))
    }
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn messages_have_the_subscribed_topic_and_no_content_type() {
    let bus = open().await;
    let (sender, mut received) = mpsc::channel(1);
    let subscription = bus.subscribe(to("t*"), Arc::new(Forward(sender))).await;
    let request = PublishRequest {
        content_type: Some("application/octet-stream".to_owned()),
        ..message("t1")
    };
    bus.publish(request).await.expect("publish");
    let message = received.recv().await.expect("a message");
    assert_eq!((message.topic.as_str(), message.content_type), ("t*", None));
    assert_eq!(message.metadata["k"], "v");
    subscription.expect("subscribe").close().await;
}

#[tokio::test(start_paused = true)]
async fn conforms() {
    conformance::pubsub::run(&*open().await).await;
}

#[tokio::test(start_paused = true)]
async fn a_publisher_waits_while_an_earlier_message_is_handled() {
    let bus = open().await;
    let gate = Gate::new();
    let subscription = bus
        .subscribe(to("t"), Arc::<Gate>::clone(&gate))
        .await
        .expect("subscribe");
    bus.publish(message("t"))
        .await
        .expect("the first message is taken at once");
    let second = bus.publish(message("t"));
    tokio::pin!(second);
    assert!(
        timeout(LONG, &mut second).await.is_err(),
        "the second waits for the first handler"
    );
    gate.permits.add_permits(1);
    timeout(LONG, second)
        .await
        .expect("in time")
        .expect("publish");
    gate.permits.add_permits(1);
    subscription.close().await;
    assert_eq!(gate.done(), 2);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_the_handler_and_frees_waiting_publishers() {
    let bus = open().await;
    let gate = Gate::new();
    let subscription = bus
        .subscribe(to("t"), Arc::<Gate>::clone(&gate))
        .await
        .expect("subscribe");
    bus.publish(message("t")).await.expect("publish");
    let waiting = {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move { bus.publish(message("t")).await })
    };
    let closing = tokio::spawn(subscription.close());
    timeout(LONG, waiting)
        .await
        .expect("freed")
        .expect("no panic")
        .expect("publish");
    assert!(!closing.is_finished(), "the handler is still running");
    gate.permits.add_permits(1);
    timeout(LONG, closing)
        .await
        .expect("closed")
        .expect("no panic");
    assert_eq!(gate.done(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_given_up_ends_the_handler() {
    let bus = open().await;
    let gate = Gate::new();
    let subscription = bus
        .subscribe(to("t"), Arc::<Gate>::clone(&gate))
        .await
        .expect("subscribe");
    bus.publish(message("t")).await.expect("publish");
    let begun = timeout(LONG, gate.begun.acquire()).await;
    begun.expect("it comes").expect("never closed").forget();
    let closing = timeout(LONG, subscription.close()).await;
    assert!(closing.is_err(), "the handler waits for ever");
    let released = async {
        while Arc::strong_count(&gate) > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, released).await.expect("nobody has it");
    assert_eq!(gate.done(), 0);
}

#[tokio::test]
async fn every_subscription_gets_a_copy_with_the_metadata() {
    let bus = open().await;
    let (sender, mut messages) = mpsc::channel(4);
    let one = bus
        .subscribe(to("t*"), Arc::new(Forward(sender.clone())))
        .await
        .expect("subscribe");
    let two = bus
        .subscribe(to("topic"), Arc::new(Forward(sender)))
        .await
        .expect("subscribe");
    bus.publish(message("topic")).await.expect("publish");
    for _ in 0..2 {
        let message = messages.recv().await.expect("a copy");
        assert_eq!(
            message.metadata,
            BTreeMap::from([("k".to_owned(), "v".to_owned())])
        );
    }
    one.close().await;
    two.close().await;
    assert!(messages.recv().await.is_none(), "two copies, no more");
}

#[tokio::test]
async fn a_dropped_subscription_gets_nothing_and_ends() {
    let bus = open().await;
    let (sender, mut messages) = mpsc::channel(4);
    drop(
        bus.subscribe(to("t"), Arc::new(Forward(sender)))
            .await
            .expect("subscribe"),
    );
    bus.publish(message("t")).await.expect("publish");
    assert!(messages.recv().await.is_none());
}

#[tokio::test]
async fn a_closed_bus_refuses() {
    let bus = open().await;
    bus.close().await;
    assert_eq!(
        bus.publish(message("t"))
            .await
            .expect_err("closed")
            .to_string(),
        "component is closed"
    );
    assert!(bus.subscribe(to("t"), Gate::new()).await.is_err());
}

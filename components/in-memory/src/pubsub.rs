//! `pubsub.in-memory`: every subscription gets a copy of every message, nothing is kept.
//!
//! A subscription works on one message at a time and takes the next one only then, so a publisher waits
//! while an earlier message is still in a handler.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use dapr_components_core::pubsub::{
    Feature, Handler, Message, PubSub, PublishRequest, SubscribeRequest, Subscription,
};
use dapr_components_core::{Error, ErrorKind};
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// A message bus in this process.
#[derive(Debug, Default)]
pub struct Bus {
    routes: Arc<RwLock<Vec<Arc<Route>>>>,
    is_closed: AtomicBool,
}

/// Where the messages of one subscription go.
#[derive(Debug)]
struct Route {
    topic: Topic,
    /// One permit: held from handing a message over until its handler has returned.
    turn: Arc<Semaphore>,
    deliveries: mpsc::Sender<Delivery>,
}

#[derive(Debug)]
struct Delivery {
    message: Message,
    _turn: OwnedSemaphorePermit,
}

/// The turn admits one message, so one place is all a channel can need.
const ROOM: usize = 1;

#[derive(Debug, PartialEq, Eq)]
enum Topic {
    Exact(String),
    /// All topics that begin so and go on.
    Prefix(String),
}

impl Topic {
    fn parse(text: String) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text),
        }
    }

    fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Exact(text) => text == topic,
            Self::Prefix(prefix) => {
                topic.len() > prefix.len() && topic.starts_with(prefix.as_str())
            }
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => formatter.write_str(text),
            Self::Prefix(prefix) => write!(formatter, "{prefix}*"),
        }
    }
}

impl Route {
    async fn deliver(&self, request: PublishRequest) {
        // An error means that the subscription was closed meanwhile: then nobody waits for the message.
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return;
        };
        // A content type is not carried, and the topic is the one that was subscribed to, as with the original's.
        let message = Message {
            topic: self.topic.to_string(),
            data: request.data,
            content_type: None,
            metadata: request.metadata,
        };
        drop(
            self.deliveries
                .send(Delivery {
                    message,
                    _turn: turn,
                })
                .await,
        );
    }
}

#[async_trait]
impl PubSub for Bus {
    fn features(&self) -> &[Feature] {
        &[Feature::SubscribeWildcards]
    }

    async fn publish(&self, request: PublishRequest) -> Result<(), Error> {
        self.check_open()?;
        let routes: Vec<_> = self
            .routes
            .read()
            .iter()
            .filter(|route| route.topic.matches(&request.topic))
            .cloned()
            .collect();
        match routes.as_slice() {
            [] => {}
            [route] => route.deliver(request).await,
            routes => {
                let deliveries = routes.iter().map(|route| route.deliver(request.clone()));
                futures::future::join_all(deliveries).await;
            }
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Subscription>, Error> {
        self.check_open()?;
        let (sender, deliveries) = mpsc::channel(ROOM);
        let route = Arc::new(Route {
            topic: Topic::parse(request.topic),
            turn: Arc::new(Semaphore::new(ROOM)),
            deliveries: sender,
        });
        let worker = tokio::spawn(work(deliveries, Arc::clone(&route.turn), handler));
        let worker = AbortOnDropHandle::new(worker);
        self.routes.write().push(Arc::clone(&route));
        let registration = Registration {
            route,
            routes: Arc::clone(&self.routes),
        };
        Ok(Box::new(Running {
            registration,
            worker,
        }))
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        for route in self.routes.write().drain(..) {
            route.turn.close();
        }
    }
}

impl Bus {
    fn check_open(&self) -> Result<(), Error> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Unavailable, "component is closed"));
        }
        Ok(())
    }
}

/// Hands one message after the other to the handler until the subscription ends.
async fn work(
    mut deliveries: mpsc::Receiver<Delivery>,
    turn: Arc<Semaphore>,
    handler: Arc<dyn Handler>,
) {
    while !turn.is_closed() {
        let Some(Delivery { message, _turn }) = deliveries.recv().await else {
            return;
        };
        let topic = message.topic.clone();
        if let Err(error) = handler.handle(message).await {
            tracing::error!(%topic, %error, "handler failed; the message is lost");
        }
    }
}

/// A subscription and the task that serves it.
struct Running {
    registration: Registration,
    worker: AbortOnDropHandle<()>,
}

#[async_trait]
impl Subscription for Running {
    async fn close(self: Box<Self>) {
        let Self {
            registration,
            worker,
        } = *self;
        drop(registration);
        if let Err(error) = worker.await {
            tracing::error!(%error, "the worker of a subscription failed");
        }
    }
}

/// The entry in the bus; dropping it stops the deliveries.
struct Registration {
    route: Arc<Route>,
    routes: Arc<RwLock<Vec<Arc<Route>>>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.routes
            .write()
            .retain(|route| !Arc::ptr_eq(route, &self.route));
        self.route.turn.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_at_least_one_character() {
        let check = |subscribed: &str, topic: &str, expected: bool| {
            assert_eq!(
                Topic::parse(subscribed.to_owned()).matches(topic),
                expected,
                "{subscribed} on {topic}"
            );
        };
        check("orders", "orders", true);
        check("orders", "orders1", false);
        check("orders*", "orders", false);
        check("orders*", "orders1", true);
        check("orders*", "orders/a/b", true);
        check("orders*", "order", false);
        check("*", "x", true);
        check("*", "", false);
        check("a*b", "axb", false);
    }
}

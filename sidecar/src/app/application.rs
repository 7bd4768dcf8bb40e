//! The life of the application as the sidecar sees it: it comes up, turns healthy, unhealthy, healthy again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dapr_sidecar_actors::Runtime;
use dapr_sidecar_core::app::{AppChannel, Config, Error, Protocol};
use dapr_sidecar_core::invoke::Invoker;
use dapr_sidecar_core::pubsub::{PubSubs, Subscription, check_rules};
use dapr_sidecar_core::resiliency::{Builtin, Class, Classify, Resiliency, Target};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::app_health::{self, Health};
use crate::channel::unverified;
use crate::settings::App;

/// A dial of the application that takes longer has failed, and the pause before the next.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
const DIAL_PAUSE: Duration = Duration::from_millis(100);
/// Failed dials between two log lines.
const DIALS_PER_LINE: u32 = 100;

/// What happens to the application happens to these.
pub(super) struct Application {
    pub(super) settings: App,
    pub(super) channel: Option<Arc<dyn AppChannel>>,
    pub(super) invoker: Arc<Invoker>,
    pub(super) actors: Arc<Runtime>,
    pub(super) pubsubs: Arc<PubSubs>,
    pub(super) resiliency: Arc<Resiliency>,
    /// Subscriptions of resources. Marked as changed, too, when a pub/sub component was loaded.
    pub(super) declarative: watch::Receiver<Arc<Vec<Subscription>>>,
    /// Told when the application has become healthy or unhealthy.
    pub(super) health: watch::Sender<Health>,
}

impl Application {
    /// Waits without limit until the application accepts connections. Returns at once without one.
    pub(super) async fn await_port(&self) {
        let Some(port) = self.settings.port else {
            return;
        };
        tracing::info!(target: "dapr.runtime", "application protocol: {}. waiting on port {port}.  This will block until the app is listening on that port.", self.settings.protocol.name());
        let mut dials = 0u32;
        while !matches!(
            tokio::time::timeout(DIAL_TIMEOUT, dial(&self.settings, port)).await,
            Ok(Ok(()))
        ) {
            dials = dials.wrapping_add(1);
            if dials.is_multiple_of(DIALS_PER_LINE) {
                tracing::info!(target: "dapr.runtime", "waiting for application to listen on port {port}");
            }
            tokio::time::sleep(DIAL_PAUSE).await;
        }
        tracing::info!(target: "dapr.runtime", "application discovered on port {port}");
    }

    /// Follows the application's health for ever. Drop the future to stop.
    pub(super) async fn follow(self) {
        let Some(channel) = self.channel.clone() else {
            self.actors.register_nothing();
            return;
        };
        let Some(probes) = self.settings.health.clone() else {
            self.health.send_replace(Health::Healthy);
            self.serve(&channel, &mut Told::default()).await;
            return;
        };
        self.invoker.set_app_healthy(false);
        let probing = app_health::run(probes, Arc::clone(&channel), self.health.clone());
        tokio::select! {
            () = probing => {}
            () = self.react(&channel) => {}
        }
    }

    /// Follows the application from health to health. One that does not answer must not keep its end from being noticed:
    /// what is begun for a healthy one is dropped when it no longer is.
    async fn react(&self, channel: &Arc<dyn AppChannel>) {
        let mut health = self.health.subscribe();
        let mut told = Told::default();
        loop {
            let current = *health.borrow_and_update();
            if current == Health::Unhealthy {
                self.down().await;
            }
            let serving = async {
                if current == Health::Healthy {
                    self.serve(channel, &mut told).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                changed = health.changed() => if changed.is_err() {
                    return;
                },
                () = serving => {}
            }
        }
    }

    /// Starts everything, and applies resources that change. The application is asked for its configuration and its
    /// subscriptions once, when it is healthy for the first time.
    async fn serve(&self, channel: &Arc<dyn AppChannel>, told: &mut Told) {
        let mut declarative = self.declarative.clone();
        self.invoker.set_app_healthy(true);
        let config = match &mut told.config {
            Some(config) => config,
            config => config.insert(self.load_config(channel).await),
        };
        let (config, own) = (config.as_ref(), &mut told.subscriptions);
        self.up(channel, config, own, &mut declarative).await;
        while declarative.changed().await.is_ok() {
            self.resubscribe(channel, own, &mut declarative).await;
        }
    }

    /// Starts everything; `own` are the subscriptions the application has named, if it was asked.
    async fn up(
        &self,
        channel: &Arc<dyn AppChannel>,
        config: Option<&Config>,
        own: &mut Option<Vec<Subscription>>,
        declarative: &mut watch::Receiver<Arc<Vec<Subscription>>>,
    ) {
        let subscriptions = self.subscriptions(channel, own, declarative).await;
        self.pubsubs.start(subscriptions, Arc::clone(channel)).await;
        match config {
            Some(config) => self.actors.register(config, Arc::clone(channel)).await,
            None => self.actors.register_nothing(),
        }
    }

    /// Applies changed resources while the application is up.
    async fn resubscribe(
        &self,
        channel: &Arc<dyn AppChannel>,
        own: &mut Option<Vec<Subscription>>,
        declarative: &mut watch::Receiver<Arc<Vec<Subscription>>>,
    ) {
        let subscriptions = self.subscriptions(channel, own, declarative).await;
        self.pubsubs
            .update(subscriptions, Arc::clone(channel))
            .await;
    }

    async fn down(&self) {
        tracing::warn!(target: "dapr.runtime", "the application is unhealthy: calls are refused, subscriptions and actors stopped");
        self.invoker.set_app_healthy(false);
        self.pubsubs.give_up();
        self.actors.unregister().await;
    }

    async fn load_config(&self, channel: &Arc<dyn AppChannel>) -> Option<Config> {
        if !self.settings.load_config {
            return None;
        }
        match channel.config().await {
            Ok(config) => {
                tracing::info!(target: "dapr.runtime", "Application configuration loaded");
                Some(config)
            }
            Err(error) => {
                tracing::warn!(target: "dapr.runtime", "failed to load app config: {error}");
                None
            }
        }
    }

    /// The application's own subscriptions and those of resources. The application is asked when there is a pub/sub
    /// component for the first time, and again only if it could not answer.
    async fn subscriptions(
        &self,
        channel: &Arc<dyn AppChannel>,
        own: &mut Option<Vec<Subscription>>,
        declarative: &mut watch::Receiver<Arc<Vec<Subscription>>>,
    ) -> Vec<Subscription> {
        if own.is_none() && self.settings.load_subscriptions && !self.pubsubs.is_empty() {
            *own = list(channel, &self.resiliency).await;
            for (pubsub, topics) in topics(own.as_deref().unwrap_or_default()) {
                tracing::info!(target: "dapr.runtime.processor.subscription", "app is subscribed to the following topics: [[{}]] through pubsub={pubsub}", topics.join(" "));
            }
        }
        let declared = Arc::clone(&declarative.borrow_and_update());
        merge(own.clone().unwrap_or_default(), &declared)
    }
}

/// What the application has said about itself, `None` as long as it was not asked or could not answer.
#[derive(Default)]
struct Told {
    config: Option<Option<Config>>,
    subscriptions: Option<Vec<Subscription>>,
}

/// One look at whether the application is there: for `https` and `grpcs` when it shakes hands.
async fn dial(app: &App, port: u16) -> std::io::Result<()> {
    let host = app.address.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    if !matches!(app.protocol, Protocol::Https | Protocol::Grpcs) {
        return Ok(());
    }
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    let config = unverified(&[]).map_err(std::io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map(drop)
}

/// Programmatic subscriptions first; of the declarative ones those with another topic, the first of equals.
fn merge(own: Vec<Subscription>, declarative: &[Subscription]) -> Vec<Subscription> {
    let mut merged = own;
    for subscription in declarative {
        let is_known = merged.iter().any(|known| {
            known.pubsub_name == subscription.pubsub_name && known.topic == subscription.topic
        });
        if !is_known {
            merged.push(subscription.clone());
        }
    }
    merged
}

/// The topics of each component.
fn topics(subscriptions: &[Subscription]) -> BTreeMap<&str, Vec<&str>> {
    let mut topics = BTreeMap::<&str, Vec<&str>>::new();
    for subscription in subscriptions {
        topics
            .entry(&subscription.pubsub_name)
            .or_default()
            .push(&subscription.topic);
    }
    topics
}

/// Why there is no list of subscriptions.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct NoList(Error);

impl Classify for NoList {
    fn class(&self) -> Class {
        match self.0 {
            // The application is not there yet, or not ready: any status of gRPC may mean that.
            Error::Unhealthy | Error::Unreachable(_) | Error::Transport(_) | Error::Status(_) => {
                Class::Uncoded
            }
            Error::BadAnswer(_) => Class::Permanent,
        }
    }
}

/// The list of the application; `None` when it could not be had, or has a rule that cannot be read.
async fn list(channel: &Arc<dyn AppChannel>, resiliency: &Resiliency) -> Option<Vec<Subscription>> {
    let target = Target::Builtin(Builtin::InitializationRetries);
    let attempt = || async { channel.subscriptions().await.map_err(NoList) };
    let failure = match resiliency.run(target, attempt).await {
        Ok(listed) => match check_rules(&listed) {
            Ok(()) => return Some(listed),
            Err(error) => format!("error getting topics from app: {error}"),
        },
        Err(failed) => failed.to_string(),
    };
    tracing::error!(target: "dapr.runtime", "{failure}");
    None
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_trait::async_trait;
    use dapr_sidecar_core::app::{Event, EventOutcome};
    use dapr_sidecar_core::invoke::{Request, Response};
    use dapr_sidecar_core::pubsub::{Rule, Source};
    use dapr_sidecar_core::rpc::{Code, Status};
    use http::HeaderMap;
    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::*;

    /// Answers the question for its subscriptions by script.
    struct Scripted(Mutex<VecDeque<Result<Vec<Subscription>, Error>>>);

    #[async_trait]
    impl AppChannel for Scripted {
        fn protocol(&self) -> Protocol {
            Protocol::Grpc
        }

        async fn invoke(&self, _: Request) -> Result<Response, Error> {
            Err(Error::Unhealthy)
        }

        async fn config(&self) -> Result<Config, Error> {
            Ok(Config::default())
        }

        async fn subscriptions(&self) -> Result<Vec<Subscription>, Error> {
            self.0.lock().pop_front().expect("it is asked no more")
        }

        async fn deliver(&self, _: Event, _: &HeaderMap) -> Result<EventOutcome, Error> {
            Err(Error::Unhealthy)
        }

        async fn probe(&self) -> bool {
            true
        }
    }

    /// What is listed, and how many answers nobody has asked for.
    async fn listed(
        answers: Vec<Result<Vec<Subscription>, Error>>,
    ) -> (Option<Vec<Subscription>>, usize) {
        let scripted = Arc::new(Scripted(Mutex::new(answers.into())));
        let channel: Arc<dyn AppChannel> = scripted.clone();
        let listed = list(&channel, &Resiliency::default()).await;
        (listed, scripted.0.lock().len())
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_is_not_ready_is_asked_again_for_its_subscriptions() {
        let failed = |code| Err(Error::Status(Status::new(code, "not yet")));
        let own = vec![subscription("a", "/a", Source::Programmatic)];
        let started = Instant::now();
        let answers = vec![
            failed(Code::Unavailable),
            failed(Code::Internal),
            Err(Error::Unreachable("refused".to_owned())),
            Ok(own.clone()),
        ];
        assert_eq!(listed(answers).await, (Some(own), 0));
        assert!(started.elapsed() < Duration::from_secs(10));
        // As often as the built-in policy says.
        let answers = (0..5).map(|_| failed(Code::Unavailable)).collect();
        assert_eq!(listed(answers).await, (None, 1));
        // An answer of the wrong form does not get better.
        let bad = Err(Error::BadAnswer("no list".to_owned()));
        assert_eq!(listed(vec![bad]).await, (None, 0));
    }

    #[tokio::test]
    async fn a_rule_that_cannot_be_read_spoils_the_list() {
        let mut broken = subscription("b", "/b", Source::Programmatic);
        broken.rules[0].matches = "event.type ==".to_owned();
        let good = subscription("a", "/a", Source::Programmatic);
        assert_eq!(listed(vec![Ok(vec![good, broken])]).await, (None, 0));
    }

    #[test]
    fn topics_are_told_by_component() {
        let mut other = subscription("b", "/b", Source::Programmatic);
        other.pubsub_name = "o".to_owned();
        let own = [
            subscription("c", "/c", Source::Programmatic),
            other,
            subscription("a", "/a", Source::Programmatic),
        ];
        let expected = BTreeMap::from([("o", vec!["b"]), ("p", vec!["c", "a"])]);
        assert_eq!(topics(&own), expected);
    }

    fn subscription(topic: &str, path: &str, source: Source) -> Subscription {
        Subscription {
            pubsub_name: "p".to_owned(),
            topic: topic.to_owned(),
            rules: vec![Rule {
                matches: String::new(),
                path: path.to_owned(),
            }],
            dead_letter_topic: None,
            metadata: std::collections::BTreeMap::new(),
            bulk: None,
            source,
        }
    }

    fn app(protocol: Protocol, address: &str) -> App {
        App {
            port: None,
            protocol,
            address: address.to_owned(),
            max_concurrency: 0,
            load_config: true,
            load_subscriptions: true,
            token: None,
            health: None,
        }
    }

    #[tokio::test]
    async fn an_application_with_tls_is_there_when_it_shakes_hands() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let key = rcgen::generate_simple_self_signed(["app".to_owned()]).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![key.cert.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
            )
            .expect("fits");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        // The first connection is closed, the second one is served, the third one only taken.
        let serving = async {
            drop(listener.accept().await.expect("accepts"));
            let (stream, _) = listener.accept().await.expect("accepts");
            acceptor.accept(stream).await.expect("shakes hands");
            listener.accept().await.expect("accepts")
        };
        let dialling = async {
            let grpcs = app(Protocol::Grpcs, "127.0.0.1");
            dial(&grpcs, port).await.expect_err("closed");
            dial(&grpcs, port).await.expect("there");
            dial(&app(Protocol::Http, "[127.0.0.1]"), port)
                .await
                .expect("plain ones are there when they accept");
        };
        tokio::join!(serving, dialling);
    }

    #[test]
    fn the_applications_own_subscription_wins_and_the_first_of_equals() {
        let own = vec![subscription("a", "/own", Source::Programmatic)];
        let declarative = [
            subscription("a", "/resource", Source::Declarative),
            subscription("b", "/first", Source::Declarative),
            subscription("b", "/second", Source::Declarative),
        ];
        let merged = merge(own, &declarative);
        let paths: Vec<&str> = merged.iter().map(|s| s.rules[0].path.as_str()).collect();
        assert_eq!(paths, ["/own", "/first"]);
    }
}

//! The watchdog: pods that were made while no injector was there have no sidecar, and are deleted so that whoever made
//! them makes them anew.
//!
//! It follows pods and the injector by watches, so it acts as soon as the injector is ready; the interval of the flag is
//! a second look. Which pod is next, and when, is decided in `plan.rs`; how one looks from near, in `look.rs`. Only the
//! leader runs it.

mod look;
mod plan;

use std::convert::Infallible;
use std::time::Duration;

use dapr_kubernetes::slim::{self, Keep};
use dapr_kubernetes::{Config, Reader, watch};
use k8s_openapi::api::core::v1::Pod as WholePod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client};
use serde::{Deserialize, Deserializer};
use tokio::time::{Instant, sleep, sleep_until};

use crate::pods::Pod;
use look::Watchman;
use plan::{Next, Plan};

/// The label of the injector's Deployment.
const INJECTOR: &str = "app=dapr-sidecar-injector";
/// Changes of pods that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(200);

/// How the watchdog works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The one namespace whose pods and injector are looked at; `None` for all.
    pub namespace: Option<String>,
    /// How often all pods are looked at besides; `None` for one pass, and no more.
    pub interval: Option<Duration>,
    /// How many pods are deleted per minute at most; `None` for any number.
    pub per_minute: Option<u32>,
    /// Whether pods that have a sidecar without the injector's label are labelled.
    pub can_patch: bool,
}

/// The injector's Deployment: whether it is ready.
#[derive(Clone, Debug, PartialEq)]
struct Injector {
    metadata: ObjectMeta,
    ready: i64,
}

impl<'de> Deserialize<'de> for Injector {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(deserialize_with = "own")]
            metadata: ObjectMeta,
            #[serde(default)]
            status: Option<Status>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Status {
            ready_replicas: Option<i64>,
        }
        fn own<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
            let keep = Keep {
                labels: &["app"],
                ..Keep::default()
            };
            let mut metadata = slim::metadata(from, keep)?;
            metadata.resource_version = None;
            Ok(metadata)
        }
        let raw = Raw::deserialize(from)?;
        Ok(Self {
            metadata: raw.metadata,
            ready: raw
                .status
                .and_then(|status| status.ready_replicas)
                .unwrap_or_default(),
        })
    }
}

impl Injector {
    /// A minimal server shows every Deployment, whatever label was asked for.
    fn is_ready(&self) -> bool {
        let labels = self.metadata.labels.as_ref();
        let app = labels.and_then(|labels| labels.get("app"));
        self.ready >= 1 && app.is_some_and(|app| app == "dapr-sidecar-injector")
    }
}

dapr_kubernetes::resource!(Injector, "Deployment", "apps", "v1", "deployments");

/// Deletes pods without a sidecar until it is dropped; after its one pass it only waits, if there is no interval.
///
/// `client` should be fenced by the term of the leader. Failures of the API server are waited out.
pub async fn run(client: Client, pods: Reader<Pod>, settings: Settings) -> Infallible {
    let config = Config {
        labels: Some(INJECTOR.to_owned()),
        ..Config::default()
    };
    let injectors = match &settings.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let (injectors, watcher) = watch::<Injector>(injectors, config);
    let dog = Dog {
        injectors,
        pods,
        watchman: Watchman::new(client, settings.can_patch),
        settings,
    };
    tokio::select! {
        never = watcher.run(|_| {}) => match never {},
        () = dog.run() => std::future::pending().await,
    }
}

struct Dog {
    injectors: Reader<Injector>,
    pods: Reader<Pod>,
    watchman: Watchman,
    settings: Settings,
}

impl Dog {
    /// Ends only after the one pass of a watchdog without an interval.
    async fn run(self) {
        self.injectors.synced().await;
        self.pods.synced().await;
        tracing::info!("watching for pods without a sidecar");
        let mut plan = Plan::new(self.settings.per_minute, Instant::now());
        let mut injectors = self.injectors.subscribe();
        let mut pods = self.pods.subscribe();
        let mut tick = self.settings.interval.map(|it| Instant::now() + it);
        loop {
            injectors.borrow_and_update();
            pods.borrow_and_update();
            if !self.is_ready() {
                plan.injector_is_away();
                if injectors.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let now = Instant::now();
            let shown = self.pods.snapshot();
            plan.injector_is_ready(&shown);
            let wait = match plan.next(&shown, now) {
                Next::Look(pod) => {
                    let found = self.watchman.look(pod).await;
                    plan.looked(pod, found, Instant::now(), rand::random());
                    continue;
                }
                Next::Wait(until) => Some(until),
                Next::Nothing if self.settings.interval.is_none() => {
                    tracing::info!("the watchdog has seen every pod, and stops");
                    return;
                }
                Next::Nothing => None,
            };
            let until = [wait, tick].into_iter().flatten().min();
            tokio::select! {
                Ok(()) = injectors.changed() => {}
                Ok(()) = pods.changed() => sleep(GATHER).await,
                () = at(until) => {}
            }
            if tick.is_some_and(|tick| tick <= Instant::now()) {
                plan.forget(&self.pods.snapshot());
                tick = self.settings.interval.map(|it| Instant::now() + it);
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.injectors.snapshot().iter().any(|it| it.is_ready())
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Where pods of a namespace are read and written whole.
fn whole(client: &Client, pod: &Pod) -> Api<WholePod> {
    Api::namespaced(client.clone(), pod.namespace())
}

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

use dapr_kubernetes::Reader;
use k8s_openapi::api::core::v1::Pod as WholePod;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::pods::Pod;
use crate::services::{Deployment, Workload};
use look::Watchman;
use plan::{Next, Plan};

/// Changes of pods that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(200);

/// How the watchdog works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often all pods are looked at besides; `None` for one pass, and no more.
    pub interval: Option<Duration>,
    /// How many pods are deleted per minute at most; `None` for any number.
    pub per_minute: Option<u32>,
    /// Whether pods that have a sidecar without the injector's label are labelled.
    pub can_patch: bool,
}

/// Deletes pods without a sidecar until it is dropped; after its one pass it only waits, if there is no interval.
///
/// `deployments` has at least the injector's. `client` should be fenced by the term of the leader. Failures of the API server are waited out.
pub async fn run(
    client: Client,
    pods: Reader<Pod>,
    deployments: Reader<Workload<Deployment>>,
    settings: Settings,
) -> Infallible {
    let dog = Dog {
        deployments,
        pods,
        watchman: Watchman::new(client, settings.can_patch),
        settings,
    };
    dog.run().await;
    std::future::pending().await
}

struct Dog {
    deployments: Reader<Workload<Deployment>>,
    pods: Reader<Pod>,
    watchman: Watchman,
    settings: Settings,
}

impl Dog {
    /// Ends only after the one pass of a watchdog without an interval.
    async fn run(self) {
        self.deployments.synced().await;
        self.pods.synced().await;
        tracing::info!("watching for pods without a sidecar");
        let mut plan = Plan::new(self.settings.per_minute, Instant::now());
        let mut deployments = self.deployments.subscribe();
        let mut pods = self.pods.subscribe();
        let mut tick = self.settings.interval.map(|it| Instant::now() + it);
        loop {
            deployments.borrow_and_update();
            pods.borrow_and_update();
            if !self.is_ready() {
                plan.injector_is_away();
                self.readiness_differs(&mut deployments, false).await;
                continue;
            }
            let now = Instant::now();
            let shown = self.pods.snapshot();
            plan.injector_is_ready(&shown, now);
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
                () = self.readiness_differs(&mut deployments, true) => {}
                Ok(()) = pods.changed() => sleep(GATHER).await,
                () = at(until) => {}
            }
            if tick.is_some_and(|tick| tick <= Instant::now()) {
                plan.forget(&self.pods.snapshot());
                tick = self.settings.interval.map(|it| Instant::now() + it);
            }
        }
    }

    /// Whether the injector is ready.
    fn is_ready(&self) -> bool {
        let deployments = self.deployments.snapshot();
        deployments.iter().any(|it| it.is_ready_injector())
    }

    /// Waits until the injector is ready, or is not; most changes of Deployments are of others.
    async fn readiness_differs(&self, deployments: &mut watch::Receiver<u64>, before: bool) {
        while self.is_ready() == before {
            if deployments.changed().await.is_err() {
                // The reader lives as long as this, so there is no such end.
                std::future::pending::<()>().await;
            }
        }
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

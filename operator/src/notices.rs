//! Notices: a resource that sidecars will trip over gets a Kubernetes Event that says so, once.
//!
//! Only the leader writes them. What is wrong with what stands in `findings.rs`, which is pure. Nothing is watched for
//! them alone, and of Secrets only names are known. Nothing depends on an Event being written.

mod findings;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use dapr_crds::subscription::v2alpha1::Subscription;
use dapr_crds::{
    Component, Configuration, HttpEndpoint, McpServer, Resiliency, WorkflowAccessPolicy,
};
use dapr_kubernetes::Reader;
use dapr_kubernetes::event::{self, Kind, Note};
use futures::future::select_all;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::kinds;
use crate::pods::Pod;
use crate::secrets::SecretName;
use crate::services::Live;
use findings::{Apps, Finding, World, duplicates, findings};

/// Who tells it.
const COMPONENT: &str = "dapr-operator";
/// Changes that come within this time are looked at together: the look is at everything.
const GATHER: Duration = Duration::from_secs(1);
/// The pause after an Event that could not be written.
const RETRY: Duration = Duration::from_secs(10);
/// How long something has to be wrong before it is told: users write the Secret after the Component that needs it, and
/// the workload after both.
pub const SETTLED: Duration = Duration::from_secs(30);

/// What is looked at. Others watch it.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Pods: the apps there are.
    pub pods: Reader<Pod>,
    /// Services of apps: the apps that have no pods right now.
    pub services: Reader<Live>,
    /// Which Secrets there are.
    pub secrets: Reader<SecretName>,
    /// The resources.
    pub resources: Resources,
}

/// The resources that are looked at, of every kind.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is what its type says")]
pub struct Resources {
    pub components: Reader<Component>,
    pub configurations: Reader<Configuration>,
    pub http_endpoints: Reader<HttpEndpoint>,
    pub mcp_servers: Reader<McpServer>,
    pub resiliencies: Reader<Resiliency>,
    pub subscriptions: Reader<Subscription>,
    pub workflow_access_policies: Reader<WorkflowAccessPolicy>,
}

/// Writes Events about the resources until it is dropped; about what has been wrong for `settled`.
///
/// `client` should be fenced by the term of the leader. Failures of the API server are waited out.
pub async fn run(client: Client, sources: Sources, settled: Duration) -> Infallible {
    let desk = Desk {
        client,
        settled,
        sources,
    };
    desk.run().await
}

/// What is known, and who is told.
struct Desk {
    client: Client,
    settled: Duration,
    sources: Sources,
}

impl Desk {
    async fn run(&self) -> Infallible {
        let mut changes = self.sources.changes();
        let mut log = Log::default();
        loop {
            for change in &mut changes {
                change.borrow_and_update();
            }
            log.update(self.look(), Instant::now());
            let next = self.tell(&mut log).await;
            let changed = changes.iter_mut().map(|change| Box::pin(change.changed()));
            tokio::select! {
                _ = select_all(changed) => {}
                () = at(next) => {}
            }
            sleep(GATHER).await;
        }
    }

    /// What is wrong now. What is not known yet is not missing.
    fn look(&self) -> BTreeSet<Finding> {
        let Sources {
            pods,
            services,
            secrets,
            resources,
        } = &self.sources;
        let apps = (pods.is_synced() && services.is_synced()).then(|| {
            let mut apps = Apps::new();
            for pod in pods.snapshot().iter().filter(|pod| pod.is_enabled()) {
                let here = apps.entry(pod.namespace().to_owned()).or_default();
                here.insert(pod.app_id().to_owned());
            }
            // A workload without pods has its Service.
            for service in services.snapshot().iter() {
                let here = apps.entry(service.namespace().to_owned()).or_default();
                here.extend(service.app_id().map(str::to_owned));
            }
            apps
        });
        let is_secret = |namespace: &str, name: &str| {
            !secrets.is_synced() || secrets.get(namespace, name).is_some()
        };
        resources.findings(&World {
            apps: apps.as_ref(),
            is_secret: &is_secret,
        })
    }

    /// Tells what is due; when to come back.
    async fn tell(&self, log: &mut Log) -> Option<Instant> {
        while let Some(finding) = log.due(self.settled, Instant::now()) {
            match event::write(&self.client, note(&finding)).await {
                Ok(()) => {
                    tracing::warn!(
                        kind = finding.kind,
                        namespace = finding.namespace,
                        name = finding.name,
                        reason = finding.reason,
                        "{}",
                        finding.message
                    );
                    log.told(finding);
                }
                Err(kube::Error::Api(status))
                    if (400..500).contains(&status.code) && status.code != 429 =>
                {
                    tracing::warn!(
                        error = status.message,
                        namespace = finding.namespace,
                        "an Event is refused; the operator's role needs the verb create on events"
                    );
                    log.told(finding);
                }
                Err(error) => {
                    tracing::debug!(%error, "an Event is not written yet");
                    return Some(Instant::now() + RETRY);
                }
            }
        }
        log.next(self.settled)
    }
}

impl Sources {
    /// What tells that something may differ.
    fn changes(&self) -> Vec<watch::Receiver<u64>> {
        let Self {
            pods,
            services,
            secrets,
            resources,
        } = self;
        vec![
            pods.subscribe(),
            services.subscribe(),
            secrets.subscribe(),
            resources.components.subscribe(),
            resources.configurations.subscribe(),
            resources.http_endpoints.subscribe(),
            resources.mcp_servers.subscribe(),
            resources.resiliencies.subscribe(),
            resources.subscriptions.subscribe(),
            resources.workflow_access_policies.subscribe(),
        ]
    }
}

impl Resources {
    fn findings(&self, world: &World<'_>) -> BTreeSet<Finding> {
        let Self {
            components,
            configurations,
            http_endpoints,
            mcp_servers,
            resiliencies,
            subscriptions,
            workflow_access_policies,
        } = self;
        let mut found = BTreeSet::new();
        found.extend(of_kind(components, world));
        found.extend(of_kind(configurations, world));
        found.extend(of_kind(http_endpoints, world));
        found.extend(of_kind(mcp_servers, world));
        found.extend(of_kind(resiliencies, world));
        found.extend(of_kind(subscriptions, world));
        found.extend(of_kind(workflow_access_policies, world));
        found.extend(duplicates(&subscriptions.snapshot()));
        found
    }
}

fn of_kind<K: kinds::Kind>(objects: &Reader<K>, world: &World<'_>) -> BTreeSet<Finding> {
    findings(&objects.snapshot(), &objects.all_unreadable(), world)
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn note(finding: &Finding) -> Note<'_> {
    let mut hasher = DefaultHasher::new();
    finding.hash(&mut hasher);
    Note {
        regarding: ObjectReference {
            api_version: Some(finding.api_version.to_owned()),
            kind: Some(finding.kind.to_owned()),
            namespace: Some(finding.namespace.clone()),
            name: Some(finding.name.clone()),
            uid: Some(finding.uid.clone()),
            ..ObjectReference::default()
        },
        kind: Kind::Warning,
        reason: finding.reason,
        message: finding.message.clone(),
        component: COMPONENT,
        // Also for the next leader.
        once: Some(hasher.finish()),
    }
}

/// What is wrong since when, and what was told of it. Pure.
#[derive(Debug, Default)]
struct Log {
    since: BTreeMap<Finding, Instant>,
    told: BTreeSet<Finding>,
}

impl Log {
    fn update(&mut self, found: BTreeSet<Finding>, now: Instant) {
        self.since.retain(|finding, _| found.contains(finding));
        self.told.retain(|finding| found.contains(finding));
        for finding in found {
            self.since.entry(finding).or_insert(now);
        }
    }

    fn due(&self, settled: Duration, now: Instant) -> Option<Finding> {
        let mut untold = self.untold();
        let due = untold.find(|(_, since)| **since + settled <= now);
        due.map(|(finding, _)| finding.clone())
    }

    fn next(&self, settled: Duration) -> Option<Instant> {
        self.untold().map(|(_, since)| *since + settled).min()
    }

    fn told(&mut self, finding: Finding) {
        self.told.insert(finding);
    }

    fn untold(&self) -> impl Iterator<Item = (&Finding, &Instant)> {
        self.since
            .iter()
            .filter(|(finding, _)| !self.told.contains(finding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str) -> Finding {
        Finding {
            api_version: "dapr.io/v1alpha1",
            kind: "Component",
            namespace: "n".to_owned(),
            name: name.to_owned(),
            uid: "u".to_owned(),
            reason: "Reason",
            message: "message".to_owned(),
        }
    }

    #[test]
    fn what_stays_wrong_is_told_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut log = Log::default();
        log.update([finding("a")].into(), at(0));
        assert_eq!(log.due(SETTLED, at(29)), None);
        assert_eq!(log.next(SETTLED), Some(at(30)));
        log.update([finding("a"), finding("b")].into(), at(20));
        assert_eq!(log.due(SETTLED, at(30)), Some(finding("a")));
        log.told(finding("a"));
        assert_eq!(log.due(SETTLED, at(40)), None);
        // One that was mended in time is never told, the other not again.
        log.update([finding("a")].into(), at(45));
        assert_eq!((log.due(SETTLED, at(99)), log.next(SETTLED)), (None, None));
        // What comes back is news.
        log.update(BTreeSet::new(), at(100));
        log.update([finding("a")].into(), at(101));
        assert_eq!(log.due(SETTLED, at(131)), Some(finding("a")));
    }
}

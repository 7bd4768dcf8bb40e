//! Brings one Service into being, or back into shape: decides from what is there, writes, and says what a refusal means.

use std::time::Duration;

use dapr_kubernetes::watch::Pace;
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, Client};

use super::desired::Digest;
use super::metrics::Metrics;
use super::objects::Live;
use super::queue::Outcome;

/// After a server that was not reached, or asked for a pause: it may be back any moment.
const UNREACHED: Pace = Pace::new(Duration::from_millis(200), Duration::from_secs(5));
/// After a refusal, which only somebody's edit mends.
const REFUSED: Pace = Pace::new(Duration::from_secs(1), Duration::from_secs(60));

/// What has to be done about a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan<'a> {
    /// It is not there.
    Create,
    /// It differs; this version of it is to be replaced.
    Replace(Option<&'a str>),
    /// It is as it should be.
    Keep,
    /// It is being deleted: when it is gone, a new one is made.
    Await,
}

/// What to do. Pure.
pub(super) fn plan(desired: Digest, live: Option<&Live>) -> Plan<'_> {
    match live {
        None => Plan::Create,
        Some(live) if live.is_ending() => Plan::Await,
        Some(live) if live.digest == desired => Plan::Keep,
        Some(live) => Plan::Replace(live.version()),
    }
}

/// Who writes Services.
#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    metrics: Metrics,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics }
    }

    /// Makes the Service of an app what is desired.
    pub(super) async fn apply(
        &self,
        app_id: &str,
        desired: Service,
        live: Option<&Live>,
    ) -> Outcome {
        let name = desired.metadata.name.clone().unwrap_or_default();
        let namespace = desired.metadata.namespace.clone().unwrap_or_default();
        let services = Api::namespaced(self.client.clone(), &namespace);
        let done = match plan(Digest::of(&desired), live) {
            Plan::Create => self.create(&services, app_id, &name, desired).await,
            Plan::Replace(version) => {
                let mut desired = desired;
                desired.metadata.resource_version = version.map(str::to_owned);
                self.replace(&services, app_id, &name, &desired).await
            }
            Plan::Keep => {
                self.metrics.updated(app_id);
                return Outcome::Done;
            }
            Plan::Await => return Outcome::Done,
        };
        done.unwrap_or_else(|error| failed(&namespace, &name, &error))
    }

    async fn create(
        &self,
        services: &Api<Service>,
        app_id: &str,
        name: &str,
        desired: Service,
    ) -> Result<Outcome, kube::Error> {
        match services.create(&PostParams::default(), &desired).await {
            Ok(_) => {
                tracing::info!(app_id, service = name, "Service created");
                self.metrics.created(app_id);
                Ok(Outcome::Created)
            }
            // One that the watch does not show: it lacks the label, or is a moment old. It is replaced whatever it is;
            // a Service that somebody else made under this name cannot be used next to the app's.
            Err(kube::Error::Api(status)) if status.code == 409 && !is_ending(&status) => {
                self.replace(services, app_id, name, &desired).await
            }
            Err(error) => Err(error),
        }
    }

    async fn replace(
        &self,
        services: &Api<Service>,
        app_id: &str,
        name: &str,
        desired: &Service,
    ) -> Result<Outcome, kube::Error> {
        services
            .replace(name, &PostParams::default(), desired)
            .await?;
        tracing::info!(app_id, service = name, "Service updated");
        self.metrics.updated(app_id);
        Ok(Outcome::Overwritten)
    }
}

fn is_ending(status: &kube::core::Status) -> bool {
    status.message.contains("object is being deleted")
}

/// What comes after a failure, which is logged here.
fn failed(namespace: &str, name: &str, error: &kube::Error) -> Outcome {
    let kube::Error::Api(status) = error else {
        tracing::warn!(%error, namespace, service = name, "the Service could not be written, trying again");
        return Outcome::Failed {
            pace: UNREACHED,
            asked: None,
        };
    };
    let seconds = status
        .details
        .as_ref()
        .map_or(0, |it| it.retry_after_seconds);
    let asked = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)));
    let text = &status.message;
    let pace = match status.code {
        // Nothing is made in a namespace that ends, and nothing has to be.
        403 if text.contains("is being terminated") => return Outcome::Done,
        404 if text.contains("namespaces") => return Outcome::Done,
        // Somebody was quicker; the watch brings it.
        404 | 409 => UNREACHED,
        422 if text.contains("clusterIP") => {
            tracing::error!(
                namespace,
                service = name,
                error = text,
                "a Service of this name exists that has a cluster IP, and cannot be taken over: delete it, or change \
                 the annotation dapr.io/app-id of the workload"
            );
            REFUSED
        }
        429 | 500..=599 => {
            tracing::warn!(
                namespace,
                service = name,
                error = text,
                "the Service could not be written, trying again"
            );
            UNREACHED
        }
        _ => {
            tracing::error!(
                namespace,
                service = name,
                error = text,
                "the API server refuses the Service, trying again later"
            );
            REFUSED
        }
    };
    Outcome::Failed { pace, asked }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live(more: &serde_json::Value) -> Live {
        let mut metadata = json!({"name": "shop-dapr", "namespace": "n", "resourceVersion": "7"});
        if let (Some(into), Some(from)) = (metadata.as_object_mut(), more.as_object()) {
            into.extend(from.clone());
        }
        serde_json::from_value(json!({"metadata": metadata})).expect("a Service")
    }

    #[test]
    fn only_what_differs_is_written() {
        let plain = live(&json!({}));
        let other = Digest::of(&Service {
            spec: Some(k8s_openapi::api::core::v1::ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                ..Default::default()
            }),
            ..Service::default()
        });
        let ending = live(&json!({"deletionTimestamp": "2026-01-02T03:04:05Z"}));
        assert_eq!(plan(plain.digest, None), Plan::Create);
        assert_eq!(plan(plain.digest, Some(&plain)), Plan::Keep);
        assert_eq!(plan(other, Some(&plain)), Plan::Replace(Some("7")));
        assert_eq!(plan(other, Some(&ending)), Plan::Await);
    }

    #[test]
    fn what_comes_after_a_refusal() {
        let check = |code: u16, message: &str, seconds: u32, expected: Outcome| {
            let status = json!({
                "status": "Failure", "code": code, "message": message, "reason": "",
                "details": {"retryAfterSeconds": seconds},
            });
            let status = serde_json::from_value(status).expect("a status");
            let outcome = failed("n", "shop-dapr", &kube::Error::Api(Box::new(status)));
            assert_eq!(outcome, expected, "{code} {message}");
        };
        let at = |pace, seconds| Outcome::Failed {
            pace,
            asked: (seconds > 0).then(|| Duration::from_secs(seconds)),
        };
        check(409, "the object has been modified", 0, at(UNREACHED, 0));
        check(429, "slow down", 7, at(UNREACHED, 7));
        check(503, "", 0, at(UNREACHED, 0));
        check(422, "spec.clusterIPs[0]: Invalid value", 0, at(REFUSED, 0));
        check(
            422,
            "spec.ports[1].port: Duplicate value",
            0,
            at(REFUSED, 0),
        );
        check(403, "services is forbidden", 0, at(REFUSED, 0));
        let gone = "services \"a\" is forbidden: unable to create new content in namespace n because it is being terminated";
        check(403, gone, 0, Outcome::Done);
        check(404, "namespaces \"n\" not found", 0, Outcome::Done);
    }
}

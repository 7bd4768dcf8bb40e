//! The validator at work: reviews tokens, and reads pods and configurations from one watch each.

use std::sync::Arc;
use std::time::Duration;

use dapr_kubernetes::Reader;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::TrustDomain;
use tokio::time::timeout;

use super::{
    BoundPod, Configuration, ControlPlane, Denied, Pod, Reviewer, ServiceAccount, bound_pod, decide,
};
use crate::validator::{Error, Granted};

/// How long a request waits for the first list of pods and configurations; the client then tries again.
const SYNC: Duration = Duration::from_secs(2);
/// How long a pod, and the configuration it names, may each take to appear in their watches after the token's first use.
const APPEARANCE: Duration = Duration::from_secs(1);

/// The `kubernetes` validator.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) reviewer: Reviewer,
    pub(crate) pods: Reader<Pod>,
    pub(crate) configurations: Reader<Configuration>,
    pub(crate) control_plane: ControlPlane,
}

impl Cluster {
    pub(crate) async fn validate(
        &self,
        request: &SignCertificateRequest,
    ) -> Result<Granted, Error> {
        let synced = async {
            self.pods.synced().await;
            self.configurations.synced().await;
        };
        timeout(SYNC, synced).await.map_err(|_| Error::NotSynced)?;
        // The form is looked at first: what is no token at all costs no call.
        let bound = bound_pod(&request.token)?;
        let account = self.reviewer.review(&request.token).await?;
        let pod = self.pod(&account.namespace, &bound).await?;
        let trust_domain = self.decide(request, &account, &pod).await?;
        Ok(Granted {
            trust_domain,
            pod: pod.uid().map(str::to_owned),
        })
    }

    /// The pod a token is bound to. One that was made a moment ago may not have been seen yet.
    async fn pod(&self, namespace: &str, bound: &BoundPod) -> Result<Arc<Pod>, Denied> {
        let mut changes = self.pods.subscribe();
        let find = || {
            let pod = self.pods.get(namespace, &bound.name)?;
            let is_other = matches!((pod.uid(), &bound.uid), (Some(its), Some(uid)) if its != uid);
            (!is_other).then_some(pod)
        };
        let appearance = async {
            loop {
                if let Some(pod) = find() {
                    return Some(pod);
                }
                changes.changed().await.ok()?;
            }
        };
        let found = timeout(APPEARANCE, appearance).await.ok().flatten();
        found.ok_or_else(|| Denied::NoPod(format!("{namespace}/{}", bound.name)))
    }

    /// Decides with the configuration the pod names. One that was made a moment ago may not have been seen yet, though the
    /// pod has: no order holds between two kinds.
    async fn decide(
        &self,
        request: &SignCertificateRequest,
        account: &ServiceAccount,
        pod: &Pod,
    ) -> Result<TrustDomain, Denied> {
        let mut changes = self.configurations.subscribe();
        let get = |namespace: &str, name: &str| self.configurations.get(namespace, name);
        let look = || decide(request, account, pod, &self.control_plane, get);
        let appearance = async {
            while let Err(Denied::NoConfiguration(_)) = look() {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        // Late or not, what is known by then decides.
        timeout(APPEARANCE, appearance).await.unwrap_or_default();
        look()
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let config = kube::Config::new(http::Uri::from_static("http://127.0.0.1:1"));
        let client = kube::Client::try_from(config).expect("plain HTTP needs nothing");
        let (pods, _) = dapr_kubernetes::watch(kube::Api::all(client.clone()), Default::default());
        let (configurations, _) =
            dapr_kubernetes::watch(kube::Api::all(client.clone()), Default::default());
        Self {
            reviewer: Reviewer::new(client, Vec::new()),
            pods,
            configurations,
            control_plane: ControlPlane {
                trust_domain: dapr_security::TrustDomain::new("cluster.local")
                    .expect("a valid name"),
                namespace: "dapr-system".to_owned(),
            },
        }
    }
}

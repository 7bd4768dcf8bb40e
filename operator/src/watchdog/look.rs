//! One pod from near: whether it has a sidecar after all, and what is done about it.

use dapr_crds::annotations::{LABEL_SIDECAR_INJECTED, LABEL_WATCHDOG_PATCHED, SIDECAR_CONTAINER};
use k8s_openapi::api::core::v1::Pod as WholePod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use super::plan::Found;
use super::whole;
use crate::pods::Pod;

/// Who looks at pods.
pub(super) struct Watchman {
    client: Client,
    can_patch: bool,
}

/// What has to be done about a pod. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is not the one that was meant, or has changed since.
    Other,
    /// It has run, and needs no sidecar any more.
    Finished,
    /// It has a sidecar that the injector did not put there.
    HasSidecar,
    /// It has none.
    Lacks,
}

fn verdict(meant: &Pod, pod: &WholePod) -> Verdict {
    let labels = pod.metadata.labels.as_ref();
    let is_labelled = |name: &str| labels.is_some_and(|labels| labels.contains_key(name));
    let is_other = pod.metadata.uid.as_deref() != meant.uid()
        || pod.metadata.deletion_timestamp.is_some()
        || is_labelled(LABEL_SIDECAR_INJECTED)
        || is_labelled(LABEL_WATCHDOG_PATCHED);
    if is_other {
        return Verdict::Other;
    }
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Verdict::Finished;
    }
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    if containers
        .into_iter()
        .any(|container| container.name == SIDECAR_CONTAINER)
    {
        return Verdict::HasSidecar;
    }
    Verdict::Lacks
}

impl Watchman {
    pub(super) fn new(client: Client, can_patch: bool) -> Self {
        Self { client, can_patch }
    }

    /// Looks at a pod, and labels or deletes it. Failures are logged here.
    pub(super) async fn look(&self, pod: &Pod) -> Found {
        let (namespace, name) = (pod.namespace(), pod.name());
        match self.try_look(pod).await {
            Ok(found) => found,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Found::Changed,
            Err(error) => {
                tracing::warn!(%error, namespace, pod = name, "the watchdog could not look at a pod");
                Found::Failed
            }
        }
    }

    /// The pod as it is now. A server that does not know named GETs is asked for a list, once it has denied one.
    async fn whole(
        &self,
        api: &Api<WholePod>,
        meant: &Pod,
    ) -> Result<Option<WholePod>, kube::Error> {
        let (namespace, name) = (meant.namespace(), meant.name());
        if let Some(pod) = api.get_opt(name).await? {
            return Ok(Some(pod));
        }
        let fields = format!("metadata.name={name},metadata.namespace={namespace}");
        let only_it = ListParams::default().fields(&fields);
        let list = match api.list(&only_it).await {
            // Nor lists of one namespace.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                Api::all(self.client.clone()).list(&only_it).await?
            }
            list => list?,
        };
        let mut pods = list.items.into_iter();
        Ok(pods.find(|pod| pod.metadata.uid.as_deref() == meant.uid()))
    }

    async fn try_look(&self, meant: &Pod) -> Result<Found, kube::Error> {
        let (namespace, name) = (meant.namespace(), meant.name());
        let api = whole(&self.client, meant);
        let Some(pod) = self.whole(&api, meant).await? else {
            return Ok(Found::Changed);
        };
        match verdict(meant, &pod) {
            Verdict::Other => Ok(Found::Changed),
            Verdict::Finished => Ok(Found::Fine),
            Verdict::HasSidecar => {
                if self.can_patch {
                    let labels = json!({"metadata": {"labels": {LABEL_WATCHDOG_PATCHED: "true"}}});
                    api.patch(name, &PatchParams::default(), &Patch::Merge(labels))
                        .await?;
                }
                Ok(Found::Fine)
            }
            Verdict::Lacks => {
                // Exactly this one: its successor may have its name.
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: meant.uid().map(str::to_owned),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                api.delete(name, &params).await?;
                tracing::warn!(
                    namespace,
                    pod = name,
                    "the pod is annotated for Dapr and has no sidecar, so it was deleted"
                );
                Ok(Found::Deleted)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn check(change: impl FnOnce(&mut Value), expected: Verdict) {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "annotations": {"dapr.io/enabled": "true"}},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "daprd"}]},
            "status": {"phase": "Running"},
        });
        let meant: Pod = serde_json::from_value(pod.clone()).expect("a pod");
        change(&mut pod);
        let whole: WholePod = serde_json::from_value(pod.clone()).expect("a pod");
        assert_eq!(verdict(&meant, &whole), expected, "{pod}");
    }

    #[test]
    fn only_a_pod_without_a_sidecar_lacks_one() {
        check(|_| {}, Verdict::Lacks);
        check(|pod| pod["status"] = json!(null), Verdict::Lacks);
        check(
            |pod| pod["spec"]["containers"][0]["name"] = json!("daprd"),
            Verdict::HasSidecar,
        );
        for phase in ["Succeeded", "Failed"] {
            check(
                |pod| pod["status"]["phase"] = json!(phase),
                Verdict::Finished,
            );
        }
        check(
            |pod| pod["metadata"]["uid"] = json!("other"),
            Verdict::Other,
        );
        for label in [LABEL_SIDECAR_INJECTED, LABEL_WATCHDOG_PATCHED] {
            check(
                |pod| pod["metadata"]["labels"] = json!({label: "false"}),
                Verdict::Other,
            );
        }
        check(
            |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            Verdict::Other,
        );
    }
}

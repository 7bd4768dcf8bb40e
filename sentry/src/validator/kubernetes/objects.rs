//! The few fields of pods and configurations that decide; everything else is dropped while reading, so that thousands
//! of pods cost little.

use std::collections::BTreeMap;

use dapr_crds::annotations::{APP_ID, CONFIG, CONTROL_PLANE, ENABLED, is_truthy};
use dapr_kubernetes::{resource, slim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// The metadata that is kept.
const KEPT: slim::Keep = slim::Keep {
    annotations: &[APP_ID, CONFIG, CONTROL_PLANE, ENABLED],
    labels: &[],
    owners: false,
};

/// The value of [`CONTROL_PLANE`] that Sentry's own pods have.
const SENTRY: &str = "sentry";

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Pod {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: Option<PodStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<Phase>,
}

/// Only the ends are told apart: a pod that has ended does not run again.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum Phase {
    Succeeded,
    Failed,
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    service_account_name: Option<String>,
}

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Configuration {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<ConfigurationSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConfigurationSpec {
    access_control: Option<AccessControl>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AccessControl {
    trust_domain: Option<String>,
}

fn slim<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    slim::metadata(from, KEPT)
}

impl Pod {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn uid(&self) -> Option<&str> {
        self.metadata.uid.as_deref()
    }

    pub(crate) fn service_account(&self) -> &str {
        self.spec
            .service_account_name
            .as_deref()
            .unwrap_or_default()
    }

    pub(crate) fn annotations(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.metadata.annotations.as_ref().unwrap_or(&NONE)
    }

    /// Whether all its containers have ended for good.
    pub(crate) fn has_ended(&self) -> bool {
        let phase = self.status.as_ref().and_then(|it| it.phase);
        matches!(phase, Some(Phase::Succeeded | Phase::Failed))
    }

    /// Whether it is one of Sentry's own that runs, or will.
    pub(crate) fn is_sentry(&self) -> bool {
        let service = self.annotations().get(CONTROL_PLANE);
        !self.has_ended() && service.is_some_and(|it| it == SENTRY)
    }

    /// Whether something in the pod is expected to ask for a certificate. Sentry signs its own and never asks.
    pub(crate) fn is_workload(&self) -> bool {
        let annotations = self.annotations();
        let is_enabled = annotations.get(ENABLED).is_some_and(|it| is_truthy(it));
        let service = annotations.get(CONTROL_PLANE);
        !self.has_ended() && (is_enabled || service.is_some_and(|it| it != SENTRY))
    }
}

impl Configuration {
    pub(crate) fn trust_domain(&self) -> &str {
        let access_control = self.spec.as_ref().and_then(|it| it.access_control.as_ref());
        access_control
            .and_then(|it| it.trust_domain.as_deref())
            .unwrap_or_default()
    }
}

resource!(Pod, "Pod", "", "v1", "pods");
resource!(
    Configuration,
    "Configuration",
    "dapr.io",
    "v1alpha1",
    "configurations"
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_decides_is_kept() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "labels": {"app": "a"}, "managedFields": [{"manager": "m"}],
                "annotations": {"dapr.io/app-id": "orders", "other": "x", "dapr.io/enabled": "yes"},
            },
            "spec": {"serviceAccountName": "sa", "containers": [{"name": "c"}]},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        assert_eq!(
            (pod.name(), pod.uid(), pod.service_account()),
            ("a", Some("u"), "sa")
        );
        assert_eq!(pod.annotations().len(), 2);
        assert_eq!(pod.metadata.labels, None);
        assert!(pod.is_workload() && !pod.has_ended());
    }

    #[test]
    fn a_pod_that_has_ended_is_no_workload() {
        let check = |phase: &str, expected: bool| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "a", "annotations": {"dapr.io/enabled": "true"}},
                "status": {"phase": phase},
            }))
            .unwrap();
            assert_eq!(
                (pod.has_ended(), pod.is_workload()),
                (expected, !expected),
                "{phase}"
            );
        };
        check("Running", false);
        check("Succeeded", true);
        check("Failed", true);
        check("Dreaming", false);
    }

    #[test]
    fn nobody_waits_for_sentry_to_ask_itself() {
        let check = |service: &str, expected: bool| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "a", "annotations": {"dapr.io/control-plane": service}},
            }))
            .unwrap();
            assert_eq!(pod.is_workload(), expected, "{service}");
        };
        check("placement", true);
        check("sentry", false);
    }

    #[test]
    fn what_is_absent_is_empty() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!((pod.service_account(), pod.uid()), ("", None));
        assert!(pod.annotations().is_empty() && !pod.is_workload());
        let check = |spec: serde_json::Value, expected: &str| {
            let object = json!({"metadata": {"name": "a"}, "spec": spec});
            let configuration: Configuration = serde_json::from_value(object).unwrap();
            assert_eq!(configuration.trust_domain(), expected);
        };
        check(json!({}), "");
        check(json!(null), "");
        check(json!({"accessControl": null}), "");
        check(
            json!({"accessControl": {"trustDomain": "example.org"}}),
            "example.org",
        );
    }
}

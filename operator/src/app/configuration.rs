//! What the operator itself reads from the Configuration of the control plane.

use dapr_kubernetes::{resource, slim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client};
use serde::{Deserialize, Deserializer};

/// Where Sentry is when the Configuration does not say.
const SENTRY_PORT: u16 = 443;
/// The trust domain of the control plane when the Configuration does not say.
const TRUST_DOMAIN: &str = "cluster.local";

/// What the operator needs to get its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ControlPlane {
    /// Trust domain of the control plane's identities.
    pub(super) trust_domain: String,
    /// `host:port` of Sentry.
    pub(super) sentry_address: String,
}

/// A Configuration, as far as it is about the control plane.
#[derive(Clone, Debug, Default, Deserialize)]
struct System {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<Spec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    mtls: Option<Mtls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mtls {
    control_plane_trust_domain: Option<String>,
    sentry_address: Option<String>,
}

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    slim::metadata(from, slim::Keep::default())
}

resource!(
    System,
    "Configuration",
    "dapr.io",
    "v1alpha1",
    "configurations"
);

/// Why there is no Configuration to start with.
#[derive(Debug, thiserror::Error)]
#[error("error creating operator: unable to load configuration, config: {name}, err: {reason}")]
pub(super) struct Error {
    name: String,
    reason: String,
}

impl ControlPlane {
    /// Reads the Configuration `name` straight from the API server.
    pub(super) async fn read(client: &Client, namespace: &str, name: &str) -> Result<Self, Error> {
        let api = Api::<System>::namespaced(client.clone(), namespace);
        let found = api.get_opt(name).await;
        let reason = match found {
            Ok(Some(system)) => return Ok(Self::of(system, namespace)),
            Ok(None) => format!("configurations.dapr.io {name:?} not found"),
            Err(error) => dapr_kit::process::chain(&error),
        };
        Err(Error {
            name: name.to_owned(),
            reason,
        })
    }

    fn of(system: System, namespace: &str) -> Self {
        let mtls = system.spec.and_then(|spec| spec.mtls).unwrap_or_default();
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            trust_domain: said(mtls.control_plane_trust_domain)
                .unwrap_or_else(|| TRUST_DOMAIN.to_owned()),
            sentry_address: said(mtls.sentry_address).unwrap_or_else(|| {
                format!("dapr-sentry.{namespace}.svc.cluster.local:{SENTRY_PORT}")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_not_said_is_what_an_installation_has() {
        let check = |spec: Value, trust_domain: &str, sentry_address: &str| {
            let system = json!({"metadata": {"name": "daprsystem"}, "spec": spec});
            let system = serde_json::from_value(system).expect("a Configuration");
            let expected = ControlPlane {
                trust_domain: trust_domain.to_owned(),
                sentry_address: sentry_address.to_owned(),
            };
            assert_eq!(ControlPlane::of(system, "dapr-system"), expected, "{spec}");
        };
        let usual = "dapr-sentry.dapr-system.svc.cluster.local:443";
        check(json!(null), "cluster.local", usual);
        check(json!({"mtls": {"enabled": false}}), "cluster.local", usual);
        check(
            json!({"mtls": {"controlPlaneTrustDomain": "td", "sentryAddress": "s:1"}}),
            "td",
            "s:1",
        );
    }
}

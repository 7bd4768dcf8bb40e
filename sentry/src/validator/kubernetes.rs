//! The `kubernetes` validator: the API server says whose token it is, and the pod says which app it is.
//!
//! The decision is a pure function of what the API server answered; pods and configurations come from watches.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::TrustDomain;
use serde_json::Value;

mod cluster;
mod objects;
mod review;

pub(crate) use cluster::Cluster;
pub(crate) use objects::{Configuration, Pod};
pub(crate) use review::Reviewer;

/// Pods of the control plane, and only they, may have these; the id is `dapr-` and the value.
const CONTROL_PLANE: [&str; 5] = ["operator", "placement", "injector", "sentry", "scheduler"];
/// Bytes of a token; a real one has about one and a half kilobytes.
const TOKEN_LIMIT: usize = 64 * 1024;

/// Why a request is denied, in upstream's words; what they leave out follows them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("token review failed: token is missing")]
    NoToken,
    #[error("invalid token: longer than {TOKEN_LIMIT} bytes")]
    TokenLimit,
    #[error("invalid token: not a JSON web token")]
    Malformed,
    #[error("invalid token: {0}")]
    Review(String),
    #[error("authentication failed")]
    NotAuthenticated,
    #[error(
        "provided token is not a properly structured service account token: it belongs to {0:?}"
    )]
    NoServiceAccount(String),
    #[error("kubernetes.io/pod/name claim is missing from Kubernetes token")]
    Unbound,
    #[error("failed to get pod of identity: pod {0} does not exist")]
    NoPod(String),
    #[error("namespace mismatch; received namespace: {0}")]
    Namespace(String),
    #[error("pod service account mismatch: pod {pod} does not run as {account:?}")]
    Account { pod: String, account: String },
    #[error("control plane service in namespace '{0}' is not allowed")]
    ControlPlaneNamespace(String),
    #[error(
        "unknown control plane service '{pod}': annotation \"dapr.io/control-plane\" is {value:?}"
    )]
    ControlPlaneValue { pod: String, value: String },
    #[error("control plane service '{0}' cannot have annotation 'dapr.io/app-id'")]
    Both(String),
    #[error("app-id mismatch. expected: {expected}, received: {received}")]
    AppId { expected: String, received: String },
    #[error("failed to get configuration: {0:?} of the pod does not exist")]
    NoConfiguration(String),
    #[error("failed to parse trust domain {value:?}: {reason}")]
    TrustDomain { value: String, reason: String },
}

/// What a token says about the pod it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundPod {
    pub(crate) name: String,
    /// API servers since 1.21 always name it.
    pub(crate) uid: Option<String>,
}

/// The service account a reviewed token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Which identities belong to the control plane.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) namespace: String,
}

/// Checks the form of a token and reads which pod it is bound to. Nothing is verified here: that is the API server's
/// part.
pub(crate) fn bound_pod(token: &str) -> Result<BoundPod, Denied> {
    if token.is_empty() {
        return Err(Denied::NoToken);
    }
    if token.len() > TOKEN_LIMIT {
        return Err(Denied::TokenLimit);
    }
    let claims = token
        .split('.')
        .nth(1)
        .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())
        .and_then(|json| serde_json::from_slice::<Value>(&json).ok())
        .ok_or(Denied::Malformed)?;
    let text = |name: &str| {
        let value = claims
            .get("kubernetes.io")?
            .get("pod")?
            .get(name)?
            .as_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    };
    Ok(BoundPod {
        name: text("name").ok_or(Denied::Unbound)?,
        uid: text("uid"),
    })
}

/// Reads the user name of a reviewed token: `system:serviceaccount:<namespace>:<name>`.
pub(crate) fn service_account(user: &str) -> Result<ServiceAccount, Denied> {
    match user.split(':').collect::<Vec<_>>()[..] {
        ["system", _, namespace, name] => Ok(ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err(Denied::NoServiceAccount(user.to_owned())),
    }
}

/// Decides which trust domain the identity of the request gets, or why it gets none.
pub(crate) fn decide(
    request: &SignCertificateRequest,
    account: &ServiceAccount,
    pod: &Pod,
    control_plane: &ControlPlane,
    configuration: impl Fn(&str, &str) -> Option<Arc<Configuration>>,
) -> Result<TrustDomain, Denied> {
    if account.namespace != request.namespace {
        return Err(Denied::Namespace(request.namespace.clone()));
    }
    if pod.service_account() != account.name {
        return Err(Denied::Account {
            pod: format!("{}/{}", account.namespace, pod.name()),
            account: account.name.clone(),
        });
    }
    let annotations = pod.annotations();
    let (expected, is_control_plane) = expected_id(annotations, pod, account, control_plane)?;
    if expected != request.id {
        return Err(Denied::AppId {
            expected,
            received: request.id.clone(),
        });
    }
    if is_control_plane {
        return Ok(control_plane.trust_domain.clone());
    }
    // Also one that is empty has to exist, and none can: who misspells it gets nothing.
    let Some(wanted) = annotations.get(dapr_crds::annotations::CONFIG) else {
        return public();
    };
    let Some(found) = configuration(&account.namespace, wanted) else {
        return Err(Denied::NoConfiguration(format!(
            "{}/{wanted}",
            account.namespace
        )));
    };
    match found.trust_domain() {
        "" => public(),
        text => trust_domain(text),
    }
}

fn expected_id(
    annotations: &BTreeMap<String, String>,
    pod: &Pod,
    account: &ServiceAccount,
    control_plane: &ControlPlane,
) -> Result<(String, bool), Denied> {
    let app_id = annotations.get(dapr_crds::annotations::APP_ID);
    let Some(part) = annotations.get(dapr_crds::annotations::CONTROL_PLANE) else {
        let id = app_id.map_or_else(|| pod.name(), String::as_str);
        return Ok((id.to_owned(), false));
    };
    if account.namespace != control_plane.namespace {
        return Err(Denied::ControlPlaneNamespace(account.namespace.clone()));
    }
    if !CONTROL_PLANE.contains(&part.as_str()) {
        return Err(Denied::ControlPlaneValue {
            pod: pod.name().to_owned(),
            value: part.clone(),
        });
    }
    if app_id.is_some() {
        return Err(Denied::Both(pod.name().to_owned()));
    }
    Ok((format!("dapr-{part}"), true))
}

fn public() -> Result<TrustDomain, Denied> {
    trust_domain(super::PUBLIC)
}

fn trust_domain(text: &str) -> Result<TrustDomain, Denied> {
    super::trust_domain(text).map_err(|reason| Denied::TrustDomain {
        value: text.to_owned(),
        reason: reason.to_string(),
    })
}

#[cfg(test)]
mod tests;

//! From the body of an admission review to its answer. Pure: what the cluster knows is behind [`Cluster`].
//!
//! Whatever the body is, there is an answer. The API server waits for it with every pod of the cluster.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_crds::annotations::{APP_ID, ENABLED, INJECT_PLUGGABLE_COMPONENTS};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::patch::{self, ComponentContainer, Operation, Pod};
use crate::requester::{Rules, UserInfo};
use crate::settings::Settings;
use crate::warnings;

/// The API group of reviews, with the versions that are understood.
const VERSIONS: [&str; 2] = ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"];
const KIND: &str = "AdmissionReview";
const POD: &str = "Pod";

/// What is known about the cluster right now; a cold cache answers as if nothing was found.
pub trait Cluster {
    /// The trust bundle as PEM.
    fn trust_anchors(&self) -> Arc<str>;
    /// Whether sidecars talk mTLS to each other.
    fn is_mtls(&self) -> bool;
    /// Whether this is the unique id of an allowed service account.
    fn is_allowed_uid(&self, uid: &str) -> bool;
    /// The Components of a namespace that bring a container.
    fn components(&self, namespace: &str) -> Vec<ComponentContainer>;
}

/// The injector's mind: what it puts into sidecars, and for whom.
#[derive(Clone, Debug)]
pub struct Injector {
    /// What it puts into sidecars.
    pub settings: Settings,
    /// For whom.
    pub rules: Rules,
}

/// An answer, and what to count.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// What happened.
    pub outcome: Outcome,
}

/// What became of a review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do.
    Ignored,
    /// The pod gets a sidecar.
    Injected {
        /// Of this app.
        app_id: String,
    },
    /// It does not, though it may have been wanted.
    Failed {
        /// Of this app, if that is known.
        app_id: String,
        /// Where.
        reason: Reason,
        /// Why, for the log.
        error: String,
    },
}

/// The step that failed, as the metric calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request is not about a pod, or not from somebody who may.
    PodPatch,
    /// There is no patch.
    Patch,
    /// There is no answer.
    Response,
}

impl Reason {
    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::PodPatch => "pod_patch",
            Self::Patch => "patch",
            Self::Response => "response",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    kind: Kind,
    namespace: Option<String>,
    #[serde(default)]
    user_info: UserInfo,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Kind {
    kind: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'a str>,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Status<'a> {
    metadata: Empty,
    message: &'a str,
}

#[derive(Serialize)]
struct Empty {}

/// What the pod's creator is told.
#[derive(Default)]
struct Verdict {
    denied: Option<String>,
    operations: Vec<Operation>,
    warnings: Vec<String>,
}

impl Injector {
    /// The answer to a review.
    pub fn review(&self, body: &[u8], cluster: &impl Cluster) -> Answer {
        let (version, request) = match decode(body) {
            Ok(decoded) => decoded,
            Err(error) => {
                let denied = Verdict {
                    denied: Some(error.clone()),
                    ..Verdict::default()
                };
                let outcome = failed(String::new(), Reason::Patch, error);
                return answer(None, "", &denied, outcome);
            }
        };
        let (verdict, outcome) = self.decide(&request, cluster);
        answer(Some(version), &request.uid, &verdict, outcome)
    }

    fn decide(&self, request: &Request<'_>, cluster: &impl Cluster) -> (Verdict, Outcome) {
        if request.kind.kind != POD {
            let error = format!("invalid kind for review: {:?}", request.kind.kind);
            let outcome = failed(String::new(), Reason::PodPatch, error);
            return (Verdict::default(), outcome);
        }
        let object = request.object.map_or("", RawValue::get);
        let pod: Pod = match serde_json::from_str(object) {
            Ok(pod) => pod,
            Err(error) => {
                let error = format!("could not unmarshal raw object: {error}");
                let verdict = Verdict {
                    denied: Some(error.clone()),
                    ..Verdict::default()
                };
                return (verdict, failed(String::new(), Reason::Patch, error));
            }
        };
        let annotations = &pod.metadata.annotations;
        let mut verdict = Verdict {
            warnings: warnings::of(annotations),
            ..Verdict::default()
        };
        let enabled = annotations.get(ENABLED);
        if !enabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return (verdict, Outcome::Ignored);
        }
        let app_id = annotations
            .get(APP_ID)
            .unwrap_or(&pod.metadata.name)
            .clone();
        if !self
            .rules
            .allow(&request.user_info, |uid| cluster.is_allowed_uid(uid))
        {
            let error = format!(
                "user {:?} is not in the list of allowed users for sidecar injection",
                request.user_info.username
            );
            return (verdict, failed(app_id, Reason::PodPatch, error));
        }
        let namespace = request.namespace.as_deref().unwrap_or_default();
        match self.patch(&pod, namespace, cluster) {
            Ok(patch) => {
                verdict.warnings.extend(patch.notes);
                if patch.operations.is_empty() {
                    return (verdict, Outcome::Ignored);
                }
                verdict.operations = patch.operations;
                (verdict, Outcome::Injected { app_id })
            }
            Err(error) => {
                let error = error.to_string();
                verdict.denied = Some(error.clone());
                (verdict, failed(app_id, Reason::Patch, error))
            }
        }
    }

    fn patch(
        &self,
        pod: &Pod,
        namespace: &str,
        cluster: &impl Cluster,
    ) -> Result<patch::Patch, patch::Error> {
        let brings = pod.metadata.annotations.get(INJECT_PLUGGABLE_COMPONENTS);
        let components = match brings {
            Some(text) if dapr_kit::truthy(text) => cluster.components(namespace),
            Some(_) | None => Vec::new(),
        };
        let trust_anchors = cluster.trust_anchors();
        let request = patch::Request {
            namespace,
            trust_anchors: &trust_anchors,
            mtls: cluster.is_mtls(),
            components: &components,
        };
        patch::patch(pod, &self.settings, &request)
    }
}

fn decode(body: &[u8]) -> Result<(&'static str, Request<'_>), String> {
    let review: Review<'_> = serde_json::from_slice(body)
        .map_err(|error| format!("could not decode the admission review: {error}"))?;
    let version = review.api_version.unwrap_or_default();
    let kind = review.kind.unwrap_or_default();
    let known = VERSIONS.into_iter().find(|known| *known == version);
    let Some(version) = known.filter(|_| kind == KIND) else {
        return Err(format!(
            "no kind {kind:?} is registered for version {version:?}"
        ));
    };
    let request = review
        .request
        .ok_or("the admission review has no request")?;
    Ok((version, request))
}

fn failed(app_id: String, reason: Reason, error: String) -> Outcome {
    Outcome::Failed {
        app_id,
        reason,
        error,
    }
}

fn answer(version: Option<&str>, uid: &str, verdict: &Verdict, outcome: Outcome) -> Answer {
    match encode(version, uid, verdict) {
        Ok(body) => Answer { body, outcome },
        Err(error) => {
            let outcome = failed(String::new(), Reason::Response, error.to_string());
            Answer {
                body: Vec::new(),
                outcome,
            }
        }
    }
}

fn encode(
    version: Option<&str>,
    uid: &str,
    verdict: &Verdict,
) -> Result<Vec<u8>, serde_json::Error> {
    let patch = match &verdict.operations[..] {
        [] => None,
        operations => Some(STANDARD.encode(serde_json::to_vec(operations)?)),
    };
    let status = verdict.denied.as_deref().map(|message| Status {
        metadata: Empty {},
        message,
    });
    let shown = verdict.warnings.len().min(warnings::LIMIT);
    serde_json::to_vec(&Reply {
        kind: version.map(|_| KIND),
        api_version: version,
        response: Response {
            uid,
            allowed: status.is_none(),
            status,
            patch_type: patch.as_ref().map(|_| "JSONPatch"),
            patch,
            warnings: &verdict.warnings[..shown],
        },
    })
}

#[cfg(test)]
mod tests;

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

const POD: &str = "Pod";

/// What is known about the cluster right now; but for Components, a cold cache answers as if nothing was found.
pub trait Cluster {
    /// The trust bundle as PEM.
    fn trust_anchors(&self) -> Arc<str>;
    /// Whether sidecars talk mTLS to each other.
    fn is_mtls(&self) -> bool;
    /// Whether this is the unique id of an allowed service account.
    fn is_allowed_uid(&self, uid: &str) -> bool;
    /// The Components of a namespace that bring a container; `None` as long as none could be listed.
    fn components(&self, namespace: &str) -> Option<Vec<ComponentContainer>>;
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
    uid: Option<String>,
    kind: Option<Kind>,
    namespace: Option<String>,
    user_info: Option<UserInfo>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// The type of a review as it was written, which its answer repeats.
#[derive(Default)]
struct TypeMeta {
    api_version: Option<String>,
    kind: Option<String>,
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
        let (review, request) = match decode(body) {
            Ok(decoded) => decoded,
            Err(error) => {
                let denied = Verdict {
                    denied: Some(error.clone()),
                    ..Verdict::default()
                };
                let outcome = failed(String::new(), Reason::Patch, error);
                return answer(&TypeMeta::default(), "", &denied, outcome);
            }
        };
        let (verdict, outcome) = self.decide(&request, cluster);
        let uid = request.uid.as_deref().unwrap_or_default();
        answer(&review, uid, &verdict, outcome)
    }

    fn decide(&self, request: &Request<'_>, cluster: &impl Cluster) -> (Verdict, Outcome) {
        let kind = request.kind.as_ref().and_then(|kind| kind.kind.as_deref());
        let kind = kind.unwrap_or_default();
        if kind != POD {
            let error = format!("invalid kind for review: {kind}");
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
        let nobody = UserInfo::default();
        let user = request.user_info.as_ref().unwrap_or(&nobody);
        if !self.rules.allow(user, |uid| cluster.is_allowed_uid(uid)) {
            let error = format!(
                "service account '{}' not on the list of allowed controller accounts",
                user.username
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
            Some(_) | None => Some(Vec::new()),
        };
        let trust_anchors = cluster.trust_anchors();
        let request = patch::Request {
            namespace,
            trust_anchors: &trust_anchors,
            mtls: cluster.is_mtls(),
            components: components.as_deref(),
        };
        patch::patch(pod, &self.settings, &request)
    }
}

/// Whatever version and kind it says: what is read has been the same in all of them.
fn decode(body: &[u8]) -> Result<(TypeMeta, Request<'_>), String> {
    let review: Review<'_> = serde_json::from_slice(body)
        .map_err(|error| format!("could not decode the admission review: {error}"))?;
    let request = review
        .request
        .ok_or("the admission review has no request")?;
    let written = |text: Option<String>| text.filter(|text| !text.is_empty());
    let review = TypeMeta {
        api_version: written(review.api_version),
        kind: written(review.kind),
    };
    Ok((review, request))
}

fn failed(app_id: String, reason: Reason, error: String) -> Outcome {
    Outcome::Failed {
        app_id,
        reason,
        error,
    }
}

fn answer(review: &TypeMeta, uid: &str, verdict: &Verdict, outcome: Outcome) -> Answer {
    match encode(review, uid, verdict) {
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

fn encode(review: &TypeMeta, uid: &str, verdict: &Verdict) -> Result<Vec<u8>, serde_json::Error> {
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
        kind: review.kind.as_deref(),
        api_version: review.api_version.as_deref(),
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

//! WorkflowAccessPolicy: which apps may act on the workflows and activities of others.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meta::{V1Alpha1, or_default, resource};
use crate::schema::{Rule, Schema, list, object, text};
use crate::value::scopes_schema;

/// The operations a workflow rule can allow.
pub const OPERATIONS: [&str; 8] = [
    "schedule",
    "terminate",
    "raise",
    "pause",
    "resume",
    "purge",
    "get",
    "rerun",
];

/// Allow rules that protect the apps in `scopes`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename = "WorkflowAccessPolicy",
    default,
    rename_all = "camelCase"
)]
pub struct WorkflowAccessPolicy {
    /// Always `dapr.io/v1alpha1`.
    pub api_version: V1Alpha1,
    /// Name, namespace and the rest.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// The rules.
    #[serde(deserialize_with = "or_default")]
    pub spec: WorkflowAccessPolicySpec,
    /// Apps the policy protects; empty means every app of the namespace.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(
    WorkflowAccessPolicy,
    "WorkflowAccessPolicy",
    "v1alpha1",
    "workflowaccesspolicies",
    |it| &it.scopes
);

/// The allow rules; what none of them allows is denied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkflowAccessPolicySpec {
    /// The rules.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AccessRule>,
}

/// What some callers may do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessRule {
    /// Who.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<Caller>,
    /// On which workflows.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<WorkflowRule>,
    /// On which activities.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub activities: Vec<ActivityRule>,
}

/// A calling app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Caller {
    /// Its app id, exact.
    #[serde(rename = "appID", deserialize_with = "or_default")]
    pub app_id: String,
}

/// Operations on workflows of one name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkflowRule {
    /// Exact name or glob.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Words out of [`OPERATIONS`].
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
}

/// Scheduling of activities of one name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ActivityRule {
    /// Exact name or glob.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

const TARGET_RULE: Rule = Rule {
    cel: "(has(self.workflows) && size(self.workflows) > 0) || (has(self.activities) && size(self.activities) > 0)",
    message: "at least one of workflows or activities must contain a rule",
    holds: has_target,
};

fn has_target(rule: &Value) -> bool {
    ["workflows", "activities"].iter().any(|list| {
        rule.get(list)
            .and_then(Value::as_array)
            .is_some_and(|items| !items.is_empty())
    })
}

pub(crate) fn schema() -> Schema {
    let caller = object().required(
        "appID",
        "App id of the caller, exactly.",
        text().min_length(1),
    );
    let operations = list(text().one_of(&OPERATIONS)).min_items(1).set();
    let name = || text().min_length(1);
    let workflow = object()
        .required(
            "name",
            "Name of the workflow, or a pattern with *, ? and [...], where * does not cross \
             a slash.",
            name(),
        )
        .required(
            "operations",
            "What the callers may do: schedule, terminate, raise, pause, resume, purge, get \
             or rerun.",
            operations,
        );
    let activity = object().required(
        "name",
        "Name of the activity, or a pattern with *, ? and [...], where * does not cross \
         a slash.",
        name(),
    );
    let rule = object()
        .required(
            "callers",
            "Who may do it; apps of the same namespace only.",
            list(caller).min_items(1),
        )
        .optional(
            "workflows",
            "Workflows, and what may be done with them.",
            list(workflow),
        )
        .optional(
            "activities",
            "Activities that may be scheduled.",
            list(activity),
        )
        .rule(TARGET_RULE);
    let spec = object().optional(
        "rules",
        "What is allowed; everything else is denied to other apps.",
        list(rule),
    );
    object()
        .optional(
            "scopes",
            "App ids that the policy protects; all of the namespace when empty.",
            scopes_schema(),
        )
        .optional("spec", "What other apps may do.", spec)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{WorkflowAccessPolicy, has_target};

    #[test]
    fn a_rule_needs_a_target() {
        let check = |rule: serde_json::Value, expected: bool| {
            assert_eq!(has_target(&rule), expected, "{rule}")
        };
        check(json!({}), false);
        check(json!({"workflows": []}), false);
        check(
            json!({"workflows": [], "activities": [{"name": "a"}]}),
            true,
        );
        check(json!({"workflows": [{"name": "w"}]}), true);
    }

    #[test]
    fn empty_fields_are_written_as_upstream_writes_them() {
        assert_eq!(
            serde_json::to_value(WorkflowAccessPolicy::default()).unwrap(),
            json!({"kind": "WorkflowAccessPolicy", "apiVersion": "dapr.io/v1alpha1", "metadata": {}, "spec": {}})
        );
    }
}

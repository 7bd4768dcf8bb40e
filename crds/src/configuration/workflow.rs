//! `spec.workflow`.

use serde::{Deserialize, Serialize};

use crate::meta::or_default;

/// Limits and retention of the workflow engine; what is absent is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkflowSpec {
    /// Workflows running at once per sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_workflow_invocations: Option<i32>,
    /// Activities running at once per sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_activity_invocations: Option<i32>,
    /// Workflows running at once in the cluster; kept by the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_max_concurrent_workflow_invocations: Option<i32>,
    /// Activities running at once in the cluster; kept by the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_max_concurrent_activity_invocations: Option<i32>,
    /// Cluster-wide limits per workflow name.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub workflow_concurrency_limits: Vec<ConcurrencyLimit>,
    /// Cluster-wide limits per activity name.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub activity_concurrency_limits: Vec<ConcurrencyLimit>,
    /// How long finished workflows are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_retention_policy: Option<StateRetentionPolicy>,
}

/// A limit for one name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConcurrencyLimit {
    /// Workflow or activity name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// How many run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<i32>,
}

/// How long finished workflows are kept, as Go durations; a state's own field wins over `any_terminal`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StateRetentionPolicy {
    /// Any final state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any_terminal: Option<String>,
    /// Completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<String>,
    /// Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Terminated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated: Option<String>,
}

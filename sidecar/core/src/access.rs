//! Access control for calls of other sidecars: who may call which operation, decided by the callee.

mod operations;

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;

use self::operations::Operations;
use crate::app::Protocol;
use crate::invoke::CallerId;

/// `spec.accessControl` of a Configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// `allow` or `deny`; empty depends on the policies.
    pub default_action: String,
    /// Trust domain of this application.
    pub trust_domain: String,
    /// Per caller; `None` when absent.
    pub policies: Option<Vec<Policy>>,
}

/// What one caller may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Caller.
    pub app_id: String,
    /// For operations not listed; empty is the global default.
    pub default_action: String,
    /// Trust domain the caller must have.
    pub trust_domain: String,
    /// Namespace the caller must have.
    pub namespace: String,
    /// Operations in the order of declaration.
    pub operations: Vec<Operation>,
}

/// Operations of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Path with wildcards.
    pub name: String,
    /// Verbs in upper case, or `*`.
    pub http_verb: Vec<String>,
    /// `allow` or `deny`.
    pub action: String,
}

/// Access control, parsed for one protocol of the application.
#[derive(Debug)]
pub struct AccessControl {
    allow_by_default: bool,
    /// By app id, then namespace.
    policies: BTreeMap<String, BTreeMap<String, Rules>>,
}

/// What one caller may do, parsed.
#[derive(Debug)]
struct Rules {
    trust_domain: String,
    /// `None` leaves it to the global default.
    allow_by_default: Option<bool>,
    operations: Operations,
}

/// A specification that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid access control spec. missing trustdomain for apps: [{}], missing namespace for apps: [{}], missing app name on at least one of the app policies: {missing_app_id}",
    missing_trust_domain.join(" "),
    missing_namespace.join(" ")
)]
pub struct InvalidSpec {
    /// Apps without trust domain.
    pub missing_trust_domain: Vec<String>,
    /// Apps without namespace.
    pub missing_namespace: Vec<String>,
    /// Whether a policy names no app.
    pub missing_app_id: bool,
}

/// What was decided about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call may go on.
    pub allowed: bool,
    /// Whether a policy for the caller decided, instead of the global default.
    pub by_app_policy: bool,
}

impl AccessControl {
    /// Parses a specification; `None` where it says nothing and everything is allowed.
    pub fn parse(spec: &Spec, protocol: Protocol) -> Result<Option<Self>, InvalidSpec> {
        let policies = spec.policies.as_deref();
        let is_silent = spec.default_action.is_empty() && spec.trust_domain.is_empty();
        if is_silent && policies.is_none_or(<[Policy]>::is_empty) {
            return Ok(None);
        }
        check(policies.unwrap_or_default())?;
        let allow_by_default = match spec.default_action.as_str() {
            // Only an explicit empty list opens the door; no list at all closes it.
            "" => policies.is_some_and(<[Policy]>::is_empty),
            action => is_allow(action),
        };
        let mut access = Self {
            allow_by_default,
            policies: BTreeMap::new(),
        };
        for policy in policies.unwrap_or_default() {
            access
                .policies
                .entry(policy.app_id.clone())
                .or_default()
                .insert(policy.namespace.clone(), Rules::new(policy, protocol));
        }
        Ok(Some(access))
    }

    /// Decides about a call of `operation` with `verb` (`None` for gRPC).
    pub fn decide(
        &self,
        caller: Option<&CallerId>,
        operation: &str,
        verb: Option<&Method>,
        protocol: Protocol,
    ) -> Decision {
        let rules = caller.and_then(|caller| {
            self.policies
                .get(&caller.app_id)?
                .get(&caller.namespace)
                .filter(|rules| rules.trust_domain == caller.trust_domain)
        });
        let Some(rules) = rules else {
            return Decision {
                allowed: self.allow_by_default,
                by_app_policy: false,
            };
        };
        let default = rules.allow_by_default.unwrap_or(self.allow_by_default);
        Decision {
            allowed: rules
                .operations
                .decide(operation, verb, protocol)
                .unwrap_or(default),
            by_app_policy: true,
        }
    }
}

impl Rules {
    fn new(policy: &Policy, protocol: Protocol) -> Self {
        let mut operations = Operations::default();
        for operation in &policy.operations {
            operations.add(operation, protocol);
        }
        let action = policy.default_action.as_str();
        Self {
            trust_domain: policy.trust_domain.clone(),
            allow_by_default: (!action.is_empty()).then(|| is_allow(action)),
            operations,
        }
    }
}

fn check(policies: &[Policy]) -> Result<(), InvalidSpec> {
    let apps_without = |field: fn(&Policy) -> &String| -> Vec<String> {
        policies
            .iter()
            .filter(|policy| !policy.app_id.is_empty() && field(policy).is_empty())
            .map(|policy| policy.app_id.clone())
            .collect()
    };
    let invalid = InvalidSpec {
        missing_trust_domain: apps_without(|policy| &policy.trust_domain),
        missing_namespace: apps_without(|policy| &policy.namespace),
        missing_app_id: policies.iter().any(|policy| policy.app_id.is_empty()),
    };
    let is_valid = invalid.missing_trust_domain.is_empty()
        && invalid.missing_namespace.is_empty()
        && !invalid.missing_app_id;
    if is_valid { Ok(()) } else { Err(invalid) }
}

fn is_allow(action: &str) -> bool {
    action.eq_ignore_ascii_case("allow")
}

#[cfg(test)]
mod tests;

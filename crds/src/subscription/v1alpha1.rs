//! Subscription `dapr.io/v1alpha1`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{BulkSubscribe, schema_with};
use crate::meta::{V1Alpha1, or_default, or_default_values, resource};
use crate::schema::{Schema, object, text};

/// A topic an app receives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename = "Subscription",
    default,
    rename_all = "camelCase"
)]
pub struct Subscription {
    /// Always `dapr.io/v1alpha1`.
    pub api_version: V1Alpha1,
    /// Name, namespace and the rest.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// Topic and route.
    #[serde(deserialize_with = "or_default")]
    pub spec: SubscriptionSpec,
    /// Apps that subscribe; empty means all.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(
    Subscription,
    "Subscription",
    "v1alpha1",
    "subscriptions",
    |it| &it.scopes
);

/// Topic and route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionSpec {
    /// The pub/sub component.
    #[serde(deserialize_with = "or_default")]
    pub pubsubname: String,
    /// The topic.
    #[serde(deserialize_with = "or_default")]
    pub topic: String,
    /// Path of the app.
    #[serde(deserialize_with = "or_default")]
    pub route: String,
    /// Topic for messages that could not be delivered.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub dead_letter_topic: String,
    /// Settings passed to the component.
    #[serde(
        deserialize_with = "or_default_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub metadata: BTreeMap<String, String>,
    /// Delivery in batches.
    #[serde(deserialize_with = "or_default")]
    pub bulk_subscribe: BulkSubscribe,
}

pub(crate) fn schema() -> Schema {
    let spec = object()
        .required("pubsubname", "Name of the pub/sub component.", text())
        .required("topic", "The topic.", text())
        .required(
            "route",
            "Path of the app that messages are sent to; v2alpha1 has rules beside it.",
            text(),
        );
    schema_with(spec)
}

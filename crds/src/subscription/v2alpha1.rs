//! Subscription `dapr.io/v2alpha1`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{BulkSubscribe, schema_with};
use crate::meta::{V2Alpha1, or_default, or_default_values, resource};
use crate::schema::{Schema, list, object, text};

/// A topic an app receives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename = "Subscription",
    default,
    rename_all = "camelCase"
)]
pub struct Subscription {
    /// Always `dapr.io/v2alpha1`.
    pub api_version: V2Alpha1,
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
    "v2alpha1",
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
    /// Where messages go.
    #[serde(deserialize_with = "or_default")]
    pub routes: Routes,
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

/// Where messages go: the first rule that matches, else the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Routes {
    /// Rules in order.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RouteRule>,
    /// Path when no rule matches.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub default: String,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteRule {
    /// CEL expression over the event.
    #[serde(deserialize_with = "or_default")]
    pub r#match: String,
    /// Path of the app.
    #[serde(deserialize_with = "or_default")]
    pub path: String,
}

pub(crate) fn schema() -> Schema {
    let rule = object()
        .required(
            "match",
            "CEL condition over the message, for example event.type == 'order'.",
            text(),
        )
        .required("path", "Path of the app.", text());
    let routes = object()
        .optional(
            "rules",
            "Rules in order; the first whose condition holds decides.",
            list(rule),
        )
        .optional("default", "Path of the app when no rule holds.", text());
    let spec = object()
        .required("pubsubname", "Name of the pub/sub component.", text())
        .required("topic", "The topic.", text())
        .required(
            "routes",
            "Paths of the app that messages are sent to.",
            routes,
        );
    schema_with(spec)
}

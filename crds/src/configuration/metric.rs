//! `spec.metric` and `spec.metrics`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::meta::{or_default, or_default_values};

/// Latency buckets in milliseconds when none are given.
pub const DEFAULT_LATENCY_BUCKETS: [i64; 34] = [
    1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400,
    500, 650, 800, 1000, 2000, 5000, 10000, 20000, 50000, 100_000,
];

/// Metrics of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetricSpec {
    /// Whether metrics are collected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether error codes are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_error_codes: Option<bool>,
    /// HTTP metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<MetricHttp>,
    /// Upper bounds of the latency histograms in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_distribution_buckets: Option<Vec<i64>>,
    /// How label values are rewritten.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<MetricRule>,
}

impl MetricSpec {
    /// Whether metrics are on; they are unless switched off by name.
    pub fn is_enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }

    /// The histogram bounds in milliseconds.
    pub fn latency_buckets(&self) -> &[i64] {
        self.latency_distribution_buckets
            .as_deref()
            .unwrap_or(&DEFAULT_LATENCY_BUCKETS)
    }

    pub(super) fn overridden_by(mut self, other: &Self) -> Self {
        self.enabled = other.enabled.or(self.enabled);
        self.record_error_codes = other.record_error_codes.or(self.record_error_codes);
        self.http = other.http.clone().or(self.http);
        self.latency_distribution_buckets = other
            .latency_distribution_buckets
            .clone()
            .or(self.latency_distribution_buckets);
        if !other.rules.is_empty() {
            self.rules.clone_from(&other.rules);
        }
        self
    }
}

/// HTTP metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetricHttp {
    /// Whether paths become labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub increased_cardinality: Option<bool>,
    /// Path templates.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub path_matching: Vec<String>,
    /// Whether the method is left out of the labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_verbs: Option<bool>,
}

impl MetricHttp {
    /// Whether paths become labels; they do unless switched off by name.
    pub fn has_increased_cardinality(&self) -> bool {
        self.increased_cardinality.unwrap_or(true)
    }
}

/// Rewrites the labels of one metric.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetricRule {
    /// Metric name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: Vec<MetricLabel>,
}

/// Rewrites one label.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetricLabel {
    /// Label name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Replacement value → regular expression.
    #[serde(deserialize_with = "or_default_values")]
    pub regex: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::configuration::{ConfigurationSpec, DEFAULT_LATENCY_BUCKETS};

    fn spec(value: Value) -> ConfigurationSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn metrics_overrides_metric_field_by_field() {
        let check = |input: Value, expected: Value| {
            assert_eq!(
                serde_json::to_value(spec(input.clone()).effective_metric()).unwrap(),
                expected,
                "{input}"
            );
        };
        check(json!({}), json!({}));
        check(
            json!({"metric": {"enabled": false}}),
            json!({"enabled": false}),
        );
        check(
            json!({"metric": {"enabled": false}, "metrics": {"enabled": true}}),
            json!({"enabled": true}),
        );
        check(
            json!({"metric": {"enabled": false, "rules": [{"name": "a", "labels": []}]}, "metrics": {"recordErrorCodes": true}}),
            json!({"enabled": false, "recordErrorCodes": true, "rules": [{"name": "a", "labels": []}]}),
        );
        check(
            json!({"metric": {"http": {"excludeVerbs": true}, "latencyDistributionBuckets": [1]},
                   "metrics": {"http": {"increasedCardinality": false}, "latencyDistributionBuckets": [2, 3]}}),
            json!({"http": {"increasedCardinality": false}, "latencyDistributionBuckets": [2, 3]}),
        );
    }

    #[test]
    fn names_with_nothing_behind_them_are_entries() {
        let rule = json!({"name": "r", "labels": [{"name": "l", "regex": {"x": null}}]});
        let metric = spec(json!({"metric": {"rules": [rule]}})).effective_metric();
        let metric = serde_json::to_value(metric).unwrap();
        assert_eq!(metric["rules"][0]["labels"][0]["regex"], json!({"x": ""}));
    }

    #[test]
    fn defaults_are_on() {
        let metric = spec(json!({})).effective_metric();
        assert!(metric.is_enabled());
        assert_eq!(metric.latency_buckets(), DEFAULT_LATENCY_BUCKETS);
        assert!(metric.http.unwrap_or_default().has_increased_cardinality());
    }
}

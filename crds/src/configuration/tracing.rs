//! `spec.tracing`.

use serde::{Deserialize, Serialize};

use crate::meta::{is_false, or_default};
use crate::value::NameValuePair;

/// Where traces go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TracingSpec {
    /// Share of traces kept, a number from 0 to 1 as text.
    #[serde(deserialize_with = "or_default")]
    pub sampling_rate: String,
    /// Whether spans are printed.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub stdout: bool,
    /// A Zipkin collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zipkin: Option<ZipkinSpec>,
    /// An OpenTelemetry collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otel: Option<OtelSpec>,
}

/// A Zipkin collector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ZipkinSpec {
    /// URL of its span API.
    #[serde(deserialize_with = "or_default")]
    pub endpoint_address: String,
}

/// An OpenTelemetry collector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OtelSpec {
    /// `http` or `grpc`.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    /// Host and port.
    #[serde(deserialize_with = "or_default")]
    pub endpoint_address: String,
    /// Whether TLS is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_secure: Option<bool>,
    /// Headers of each export.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<OtelHeader>,
    /// Limit of an export as a Go duration.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub timeout: String,
}

/// A header of each export: a pair in an object, `name=value` in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OtelHeader {
    /// `name=value`.
    Text(String),
    /// A pair whose secret the operator resolves.
    Pair(NameValuePair),
}

impl OtelHeader {
    /// Name and value, or `None` for a text without `=`.
    pub fn parts(&self) -> Option<(String, String)> {
        match self {
            Self::Text(text) => text
                .split_once('=')
                .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())),
            Self::Pair(pair) => Some((pair.name.clone(), pair.value.as_text().into_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::OtelHeader;

    #[test]
    fn headers_come_in_two_spellings() {
        let check = |input: Value, expected: Option<(&str, &str)>| {
            let header: OtelHeader = serde_json::from_value(input.clone()).unwrap();
            let parts = header.parts();
            assert_eq!(
                parts
                    .as_ref()
                    .map(|(name, value)| (name.as_str(), value.as_str())),
                expected,
                "{input}"
            );
        };
        check(json!("api-key=a=b"), Some(("api-key", "a=b")));
        check(json!("no value"), None);
        check(
            json!({"name": "api-key", "value": "secret"}),
            Some(("api-key", "secret")),
        );
        check(json!({"name": "depth", "value": 3}), Some(("depth", "3")));
    }
}

//! Name/value pairs and the references they hold, as Components, endpoints and exporters share them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::meta::or_default;
use crate::schema::{Schema, any, list, object, text};

/// Any JSON, kept as it was written and turned into text only when a reader asks for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DynamicValue(pub Value);

impl DynamicValue {
    /// Whether a value was written at all; `null` counts as none, `""` and `false` count as one.
    pub fn is_set(&self) -> bool {
        !self.0.is_null()
    }

    /// The text components read: strings without their quotes, everything else as JSON, and nothing at all
    /// for a value that is not set.
    pub fn as_text(&self) -> Cow<'_, str> {
        match &self.0 {
            Value::Null => Cow::Borrowed(""),
            Value::String(text) => Cow::Borrowed(text),
            Value::Number(number) => Cow::Owned(number_text(number)),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => Cow::Owned(self.0.to_string()),
        }
    }
}

impl From<&str> for DynamicValue {
    fn from(text: &str) -> Self {
        Self(Value::from(text))
    }
}

impl From<String> for DynamicValue {
    fn from(text: String) -> Self {
        Self(Value::from(text))
    }
}

/// One configuration pair of a resource. Which of the three sources wins is decided where it is resolved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NameValuePair {
    /// Property name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The literal value.
    #[serde(deserialize_with = "or_default")]
    pub value: DynamicValue,
    /// Where a secret store holds the value; an empty name means it is not a reference.
    #[serde(deserialize_with = "or_default")]
    pub secret_key_ref: SecretKeyRef,
    /// The sidecar's environment variable that holds the value when none is written here.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub env_ref: String,
}

/// A place in a secret store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the secret.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The field inside the secret, see [`SecretKeyRef::field`].
    #[serde(deserialize_with = "or_default")]
    pub key: String,
}

impl SecretKeyRef {
    /// Whether the reference names a secret.
    pub fn is_set(&self) -> bool {
        !self.name.is_empty()
    }

    /// The field to read inside the secret: `key`, or the secret's own name when `key` is empty.
    pub fn field(&self) -> &str {
        if self.key.is_empty() {
            &self.name
        } else {
            &self.key
        }
    }
}

/// The secret store that resolves the references of one resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Auth {
    /// Name of the store. Empty or `kubernetes` means that the operator resolves the references.
    #[serde(deserialize_with = "or_default")]
    pub secret_store: String,
}

impl Auth {
    /// Whether the references are resolved by the operator from Kubernetes Secrets.
    pub fn is_kubernetes(&self) -> bool {
        matches!(self.secret_store.as_str(), "" | "kubernetes")
    }
}

/// Writes a number as Go's JSON encoder does: no exponent between 1e-6 and 1e21, no trailing `.0`.
pub(crate) fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float_text(float),
        _ => number.to_string(),
    }
}

fn float_text(float: f64) -> String {
    let size = float.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return format!("{float}");
    }
    let text = format!("{float:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

pub(crate) fn pairs_schema() -> Schema {
    list(
        object()
            .required("name", "What the value is for.", text())
            .optional(
                "value",
                "The value, any JSON; what is not text is passed on in its JSON form.",
                any(),
            )
            .optional(
                "secretKeyRef",
                "The secret that holds the value.",
                secret_key_ref_schema(),
            )
            .optional(
                "envRef",
                "Environment variable of the sidecar that holds the value, where value is not \
                 set; APP_API_TOKEN and DAPR_* are refused.",
                text(),
            ),
    )
}

pub(crate) fn secret_key_ref_schema() -> Schema {
    object()
        .required("name", "Name of the secret.", text())
        .optional(
            "key",
            "Which of its entries; the one with the secret's own name when empty.",
            text(),
        )
}

pub(crate) fn auth_schema() -> Schema {
    object().required(
        "secretStore",
        "Name of the secret store; kubernetes, or nothing, for Secrets of the object's \
         namespace.",
        text(),
    )
}

pub(crate) fn scopes_schema() -> Schema {
    list(text())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{DynamicValue, NameValuePair, SecretKeyRef};

    #[test]
    fn values_become_text_as_upstream_makes_it() {
        let check = |value: serde_json::Value, expected: &str| {
            assert_eq!(DynamicValue(value.clone()).as_text(), expected, "{value}");
        };
        check(json!(null), "");
        check(json!("redis:6379"), "redis:6379");
        check(json!("\"quoted\""), "\"quoted\"");
        check(json!("true"), "true");
        check(json!(true), "true");
        check(json!(8080), "8080");
        check(json!(-1), "-1");
        check(json!(u64::MAX), "18446744073709551615");
        check(json!(5.0), "5");
        check(json!(0.1), "0.1");
        check(json!(0.00001), "0.00001");
        check(json!(0.0000001), "1e-7");
        check(json!(1e21), "1e+21");
        check(json!({"b": 2, "a": [1, "x"]}), r#"{"a":[1,"x"],"b":2}"#);
    }

    #[test]
    fn a_pair_is_written_with_its_empty_fields() {
        let pair = NameValuePair {
            name: "host".to_owned(),
            ..NameValuePair::default()
        };
        assert_eq!(
            serde_json::to_value(&pair).unwrap(),
            json!({"name": "host", "value": null, "secretKeyRef": {"name": "", "key": ""}})
        );
    }

    #[test]
    fn a_pair_is_read_with_nulls_and_without_its_fields() {
        let bare: NameValuePair = serde_json::from_value(json!({"name": "host"})).unwrap();
        let nulls: NameValuePair = serde_json::from_value(
            json!({"name": "host", "value": null, "secretKeyRef": null, "envRef": null}),
        )
        .unwrap();
        assert_eq!(bare, nulls);
        assert!(!bare.value.is_set() && !bare.secret_key_ref.is_set());
    }

    #[test]
    fn the_field_of_a_secret_defaults_to_its_name() {
        let mut reference = SecretKeyRef {
            name: "redis".to_owned(),
            key: String::new(),
        };
        assert_eq!(reference.field(), "redis");
        reference.key = "password".to_owned();
        assert_eq!(reference.field(), "password");
    }
}

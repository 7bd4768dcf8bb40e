//! Values of Kubernetes Secrets in the resources that refer to them. Pure: `vault.rs` fetches.

mod name;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_crds::DynamicValue;

use crate::kinds::{Form, Kind, Missing, Slot};

pub use name::SecretName;

/// What a Secret holds. It never shows in a log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data(BTreeMap<String, Vec<u8>>);

impl FromIterator<(String, Vec<u8>)> for Data {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Data").finish_non_exhaustive()
    }
}

/// Why a resource cannot be given its secrets. No variant holds a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such Secret.
    #[error("Secret {0:?} not found")]
    NotFound(String),
    /// The API server did not give it.
    #[error("failed to get Secret {name:?}: {reason}")]
    Fetch {
        /// Name of the Secret.
        name: String,
        /// The API server's words.
        reason: String,
    },
    /// A header of a Configuration refers to a Secret that cannot be had.
    #[error("failed to get secret {secret} for header {header}: {reason}")]
    Header {
        /// Name of the Secret.
        secret: String,
        /// Name of the header.
        header: String,
        /// Why not.
        reason: Box<Self>,
    },
    /// The reference says no key, where one has to be said.
    #[error("secret key is required for header {0}")]
    NoKey(String),
    /// The Secret lacks the key.
    #[error("key {key} not found in secret {secret}")]
    NotInSecret {
        /// The key.
        key: String,
        /// Name of the Secret.
        secret: String,
    },
}

/// Names of the Secrets an object refers to, each once, in order.
pub fn names<K: Kind>(object: &K) -> Box<[Box<str>]> {
    let mut object = object.clone();
    let slots = object.slots();
    let mut names: Vec<Box<str>> = slots
        .iter()
        .map(|slot| slot.reference.name.as_str().into())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into()
}

/// What came of asking for Secrets, by their names.
pub type Answers<'a> = BTreeMap<&'a str, Result<Arc<Data>, Error>>;

/// Writes the values into the object.
///
/// # Errors
/// That of the first reference whose Secret cannot be had, or whose key the kind cannot do without; the object is then
/// half done.
pub fn resolve<K: Kind>(object: &mut K, answers: &Answers<'_>) -> Result<(), Error> {
    for slot in object.slots() {
        fill(slot, answers, K::FORM)?;
    }
    Ok(())
}

fn fill(slot: Slot<'_>, answers: &Answers<'_>, form: Form) -> Result<(), Error> {
    let Slot {
        name,
        reference,
        value,
    } = slot;
    if form == Form::Plain && reference.key.is_empty() {
        return Err(Error::NoKey(name.to_owned()));
    }
    let data = match answers.get(reference.name.as_str()) {
        Some(Ok(data)) => Ok(data),
        Some(Err(error)) => Err(error.clone()),
        None => Err(Error::NotFound(reference.name.clone())),
    };
    let data = data.map_err(|error| match form {
        Form::Base64(_) => error,
        Form::Plain => Error::Header {
            secret: reference.name.clone(),
            header: name.to_owned(),
            reason: Box::new(error),
        },
    })?;
    match (form, data.0.get(reference.field())) {
        (Form::Base64(_), Some(bytes)) => *value = DynamicValue::from(STANDARD.encode(bytes)),
        (Form::Base64(Missing::Keep), None) => {}
        (Form::Base64(Missing::Clear), None) => *value = DynamicValue::default(),
        (Form::Plain, Some(bytes)) => {
            *value = DynamicValue::from(String::from_utf8_lossy(bytes).into_owned());
        }
        (Form::Plain, None) => {
            return Err(Error::NotInSecret {
                key: reference.key.clone(),
                secret: reference.name.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dapr_crds::{Component, Configuration, HttpEndpoint, McpServer};
    use serde_json::{Value, json};

    use super::*;

    /// One Secret `s` with the keys `k` and `s`.
    #[track_caller]
    fn check<K: Kind>(object: &Value, expected: &Value) {
        let data: Data = [
            ("k".to_owned(), b"secret".to_vec()),
            ("s".to_owned(), vec![0xff, 0x00]),
        ]
        .into_iter()
        .collect();
        let secrets = Answers::from([("s", Ok(Arc::new(data)))]);
        let mut read: K = serde_json::from_value(object.clone()).expect("an object");
        let actual = match resolve(&mut read, &secrets) {
            Ok(()) => serde_json::to_value(&read).expect("JSON"),
            Err(error) => json!(error.to_string()),
        };
        // Only the parts that are expected are looked at.
        match expected {
            Value::String(_) => assert_eq!(&actual, expected),
            _ => assert!(contains(&actual, expected), "{actual} lacks {expected}"),
        }
    }

    fn contains(actual: &Value, expected: &Value) -> bool {
        match (actual, expected) {
            (Value::Object(actual), Value::Object(expected)) => expected
                .iter()
                .all(|(key, expected)| actual.get(key).is_some_and(|it| contains(it, expected))),
            (Value::Array(actual), Value::Array(expected)) => {
                actual.len() == expected.len()
                    && actual.iter().zip(expected).all(|(a, e)| contains(a, e))
            }
            _ => actual == expected,
        }
    }

    fn pair(key: &str) -> Value {
        json!({"name": "p", "value": "old", "secretKeyRef": {"name": "s", "key": key}})
    }

    #[test]
    fn components() {
        let component = |pair: Value, store: &str| json!({"spec": {"metadata": [pair]}, "auth": {"secretStore": store}});
        let value = |value: Value| json!({"spec": {"metadata": [{"value": value}]}});
        for store in ["", "kubernetes"] {
            check::<Component>(&component(pair("k"), store), &value(json!("c2VjcmV0")));
        }
        check::<Component>(&component(pair("k"), "vault"), &value(json!("old")));
        check::<Component>(&component(pair(""), ""), &value(json!("/wA=")));
        check::<Component>(&component(pair("absent"), ""), &value(json!("old")));
        let reference =
            json!({"spec": {"metadata": [{"secretKeyRef": {"name": "s", "key": "k"}}]}});
        check::<Component>(&component(pair("k"), ""), &reference);
        let missing = json!({"name": "p", "secretKeyRef": {"name": "other", "key": "k"}});
        check::<Component>(
            &component(missing.clone(), ""),
            &json!("Secret \"other\" not found"),
        );
        check::<Component>(&component(missing, "vault"), &value(Value::Null));
        let none = json!({"name": "p", "value": 7});
        check::<Component>(&component(none, ""), &value(json!(7)));
    }

    #[test]
    fn endpoints() {
        let document = |key: &str| json!({"secretKeyRef": {"name": "s", "key": key}});
        let endpoint = json!({"spec": {"headers": [pair("k"), pair("absent")], "clientTLS": {
            "certificate": document("k"), "privateKey": document(""), "rootCA": document("absent"),
        }}});
        let expected = json!({"spec": {"headers": [{"value": "c2VjcmV0"}, {"value": null}], "clientTLS": {
            "certificate": {"value": "c2VjcmV0"}, "privateKey": {"value": "/wA="}, "rootCA": {"value": null},
        }}});
        check::<HttpEndpoint>(&endpoint, &expected);
    }

    #[test]
    fn servers() {
        for transport in ["streamableHTTP", "sse"] {
            let server = |store: &str| {
                json!({"metadata": {"name": "m"}, "spec": {"endpoint": {transport: {
                    "headers": [pair("k"), pair("absent")], "auth": {"secretStore": store},
                }}}})
            };
            let expected = |first: Value, second: Value| json!({"spec": {"endpoint": {transport: {"headers": [{"value": first}, {"value": second}]}}}});
            check::<McpServer>(&server(""), &expected(json!("c2VjcmV0"), Value::Null));
            check::<McpServer>(&server("vault"), &expected(json!("old"), json!("old")));
        }
        let stdio = json!({"spec": {"endpoint": {"stdio": {"env": [pair("k")]}}}});
        let expected = json!({"spec": {"endpoint": {"stdio": {"env": [{"value": "c2VjcmV0"}]}}}});
        check::<McpServer>(&stdio, &expected);
        let server: McpServer = serde_json::from_value(
            json!({"metadata": {"name": "m"}, "spec": {"endpoint": {"sse": {"url": "u"}}}}),
        )
        .expect("a server");
        assert_eq!(
            server.secret_context(),
            "error resolving sse header secret for MCPServer \"m\": "
        );
    }

    #[test]
    fn configurations() {
        let configuration =
            |header: Value| json!({"spec": {"tracing": {"otel": {"headers": ["a=b", header]}}}});
        check::<Configuration>(
            &configuration(pair("k")),
            &json!({"spec": {"tracing": {"otel": {"headers": ["a=b", {"value": "secret"}]}}}}),
        );
        check::<Configuration>(
            &configuration(pair("")),
            &json!("secret key is required for header p"),
        );
        check::<Configuration>(
            &configuration(pair("absent")),
            &json!("key absent not found in secret s"),
        );
        let missing = json!({"name": "p", "secretKeyRef": {"name": "other", "key": "k"}});
        check::<Configuration>(
            &configuration(missing.clone()),
            &json!("failed to get secret other for header p: Secret \"other\" not found"),
        );
        let headers =
            json!({"spec": {"tracing": {"otel": {"headers": [pair("absent"), missing]}}}});
        check::<Configuration>(&headers, &json!("key absent not found in secret s"));
    }

    #[test]
    fn the_first_reference_that_cannot_be_had_is_told() {
        let reference = |name: &str| json!({"secretKeyRef": {"name": name, "key": "k"}});
        let endpoint = json!({"spec": {"clientTLS": {
            "certificate": reference("second"), "privateKey": reference("s"), "rootCA": reference("first"),
        }}});
        check::<HttpEndpoint>(&endpoint, &json!("Secret \"second\" not found"));
    }

    #[test]
    fn names_are_told_once() {
        let component: Component = serde_json::from_value(json!({"spec": {"metadata": [
            pair("k"), {"name": "q", "secretKeyRef": {"name": "r", "key": ""}}, pair("other"),
        ]}}))
        .expect("a component");
        assert_eq!(*names(&component), ["r".into(), "s".into()]);
    }

    #[test]
    fn data_does_not_show() {
        let data: Data = [("k".to_owned(), b"secret".to_vec())].into_iter().collect();
        assert_eq!(format!("{data:?}"), "Data { .. }");
    }
}

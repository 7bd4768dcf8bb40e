//! The answer to an API server's `ConversionReview`, from JSON to JSON.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{v1alpha1, v2alpha1};
use crate::meta::{KINDS, V1ALPHA1, V2ALPHA1};

/// Where `v1alpha1` keeps the rules of `v2alpha1`, for which it has no field: whoever writes through the old version
/// must not erase what only the new one shows.
const RULES: &str = "dapr.io/subscription-rules";

/// Why one object could not be converted. The texts reach the API server's user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// Object and target have the same version.
    #[error("conversion is not allowed between same type *{version}.{kind}")]
    SameType {
        /// Version without the group.
        version: String,
        /// The object's kind.
        kind: String,
    },
    /// No such kind in that version.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    UnknownKind {
        /// The object's kind.
        kind: String,
        /// The version that lacks it.
        version: String,
    },
    /// The object is not a Subscription of its version.
    #[error("{0}")]
    Malformed(String),
}

/// Answers a `ConversionReview`. `None` means that it is none or has no request, and deserves status 400 and no body;
/// everything else, failures included, is answered with status 200 and the value returned.
pub fn review(review: &Value) -> Option<Value> {
    let request = review.get("request")?.as_object()?;
    let version = match request.get("desiredAPIVersion") {
        None | Some(Value::Null) => "",
        Some(version) => version.as_str()?,
    };
    let objects = match request.get("objects") {
        None | Some(Value::Null) => &[],
        Some(objects) => objects.as_array()?.as_slice(),
    };
    let converted: Result<Vec<Value>, ConversionError> = objects
        .iter()
        .map(|object| convert(object, version))
        .collect();
    let (objects, result) = match converted {
        Ok(objects) if objects.is_empty() => {
            (Value::Null, json!({"metadata": {}, "status": "Success"}))
        }
        Ok(objects) => (
            Value::Array(objects),
            json!({"metadata": {}, "status": "Success"}),
        ),
        Err(error) => (
            Value::Null,
            json!({"metadata": {}, "status": "Failure", "message": error.to_string()}),
        ),
    };
    let mut reply = Map::new();
    for field in ["kind", "apiVersion"] {
        if let Some(text) = review.get(field) {
            reply.insert(field.to_owned(), text.clone());
        }
    }
    let uid = match request.get("uid") {
        None | Some(Value::Null) => "",
        Some(uid) => uid.as_str()?,
    };
    reply.insert(
        "response".to_owned(),
        json!({"uid": uid, "convertedObjects": objects, "result": result}),
    );
    Some(Value::Object(reply))
}

/// Converts one object to the version wanted.
pub fn convert(object: &Value, desired_version: &str) -> Result<Value, ConversionError> {
    let field = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (field("apiVersion"), field("kind"));
    if kind.is_empty() {
        return Err(ConversionError::Malformed(format!(
            "Object 'Kind' is missing in '{object}'"
        )));
    }
    for version in [version, desired_version] {
        if !is_registered(kind, version) {
            return Err(ConversionError::UnknownKind {
                kind: kind.to_owned(),
                version: version.to_owned(),
            });
        }
    }
    match (version, desired_version) {
        (V1ALPHA1, V2ALPHA1) => {
            let v1: v1alpha1::Subscription = decode(object)?;
            let mut v2 = v2alpha1::Subscription::from(v1);
            let kept = kept_rules(object);
            let has_kept = kept.is_some();
            v2.spec.routes.rules = kept.unwrap_or_default();
            let mut converted = encode(object, &v2)?;
            if has_kept {
                forget_rules(&mut converted);
            }
            Ok(converted)
        }
        (V2ALPHA1, V1ALPHA1) => {
            let v2: v2alpha1::Subscription = decode(object)?;
            let rules = serde_json::to_string(&v2.spec.routes.rules);
            let rules = rules.map_err(|error| ConversionError::Malformed(error.to_string()))?;
            // Also where somebody wrote rules there without meaning any: they must not become some on the way back.
            let has_rules = !v2.spec.routes.rules.is_empty() || kept_rules(object).is_some();
            let mut converted = encode(object, &v1alpha1::Subscription::from(v2))?;
            if has_rules {
                keep_rules(&mut converted, rules);
            }
            Ok(converted)
        }
        _ => {
            let version = version.rsplit('/').next().unwrap_or_default().to_owned();
            Err(ConversionError::SameType {
                version,
                kind: kind.to_owned(),
            })
        }
    }
}

fn is_registered(kind: &str, version: &str) -> bool {
    match version {
        V1ALPHA1 => KINDS.contains(&kind),
        V2ALPHA1 => kind == "Subscription",
        _ => false,
    }
}

fn decode<T: serde::de::DeserializeOwned>(object: &Value) -> Result<T, ConversionError> {
    serde_json::from_value(object.clone())
        .map_err(|error| ConversionError::Malformed(error.to_string()))
}

/// The rules an object of the old version keeps; `None` also where somebody wrote something else there.
fn kept_rules(object: &Value) -> Option<Vec<v2alpha1::RouteRule>> {
    let kept = object.get("metadata")?.get("annotations")?.get(RULES)?;
    serde_json::from_str(kept.as_str()?).ok()
}

fn keep_rules(converted: &mut Value, rules: String) {
    let Some(metadata) = converted.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let annotations = metadata.entry("annotations").or_insert(Value::Null);
    if annotations.is_null() {
        *annotations = json!({});
    }
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(RULES.to_owned(), Value::String(rules));
    }
}

fn forget_rules(converted: &mut Value) {
    let Some(metadata) = converted.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let annotations = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut);
    let is_empty = annotations.is_some_and(|annotations| {
        annotations.remove(RULES);
        annotations.is_empty()
    });
    if is_empty {
        metadata.remove("annotations");
    }
}

/// Writes the converted object with the metadata it came with, so that nothing in there depends on what our
/// types know of it.
fn encode<T: Serialize>(original: &Value, converted: &T) -> Result<Value, ConversionError> {
    let mut converted = serde_json::to_value(converted)
        .map_err(|error| ConversionError::Malformed(error.to_string()))?;
    let mut metadata = original
        .get("metadata")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    metadata.entry("creationTimestamp").or_insert(Value::Null);
    if let Some(object) = converted.as_object_mut() {
        object.insert("metadata".to_owned(), Value::Object(metadata));
    }
    Ok(converted)
}

#[cfg(test)]
mod tests;

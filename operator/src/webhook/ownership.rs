//! Who owns the fields that this operator writes into the CRD: nobody.
//!
//! Whoever applies the CRD on the server's side, as helm 4 does with every install, says `namespace: replaceme` and is refused
//! as long as somebody else owns that field. It is a place to be filled in, so who fills it in gives the field up, and puts it
//! right again after each apply.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Map, Value};

/// What the operator writes below `spec.conversion.webhook.clientConfig`, as `FieldsV1` has it.
const WRITTEN: [&[&str]; 2] = [&["f:caBundle"], &["f:service", "f:namespace"]];
const CLIENT: [&str; 4] = ["f:spec", "f:conversion", "f:webhook", "f:clientConfig"];

/// The managed fields without what is written in passing. `None` if there is nothing to give up; who applies a field keeps it.
pub(super) fn given_up(entries: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let mut changed = false;
    let mut left = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut entry = entry.clone();
        let is_ours = entry.operation.as_deref() == Some("Update") && entry.subresource.is_none();
        if is_ours
            && let Some(fields) = &mut entry.fields_v1
            && let Some(all) = fields.0.as_object_mut()
        {
            for path in WRITTEN {
                let path: Vec<_> = CLIENT.iter().chain(path).copied().collect();
                changed |= remove(all, &path);
            }
            if all.is_empty() {
                continue;
            }
        }
        left.push(entry);
    }
    // The API server takes an empty list for none at all.
    (changed && !left.is_empty()).then_some(left)
}

/// Removes a field, and what is empty then.
fn remove(fields: &mut Map<String, Value>, path: &[&str]) -> bool {
    match path {
        [] => false,
        [last] => fields.remove(*last).is_some(),
        [first, rest @ ..] => {
            let Some(below) = fields.get_mut(*first).and_then(Value::as_object_mut) else {
                return false;
            };
            let removed = remove(below, rest);
            // What is left may be the sign of the map itself.
            if removed && below.keys().all(|key| key == ".") {
                fields.remove(*first);
            }
            removed
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;
    use serde_json::json;

    use super::*;

    fn entry(operation: &str, fields: Value) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some("somebody".to_owned()),
            operation: Some(operation.to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    fn client(config: &Value) -> Value {
        json!({"f:spec": {"f:conversion": {"f:webhook": {"f:clientConfig": config}}}})
    }

    #[test]
    fn what_is_written_in_passing_is_given_up() {
        let written =
            client(&json!({".": {}, "f:caBundle": {}, "f:service": {".": {}, "f:namespace": {}}}));
        let applied = entry(
            "Apply",
            client(&json!({"f:service": {"f:namespace": {}, "f:name": {}}})),
        );
        let status = ManagedFieldsEntry {
            subresource: Some("status".to_owned()),
            ..entry("Update", written.clone())
        };
        let more = entry(
            "Update",
            client(&json!({"f:caBundle": {}, "f:service": {"f:namespace": {}, "f:path": {}}})),
        );
        let less = entry("Update", client(&json!({"f:service": {"f:path": {}}})));
        let all = [
            applied.clone(),
            entry("Update", written.clone()),
            status.clone(),
            more,
        ];
        assert_eq!(
            given_up(&all),
            Some(vec![applied.clone(), status.clone(), less.clone()])
        );
        // Nothing is left to do, or nobody would be left.
        assert_eq!(given_up(&[applied, status, less]), None);
        assert_eq!(given_up(&[entry("Update", written)]), None);
        assert_eq!(given_up(&[entry("Update", json!("no map"))]), None);
        assert_eq!(given_up(&[]), None);
    }
}

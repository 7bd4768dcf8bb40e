//! Carries out a patch, as far as patches of the injector go: additions.

use dapr_injector::patch::Operation;
use serde_json::Value;

/// The object after the operations.
pub(crate) fn apply(object: &Value, operations: &[Operation]) -> Value {
    let mut object = object.clone();
    for operation in operations {
        add(&mut object, operation);
    }
    object
}

fn add(object: &mut Value, operation: &Operation) {
    let path = &operation.path;
    let (parent, key) = path.rsplit_once('/').expect("a pointer");
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = object
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("nothing to add {path} to"));
    match parent {
        Value::Object(map) => {
            map.insert(key, operation.value.clone());
        }
        Value::Array(list) => {
            assert_eq!(key, "-", "the injector only appends");
            list.push(operation.value.clone());
        }
        other => panic!("{path} is within {other}"),
    }
}

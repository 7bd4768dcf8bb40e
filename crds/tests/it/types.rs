//! Holds types and schemas together: what the schema names the type keeps, and what the type writes the
//! schema knows.

use dapr_crds::meta::Object;
use dapr_crds::subscription::{v1alpha1, v2alpha1};
use dapr_crds::{
    Component, Configuration, HttpEndpoint, McpServer, Resiliency, WorkflowAccessPolicy, documents,
};
use serde_json::{Map, Value, json};

/// A value that sets every field the schema has.
fn full(schema: &Value) -> Value {
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    match schema["type"].as_str() {
        Some("string") => json!("text"),
        Some("boolean") => json!(true),
        Some("integer") => json!(7),
        Some("array") => json!([full(&schema["items"])]),
        Some("object") => match (
            schema["properties"].as_object(),
            schema.get("additionalProperties"),
        ) {
            (Some(properties), _) => Value::Object(
                properties
                    .iter()
                    .map(|(name, field)| (name.clone(), full(field)))
                    .collect(),
            ),
            (None, Some(values)) => json!({"key": full(values)}),
            (None, None) => json!({}),
        },
        _ => json!({"any": [1, "x"]}),
    }
}

fn schema<T: Object>() -> Value {
    let version = T::API_VERSION.rsplit('/').next().unwrap();
    let documents = documents::all();
    let document = documents
        .iter()
        .find(|document| document.definition["spec"]["names"]["kind"] == T::KIND)
        .unwrap();
    let versions = document.definition["spec"]["versions"].as_array().unwrap();
    versions.iter().find(|it| it["name"] == version).unwrap()["schema"]["openAPIV3Schema"].clone()
}

/// Paths of fields in `value` that the schema has no property for.
fn unknown(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            let properties = schema["properties"].as_object();
            for (name, value) in entries {
                let path = format!("{path}.{name}");
                match (properties, schema.get("additionalProperties")) {
                    (Some(properties), _) => match properties.get(name) {
                        Some(field) => unknown(field, value, &path, found),
                        None => found.push(path),
                    },
                    (None, Some(values)) => unknown(values, value, &path, found),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| unknown(&schema["items"], item, &format!("{path}[]"), found)),
        _ => {}
    }
}

fn check<T: Object>() {
    let schema = schema::<T>();
    let mut value = full(&schema);
    value["apiVersion"] = json!(T::API_VERSION);
    value["kind"] = json!(T::KIND);
    value["metadata"] = json!({"name": "n", "namespace": "ns"});
    let object: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!((object.name(), object.namespace()), ("n", "ns"));
    assert_eq!(
        serde_json::to_value(&object).unwrap(),
        value,
        "{} loses a field",
        T::KIND
    );

    let text = serde_json::to_string(&T::default()).unwrap();
    let default: Value = serde_json::from_str(&text).unwrap();
    for value in [&value, &default] {
        let mut found = Vec::new();
        unknown(&schema, value, "", &mut found);
        assert_eq!(
            found,
            Vec::<String>::new(),
            "{} writes fields its schema lacks",
            T::KIND
        );
    }

    let nulls = nulled(&value);
    let read: T = serde_json::from_value(nulls).unwrap();
    assert_eq!(
        serde_json::to_value(&read).unwrap(),
        default,
        "{} does not read null like nothing",
        T::KIND
    );
}

/// The same object with `null` in place of all its fields.
fn nulled(value: &Value) -> Value {
    let entries: Map<String, Value> = value
        .as_object()
        .unwrap()
        .keys()
        .map(|name| (name.clone(), Value::Null))
        .collect();
    Value::Object(entries)
}

#[test]
fn types_and_schemas_have_the_same_fields() {
    check::<Component>();
    check::<Configuration>();
    check::<HttpEndpoint>();
    check::<McpServer>();
    check::<Resiliency>();
    check::<v1alpha1::Subscription>();
    check::<v2alpha1::Subscription>();
    check::<WorkflowAccessPolicy>();
}

#[test]
fn api_clients_find_group_version_and_plural() {
    fn of<T: kube::Resource<DynamicType = ()>>() -> (String, String) {
        (T::url_path(&(), Some("ns")), T::kind(&()).into_owned())
    }
    let check = |found: (String, String), path: &str, kind: &str| {
        assert_eq!(found, (path.to_owned(), kind.to_owned()))
    };
    check(
        of::<Component>(),
        "/apis/dapr.io/v1alpha1/namespaces/ns/components",
        "Component",
    );
    check(
        of::<McpServer>(),
        "/apis/dapr.io/v1alpha1/namespaces/ns/mcpservers",
        "MCPServer",
    );
    check(
        of::<v2alpha1::Subscription>(),
        "/apis/dapr.io/v2alpha1/namespaces/ns/subscriptions",
        "Subscription",
    );
}

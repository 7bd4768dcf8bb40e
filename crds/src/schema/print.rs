//! Prints a schema as the `openAPIV3Schema` of a CRD.

use serde_json::{Map, Value, json};

use super::{Presence, Schema, Shape, Width};

impl Schema {
    /// The schema of a whole object: the kind's own fields beside `apiVersion`, `kind` and `metadata`, which an
    /// API server describes itself.
    pub(crate) fn print_root(&self, description: &str) -> Value {
        let mut root = self.print();
        if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
            properties.insert("kind".to_owned(), json!({"type": "string"}));
            properties.insert("metadata".to_owned(), json!({"type": "object"}));
        }
        if let Some(root) = root.as_object_mut() {
            root.insert("description".to_owned(), description.into());
        }
        root
    }

    pub(crate) fn print(&self) -> Value {
        let mut printed = match &self.shape {
            Shape::Text => json!({"type": "string"}),
            Shape::Boolean => json!({"type": "boolean"}),
            Shape::Integer(Width::Int64) => json!({"type": "integer"}),
            Shape::Integer(Width::Int32) => json!({"type": "integer", "format": "int32"}),
            Shape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
            Shape::AnyObject => {
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
            }
            Shape::Map(values) => json!({"type": "object", "additionalProperties": values.print()}),
            Shape::List(items) => json!({"type": "array", "items": items.print()}),
            Shape::Object(_) => self.print_object(),
        };
        if let Some(printed) = printed.as_object_mut() {
            self.print_limits(printed);
        }
        printed
    }

    fn print_object(&self) -> Value {
        let Shape::Object(fields) = &self.shape else {
            return Value::Null;
        };
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in fields
            .iter()
            .filter(|field| field.presence != Presence::FilesOnly)
        {
            let mut property = field.schema.print();
            property["description"] = field.description.into();
            properties.insert(field.name.to_owned(), property);
            if field.presence == Presence::Required {
                required.push(field.name);
            }
        }
        required.sort_unstable();
        let mut printed = json!({"type": "object", "properties": properties});
        if !required.is_empty() {
            printed["required"] = json!(required);
        }
        printed
    }

    fn print_limits(&self, printed: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Value| drop(printed.insert(name.to_owned(), value));
        if !self.words.is_empty() {
            put("enum", json!(self.words));
        }
        if self.min_length > 0 {
            put("minLength", json!(self.min_length));
        }
        if self.min_items > 0 {
            put("minItems", json!(self.min_items));
        }
        if self.is_set {
            put("x-kubernetes-list-type", json!("set"));
        }
        if let Some(default) = &self.default {
            put("default", default.clone());
        }
        if let Some(rule) = self.rule {
            put(
                "x-kubernetes-validations",
                json!([{"rule": rule.cel, "message": rule.message}]),
            );
        }
    }
}

//! Holds a value that came out of a YAML file against the schema.
//!
//! [`settle`] does what upstream's decoder does on the way (scalars become text where text is wanted, field
//! names match in any case) and names what it cannot accept or does not know. [`refusals`] names what an API
//! server would refuse on top of that.

use serde_json::{Map, Value};

use super::near::nearest;
use super::{Field, Presence, Schema, Shape, Width};
use crate::value::number_text;

/// Something worth telling about one place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The field's path, for example `spec.metric.rules[0].enabled`.
    pub(crate) path: String,
    pub(crate) kind: FindingKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FindingKind {
    /// The value cannot be read.
    WrongType { message: String },
    /// No such field; perhaps another one was meant.
    Unknown { nearest: Option<&'static str> },
    /// The field was read under its proper spelling.
    OtherCase { proper: &'static str },
    /// A number or boolean stands where text is wanted and was read as text.
    ReadAsText { text: String },
}

/// Brings `value` into the form the types decode and reports what was found on the way.
pub(crate) fn settle(schema: &Schema, value: &mut Value, path: &str, findings: &mut Vec<Finding>) {
    if value.is_null() {
        return; // Read like an absent field.
    }
    match &schema.shape {
        Shape::Text => settle_text(value, path, findings),
        Shape::Boolean => settle_boolean(value, path, findings),
        Shape::Integer(width) => settle_integer(*width, value, path, findings),
        Shape::Any | Shape::AnyObject => tidy_numbers(value),
        Shape::Map(values) => settle_map(values, value, path, findings),
        Shape::List(items) => settle_list(schema, items, value, path, findings),
        Shape::Object(fields) => settle_object(fields, value, path, findings),
    }
}

fn settle_text(value: &mut Value, path: &str, findings: &mut Vec<Finding>) {
    let text = match value {
        Value::String(_) => return,
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number_text(number),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return wrong(
                path,
                format!("expected text, found {}", name_of(value)),
                findings,
            );
        }
    };
    *value = Value::String(text.clone());
    findings.push(Finding {
        path: path.to_owned(),
        kind: FindingKind::ReadAsText { text },
    });
}

fn settle_boolean(value: &Value, path: &str, findings: &mut Vec<Finding>) {
    let field = last(path);
    let way_out = match value {
        Value::Bool(_) => return,
        Value::Object(fields) => match fields.get("enabled") {
            Some(Value::Bool(flag)) => format!("; write `{field}: {flag}`"),
            _ => String::new(),
        },
        Value::String(text) if matches!(text.as_str(), "true" | "false") => {
            format!("; write `{field}: {text}` without quotes")
        }
        _ => String::new(),
    };
    wrong(
        path,
        format!("expected true or false, found {}{way_out}", name_of(value)),
        findings,
    );
}

fn settle_integer(width: Width, value: &mut Value, path: &str, findings: &mut Vec<Finding>) {
    // YAML knows `3.0` as a number that is not an integer; Go's decoder sees the integer.
    tidy_numbers(value);
    let limits = match width {
        Width::Int32 => i64::from(i32::MIN)..=i64::from(i32::MAX),
        Width::Int64 => i64::MIN..=i64::MAX,
    };
    match value {
        Value::Number(number)
            if number
                .as_i64()
                .is_some_and(|number| limits.contains(&number)) => {}
        Value::Number(number) => wrong(
            path,
            format!("expected a whole number in range, found {number}"),
            findings,
        ),
        Value::String(text) if text.parse::<i64>().is_ok() => {
            let field = last(path);
            wrong(
                path,
                format!(
                    "expected a whole number, found text; write `{field}: {text}` without quotes"
                ),
                findings,
            );
        }
        _ => wrong(
            path,
            format!("expected a whole number, found {}", name_of(value)),
            findings,
        ),
    }
}

fn settle_map(values: &Schema, value: &mut Value, path: &str, findings: &mut Vec<Finding>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                settle(values, value, &format!("{path}.{name}"), findings);
            }
        }
        Value::Array(items) => {
            let way_out = as_map_entries(items)
                .map(|entries| format!("; write `{{{entries}}}`"))
                .unwrap_or_default();
            wrong(
                path,
                format!("expected a map of names to values, found a list{way_out}"),
                findings,
            );
        }
        _ => wrong(
            path,
            format!(
                "expected a map of names to values, found {}",
                name_of(value)
            ),
            findings,
        ),
    }
}

/// A list of `{name, value}` pairs in the form of a map.
fn as_map_entries(items: &[Value]) -> Option<String> {
    let entry = |item: &Value| {
        let name = item.get("name")?.as_str()?;
        let value = item
            .get("value")
            .filter(|value| !value.is_array() && !value.is_object())?;
        Some(format!("{name}: {value}"))
    };
    let entries: Option<Vec<String>> = items.iter().map(entry).collect();
    entries
        .filter(|entries| !entries.is_empty())
        .map(|entries| entries.join(", "))
}

fn settle_list(
    list: &Schema,
    items: &Schema,
    value: &mut Value,
    path: &str,
    findings: &mut Vec<Finding>,
) {
    let Value::Array(entries) = value else {
        let way_out = if value.is_object() {
            "; put `- ` before its first field"
        } else {
            ""
        };
        return wrong(
            path,
            format!("expected a list, found {}{way_out}", name_of(value)),
            findings,
        );
    };
    for (index, entry) in entries.iter_mut().enumerate() {
        if list.texts_in_files && entry.is_string() {
            continue;
        }
        settle(items, entry, &format!("{path}[{index}]"), findings);
    }
}

fn settle_object(fields: &[Field], value: &mut Value, path: &str, findings: &mut Vec<Finding>) {
    let Value::Object(entries) = value else {
        return wrong(
            path,
            format!("expected a map of fields, found {}", name_of(value)),
            findings,
        );
    };
    rename_other_case(fields, entries, path, findings);
    for (name, value) in entries {
        let path = join(path, name);
        match fields.iter().find(|field| field.name == name) {
            Some(field) => settle(&field.schema, value, &path, findings),
            None => {
                let nearest = nearest(name, fields.iter().map(|field| field.name));
                let nearest = fields
                    .iter()
                    .map(|field| field.name)
                    .find(|name| Some(*name) == nearest);
                findings.push(Finding {
                    path,
                    kind: FindingKind::Unknown { nearest },
                });
            }
        }
    }
}

/// Gives fields their proper spelling: upstream's decoder matches names in any case, with the exact one first.
fn rename_other_case(
    fields: &[Field],
    entries: &mut Map<String, Value>,
    path: &str,
    findings: &mut Vec<Finding>,
) {
    for field in fields {
        if entries.contains_key(field.name) {
            continue;
        }
        let Some(written) = entries
            .keys()
            .find(|name| name.eq_ignore_ascii_case(field.name))
            .cloned()
        else {
            continue;
        };
        if let Some(value) = entries.remove(&written) {
            entries.insert(field.name.to_owned(), value);
            findings.push(Finding {
                path: join(path, &written),
                kind: FindingKind::OtherCase { proper: field.name },
            });
        }
    }
}

/// Turns floats that are whole numbers into integers, as Go's encoder prints them.
fn tidy_numbers(value: &mut Value) {
    /// Beyond this a double no longer holds every integer, so the text it was written with would change.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number
                .as_f64()
                .filter(|float| float.fract() == 0.0 && float.abs() <= EXACT);
            if let Some(whole) = whole.and_then(|float| format!("{float}").parse::<i64>().ok()) {
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy_numbers),
        Value::Object(entries) => entries.values_mut().for_each(tidy_numbers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What an API server would refuse in a value that has been settled: path and reason.
pub(crate) fn refusals(
    schema: &Schema,
    value: &Value,
    path: &str,
    refused: &mut Vec<(String, String)>,
) {
    let mut refuse = |reason: String| refused.push((path.to_owned(), reason));
    match (&schema.shape, value) {
        (Shape::Text, Value::String(text)) => {
            if !schema.words.is_empty() && !schema.words.contains(&text.as_str()) {
                refuse(format!("{text:?} is none of {}", schema.words.join(", ")));
            }
            if text.chars().count() < schema.min_length {
                refuse("must not be empty".to_owned());
            }
        }
        (Shape::List(items), Value::Array(entries)) => {
            if entries.len() < schema.min_items {
                refuse("must not be an empty list".to_owned());
            }
            if schema.is_set
                && entries
                    .iter()
                    .enumerate()
                    .any(|(index, entry)| entries[..index].contains(entry))
            {
                refuse("must not name anything twice".to_owned());
            }
            for (index, entry) in entries.iter().enumerate() {
                refusals(items, entry, &format!("{path}[{index}]"), refused);
            }
        }
        (Shape::Map(values), Value::Object(entries)) => {
            for (name, entry) in entries {
                refusals(values, entry, &format!("{path}.{name}"), refused);
            }
        }
        (Shape::Object(fields), Value::Object(entries)) => {
            if let Some(rule) = schema.rule.filter(|rule| !(rule.holds)(value)) {
                refuse(rule.message.to_owned());
            }
            refused_fields(fields, entries, path, refused);
        }
        (Shape::Object(_), Value::String(_)) => {
            refuse("must be a pair of `name` and `value`".to_owned())
        }
        (
            Shape::AnyObject,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_),
        ) => {
            refuse(format!("must be a map, not {}", name_of(value)));
        }
        _ => {}
    }
}

fn refused_fields(
    fields: &[Field],
    entries: &Map<String, Value>,
    path: &str,
    refused: &mut Vec<(String, String)>,
) {
    for field in fields {
        match entries.get(field.name).filter(|value| !value.is_null()) {
            Some(value) => refusals(&field.schema, value, &join(path, field.name), refused),
            // A default fills the field before the API server asks for it.
            None if field.presence == Presence::Required && field.schema.default.is_none() => {
                refused.push((join(path, field.name), "is required".to_owned()));
            }
            None => {}
        }
    }
}

fn wrong(path: &str, message: String, findings: &mut Vec<Finding>) {
    findings.push(Finding {
        path: path.to_owned(),
        kind: FindingKind::WrongType { message },
    });
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests;

//! The Configuration of a sidecar outside a cluster: defaults, then any number of files on top of each other.
//!
//! Pure: the caller reads the files and lends the environment.

mod expand;

use serde_json::{Map, Value, json};

use crate::configuration::{Configuration, schema};
use crate::manifest::{self, ManifestError, Piece, Place, Reason, Warning, WarningKind};
use crate::schema::{Schema, Shape};

pub use expand::expand;

/// A Configuration and what was noticed while it was read.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// All files on top of the defaults.
    pub configuration: Configuration,
    /// File name and warning, in reading order.
    pub warnings: Vec<(String, Warning)>,
}

/// A text of a `--config` file and the name it goes by in messages.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// File name.
    pub file: &'a str,
    /// Its content.
    pub text: &'a str,
}

/// The settings in force when a Configuration does not name them.
pub fn defaults() -> Value {
    json!({
        "spec": {
            "tracing": {"otel": {"isSecure": true}},
            "metric": {"enabled": true},
            "accessControl": {"defaultAction": "allow", "trustDomain": "public"},
        },
    })
}

/// Decodes files on top of the defaults and of each other: fields that are set override, lists are replaced,
/// maps gain entries. `$VAR` and `${VAR}` are expanded first, an unknown variable to nothing. Of each file the
/// first document counts, whatever kind it says it is.
pub fn load<'a>(
    sources: impl IntoIterator<Item = Source<'a>>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Loaded, ManifestError> {
    let schema = schema();
    let mut merged = defaults();
    let mut warnings = Vec::new();
    for Source { file, text } in sources {
        let expanded = expand(text, &environment);
        let Some(piece) = manifest::split(&expanded).next() else {
            continue;
        };
        let (value, noticed) = read(&schema, file, &piece)?;
        warnings.extend(
            noticed
                .into_iter()
                .map(|warning| (file.to_owned(), warning)),
        );
        overlay(&schema, &mut merged, value);
    }
    let configuration = manifest::from_value(&merged).map_err(|message| {
        let piece = Piece {
            index: 1,
            line: 1,
            text: "",
        };
        Place {
            file: "configuration",
            piece: &piece,
        }
        .error(Some("Configuration"), "", Reason::Decode(message))
    })?;
    Ok(Loaded {
        configuration,
        warnings,
    })
}

/// Decodes the JSON of a cluster's Configuration on top of the defaults.
pub fn from_json(text: &[u8]) -> Result<Configuration, serde_json::Error> {
    let over: Map<String, Value> = serde_json::from_slice(text)?;
    let mut merged = defaults();
    overlay(&schema(), &mut merged, Value::Object(over));
    serde_json::from_value(merged)
}

fn read(
    schema: &Schema,
    file: &str,
    piece: &Piece<'_>,
) -> Result<(Value, Vec<Warning>), ManifestError> {
    let mut value = manifest::parse(file, piece)?;
    let mut warnings = Vec::new();
    let findings = manifest::settle_document(schema, &mut value);
    let problems = manifest::sort_findings("Configuration", findings, &mut warnings);
    let other_kind = value
        .get("kind")
        .and_then(Value::as_str)
        .filter(|kind| *kind != "Configuration");
    if let Some(kind) = other_kind {
        let message = format!("is {kind}, but this file is read as a Configuration");
        warnings.push(Warning::new("kind", WarningKind::OtherKind, message));
    }
    if problems.is_empty() {
        return Ok((value, warnings));
    }
    let name = value
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    Err(Place { file, piece }.error(Some("Configuration"), name, Reason::Fields(problems)))
}

/// Puts a whole document on top of another: `metadata` is replaced, `spec` merged field by field.
fn overlay(schema: &Schema, base: &mut Value, over: Value) {
    let Value::Object(mut over) = over else {
        return;
    };
    let spec = over.remove("spec");
    if let Value::Object(base) = base {
        base.extend(over);
    }
    if let Some(spec) = spec {
        overlay_value(schema, base, json!({"spec": spec}));
    }
}

fn overlay_value(schema: &Schema, base: &mut Value, over: Value) {
    match (&schema.shape, over) {
        (Shape::Object(fields), Value::Object(over)) => {
            with_entries(base, |base| {
                for (name, value) in over {
                    if let Some(field) = fields.iter().find(|field| field.name == name) {
                        overlay_value(
                            &field.schema,
                            base.entry(name).or_insert(Value::Null),
                            value,
                        );
                    }
                }
            });
        }
        // A map keeps its entries, but an entry is replaced as a whole.
        (Shape::Map(_), Value::Object(over)) => with_entries(base, |base| base.extend(over)),
        // Without a value of its own, a scalar stays what it was; lists, maps and objects are emptied.
        (Shape::Text | Shape::Boolean | Shape::Integer(_), Value::Null) => {}
        (_, over) => *base = over,
    }
}

/// Lets `change` work on the entries of an object; anything else counts as an empty one.
fn with_entries(value: &mut Value, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut entries = match value.take() {
        Value::Object(entries) => entries,
        _ => Map::new(),
    };
    change(&mut entries);
    *value = Value::Object(entries);
}

#[cfg(test)]
mod tests;

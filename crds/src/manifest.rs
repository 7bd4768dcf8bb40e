//! Reads the YAML users write: any number of documents per file, each one of our kinds or something else.
//!
//! Whatever upstream loads is loaded; what upstream passes over in silence (a field it does not know) becomes
//! a warning, and what it cannot decode an error, both with the field's path and the way out. Which documents
//! an app takes (name, namespace, scopes, category) is decided by the loader, not here.

mod error;
mod hints;
mod split;
mod yaml;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::meta::{Object, V1ALPHA1, V2ALPHA1};
use crate::schema::{Finding, FindingKind, Schema, any, map, object, refusals, settle, text};
use crate::{
    Component, Configuration, HttpEndpoint, McpServer, Resiliency, WorkflowAccessPolicy, component,
    configuration, http_endpoint, mcp_server, resiliency, subscription, workflow_access_policy,
};

pub use error::{Ignored, ManifestError, Problem, Reason, Warning, WarningKind};
pub(crate) use split::{Piece, split};

/// One document of a file.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its place in the file, counted from 1.
    pub index: usize,
    /// The line it starts on, counted from 1.
    pub line: usize,
    /// What it holds.
    pub result: Result<Manifest, ManifestError>,
    /// What was read in a way the author may not expect.
    pub warnings: Vec<Warning>,
}

/// What a document holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Manifest {
    /// A Component.
    Component(Box<Component>),
    /// A Configuration.
    Configuration(Box<Configuration>),
    /// An HTTPEndpoint.
    HttpEndpoint(Box<HttpEndpoint>),
    /// An MCPServer.
    McpServer(Box<McpServer>),
    /// A Resiliency.
    Resiliency(Box<Resiliency>),
    /// A Subscription of the older version.
    SubscriptionV1Alpha1(Box<subscription::v1alpha1::Subscription>),
    /// A Subscription of the storage version.
    SubscriptionV2Alpha1(Box<subscription::v2alpha1::Subscription>),
    /// A WorkflowAccessPolicy.
    WorkflowAccessPolicy(Box<WorkflowAccessPolicy>),
    /// Something else, which is no error.
    Ignored(Ignored),
}

impl Manifest {
    /// The kind as it is written, `None` for something else.
    pub fn kind(&self) -> Option<&'static str> {
        Some(self.parts()?.0)
    }

    /// `metadata.name`, empty when there is none.
    pub fn name(&self) -> &str {
        self.parts().map_or("", |(_, name, _)| name)
    }

    /// `metadata.namespace`, empty when there is none.
    pub fn namespace(&self) -> &str {
        self.parts().map_or("", |(_, _, namespace)| namespace)
    }

    fn parts(&self) -> Option<(&'static str, &str, &str)> {
        fn of<T: Object>(object: &T) -> Option<(&'static str, &str, &str)> {
            Some((T::KIND, object.name(), object.namespace()))
        }
        match self {
            Self::Component(object) => of(&**object),
            Self::Configuration(object) => of(&**object),
            Self::HttpEndpoint(object) => of(&**object),
            Self::McpServer(object) => of(&**object),
            Self::Resiliency(object) => of(&**object),
            Self::SubscriptionV1Alpha1(object) => of(&**object),
            Self::SubscriptionV2Alpha1(object) => of(&**object),
            Self::WorkflowAccessPolicy(object) => of(&**object),
            Self::Ignored(_) => None,
        }
    }
}

/// Reads every document of a file. Documents without content are left out; one that cannot be read leaves the
/// others usable. `file` is only named in messages.
pub fn read(file: &str, text: &str) -> Vec<Document> {
    split(text)
        .filter_map(|piece| read_piece(file, &piece))
        .collect()
}

/// Whether a name can be a segment of a path. The error is the text upstream logs before it skips the object;
/// an empty name passes here, for it is skipped without a word.
pub fn check_name(kind: &str, name: &str) -> Result<(), String> {
    let reason = match name {
        "." | ".." => format!("may not be '{name}'"),
        _ if name.contains('/') => "may not contain '/'".to_owned(),
        _ if name.contains('%') => "may not contain '%'".to_owned(),
        _ => return Ok(()),
    };
    Err(format!("invalid name {name:?} for {kind:?}: {reason}"))
}

fn read_piece(file: &str, piece: &Piece<'_>) -> Option<Document> {
    let place = Place { file, piece };
    let (mut value, twice) = match yaml::parse_last_wins(piece) {
        Ok((Value::Null, _)) => return None,
        Ok(read) => read,
        Err(message) => {
            return Some(place.document(
                Err(place.error(None, "", Reason::Syntax(message))),
                Vec::new(),
            ));
        }
    };
    let mut warnings = Vec::new();
    warnings.extend(twice.map(|message| twofold(&message)));
    let result = decode_document(&place, &mut value, &mut warnings);
    Some(place.document(result, warnings))
}

/// What is told of a field that stands there twice, in the parser's words as far as they name field and line.
fn twofold(message: &str) -> Warning {
    let message = message.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
    Warning::new(
        "a field stands there twice",
        WarningKind::Twice,
        format!("{message}; the last one counts here, remove the other"),
    )
}

fn decode_document(
    place: &Place<'_>,
    value: &mut Value,
    warnings: &mut Vec<Warning>,
) -> Result<Manifest, ManifestError> {
    let text = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (version, kind) = (text("apiVersion"), text("kind"));
    match (version.as_str(), kind.as_str()) {
        (V1ALPHA1, "Component") => {
            decode(place, &component::schema(), value, warnings).map(Manifest::Component)
        }
        (V1ALPHA1, "Configuration") => {
            decode(place, &configuration::schema(), value, warnings).map(Manifest::Configuration)
        }
        (V1ALPHA1, "HTTPEndpoint") => {
            decode(place, &http_endpoint::schema(), value, warnings).map(Manifest::HttpEndpoint)
        }
        (V1ALPHA1, "MCPServer") => {
            decode_strictly(place, &mcp_server::schema(), value, warnings).map(Manifest::McpServer)
        }
        (V1ALPHA1, "WorkflowAccessPolicy") => {
            decode_strictly(place, &workflow_access_policy::schema(), value, warnings)
                .map(Manifest::WorkflowAccessPolicy)
        }
        (V1ALPHA1, "Subscription") => {
            decode(place, &subscription::v1alpha1::schema(), value, warnings)
                .map(Manifest::SubscriptionV1Alpha1)
        }
        (V2ALPHA1, "Subscription") => {
            decode(place, &subscription::v2alpha1::schema(), value, warnings)
                .map(Manifest::SubscriptionV2Alpha1)
        }
        // Upstream looks at the kind alone here.
        (_, "Resiliency") => {
            if version != V1ALPHA1 {
                warnings.push(Warning::new(
                    "apiVersion",
                    WarningKind::KubernetesRefuses,
                    format!("must be {V1ALPHA1}, Kubernetes refuses the object otherwise"),
                ));
            }
            decode(place, &resiliency::schema(), value, warnings).map(Manifest::Resiliency)
        }
        _ if value.is_object() => Ok(Manifest::Ignored(Ignored::of(value, version, kind))),
        _ => {
            let problem = Problem {
                path: String::new(),
                message: "expected a map of fields at the top of the document".to_owned(),
            };
            Err(place.error(None, "", Reason::Fields(vec![problem])))
        }
    }
}

/// Decodes a kind that upstream loads from files whatever an API server would say: its refusals are warnings.
fn decode<T: Object>(
    place: &Place<'_>,
    schema: &Schema,
    value: &mut Value,
    warnings: &mut Vec<Warning>,
) -> Result<Box<T>, ManifestError> {
    let object = decode_known(place, schema, value, warnings)?;
    for (path, message) in refused(schema, value) {
        let message = hints::refused(T::KIND, &path, &message);
        warnings.push(Warning::new(path, WarningKind::KubernetesRefuses, message));
    }
    Ok(object)
}

/// Decodes a kind whose CRD rules upstream applies to files too.
fn decode_strictly<T: Object>(
    place: &Place<'_>,
    schema: &Schema,
    value: &mut Value,
    warnings: &mut Vec<Warning>,
) -> Result<Box<T>, ManifestError> {
    let object: Box<T> = decode_known(place, schema, value, warnings)?;
    let problems: Vec<Problem> = refused(schema, value)
        .into_iter()
        .map(|(path, message)| Problem { path, message })
        .collect();
    if problems.is_empty() {
        Ok(object)
    } else {
        Err(place.error(Some(T::KIND), object.name(), Reason::Fields(problems)))
    }
}

fn refused(schema: &Schema, value: &Value) -> Vec<(String, String)> {
    let mut refused = Vec::new();
    refusals(schema, value, "", &mut refused);
    refused
}

fn decode_known<T: Object>(
    place: &Place<'_>,
    schema: &Schema,
    value: &mut Value,
    warnings: &mut Vec<Warning>,
) -> Result<Box<T>, ManifestError> {
    let findings = settle_document(schema, value);
    let reason = match sort_findings(T::KIND, findings, warnings) {
        problems if problems.is_empty() => match from_value(value) {
            Ok(object) => return Ok(Box::new(object)),
            Err(message) => Reason::Decode(message),
        },
        problems => Reason::Fields(problems),
    };
    let name = value
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    Err(place.error(Some(T::KIND), name, reason))
}

/// Settles a whole document: the kind's own fields and those every object has.
pub(crate) fn settle_document(schema: &Schema, value: &mut Value) -> Vec<Finding> {
    // What else Kubernetes keeps in metadata is not ours to judge.
    let metadata = object()
        .files_only("name", text())
        .files_only("namespace", text())
        .files_only("labels", map(text()))
        .files_only("annotations", map(text()));
    let whole = schema
        .clone()
        .files_only("apiVersion", text())
        .files_only("kind", text())
        .files_only("metadata", any());
    let mut findings = Vec::new();
    settle(&whole, value, "", &mut findings);
    if let Some(value) = value.get_mut("metadata") {
        let mut of_metadata = Vec::new();
        settle(&metadata, value, "metadata", &mut of_metadata);
        let is_known = |finding: &Finding| match &finding.kind {
            FindingKind::Unknown { nearest } => nearest.is_some(),
            FindingKind::WrongType { .. }
            | FindingKind::OtherCase { .. }
            | FindingKind::ReadAsText { .. } => true,
        };
        findings.extend(of_metadata.into_iter().filter(is_known));
    }
    findings
}

/// Turns findings into warnings and returns those that are problems.
pub(crate) fn sort_findings(
    kind: &str,
    findings: Vec<Finding>,
    warnings: &mut Vec<Warning>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for Finding { path, kind: found } in findings {
        let (warning, message) = match found {
            FindingKind::WrongType { message } => {
                problems.push(Problem { path, message });
                continue;
            }
            FindingKind::Unknown { nearest } => (
                WarningKind::UnknownField,
                hints::unknown_field(kind, &path, nearest),
            ),
            FindingKind::OtherCase { proper } => (
                WarningKind::OtherCase,
                format!("was read as `{proper}`; write it so, Kubernetes knows no other spelling"),
            ),
            FindingKind::ReadAsText { text } => (
                WarningKind::ReadAsText,
                format!(
                    "was read as the text {text:?}; put it in quotes, Kubernetes refuses it otherwise"
                ),
            ),
        };
        warnings.push(Warning::new(path, warning, message));
    }
    problems
}

pub(crate) fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|error| error.to_string())
}

/// Reads one document without deciding what it is.
pub(crate) fn parse(file: &str, piece: &Piece<'_>) -> Result<Value, ManifestError> {
    yaml::parse(piece)
        .map_err(|message| Place { file, piece }.error(None, "", Reason::Syntax(message)))
}

/// Where a document stands.
pub(crate) struct Place<'a> {
    pub(crate) file: &'a str,
    pub(crate) piece: &'a Piece<'a>,
}

impl Place<'_> {
    pub(crate) fn error(
        &self,
        kind: Option<&'static str>,
        name: &str,
        reason: Reason,
    ) -> ManifestError {
        let (document, line) = (self.piece.index, self.piece.line);
        ManifestError {
            file: self.file.to_owned(),
            document,
            line,
            kind,
            name: name.to_owned(),
            reason,
        }
    }

    const fn document(
        &self,
        result: Result<Manifest, ManifestError>,
        warnings: Vec<Warning>,
    ) -> Document {
        Document {
            index: self.piece.index,
            line: self.piece.line,
            result,
            warnings,
        }
    }
}

#[cfg(test)]
mod tests;

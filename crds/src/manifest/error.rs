//! What is said about a document that cannot be read, is read in a surprising way, or is not ours.

use std::fmt;

use serde_json::Value;

use crate::meta::{GROUP, KINDS, V1ALPHA1, V2ALPHA1};

/// A document that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// The file as it was named by the caller.
    pub file: String,
    /// The document's place in the file, counted from 1.
    pub document: usize,
    /// The line the document starts on, counted from 1.
    pub line: usize,
    /// The kind, when the document got far enough to have one.
    pub kind: Option<&'static str>,
    /// `metadata.name`, empty when there is none.
    pub name: String,
    /// What is wrong.
    pub reason: Reason,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            document,
            line,
            kind,
            name,
            reason,
        } = self;
        write!(f, "{file}, document {document} (line {line})")?;
        if let Some(kind) = kind {
            write!(f, ", {kind} {name:?}")?;
        }
        write!(f, ": {reason}")
    }
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is not YAML.
    Syntax(String),
    /// Fields with values that cannot be read or are not allowed.
    Fields(Vec<Problem>),
    /// It cannot be decoded for another reason.
    Decode(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(message) => write!(f, "not valid YAML: {message}"),
            Self::Decode(message) => f.write_str(message),
            Self::Fields(problems) => {
                for (index, problem) in problems.iter().enumerate() {
                    write!(f, "{}{problem}", if index == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
        }
    }
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// For example `spec.tracing.stdout`; empty for the document itself.
    pub path: String,
    /// What is wrong and the way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Something that was read, but perhaps not as its author expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// For example `spec.health`.
    pub path: String,
    /// What sort of surprise it is.
    pub kind: WarningKind,
    /// What was done and the way out.
    pub message: String,
}

impl Warning {
    pub(crate) fn new(path: impl Into<String>, kind: WarningKind, message: String) -> Self {
        Self {
            path: path.into(),
            kind,
            message,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// What sort of surprise a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarningKind {
    /// The field is not known and has no effect.
    UnknownField,
    /// The field was read under its proper spelling.
    OtherCase,
    /// A number or boolean was read as text.
    ReadAsText,
    /// A field stands there twice, and the last one was read.
    Twice,
    /// The document is of another kind than the one it is read as.
    OtherKind,
    /// It works here, but an API server would refuse the object.
    KubernetesRefuses,
}

/// A document that is none of our resources. Its text says what it is instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// An object of another API.
    OtherResource {
        /// As written.
        api_version: String,
        /// As written.
        kind: String,
    },
    /// An object of our group with a kind or version that does not exist.
    UnknownVersion {
        /// As written.
        api_version: String,
        /// As written.
        kind: String,
    },
    /// A Docker Compose file.
    Compose,
    /// A map without `apiVersion` or `kind`.
    NoResource {
        /// Its first field.
        first_field: String,
    },
}

impl Ignored {
    pub(super) fn of(value: &Value, api_version: String, kind: String) -> Self {
        if !api_version.is_empty() && !kind.is_empty() {
            let is_ours = api_version.split('/').next() == Some(GROUP);
            return if is_ours {
                Self::UnknownVersion { api_version, kind }
            } else {
                Self::OtherResource { api_version, kind }
            };
        }
        if value.get("services").is_some_and(Value::is_object) {
            return Self::Compose;
        }
        let first_field = value
            .as_object()
            .and_then(|fields| fields.keys().next())
            .cloned()
            .unwrap_or_default();
        Self::NoResource { first_field }
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherResource { api_version, kind } => {
                write!(f, "{kind} ({api_version}) is not a Dapr resource and is left to Kubernetes")
            }
            Self::UnknownVersion { api_version, kind } => {
                write!(f, "there is no {kind} in {api_version}; ")?;
                match kind.as_str() {
                    "Subscription" => write!(f, "write apiVersion {V1ALPHA1} or {V2ALPHA1}"),
                    known if KINDS.contains(&known) => write!(f, "write apiVersion {V1ALPHA1}"),
                    _ => write!(f, "the kinds of Dapr are {}", KINDS.join(", ")),
                }
            }
            Self::Compose => f.write_str(
                "a Docker Compose file, not a resource: it has services, but no apiVersion and kind; \
                 its sidecars read the resources in the folder mounted for --resources-path",
            ),
            Self::NoResource { first_field } => write!(
                f,
                "not a resource: it starts with {first_field:?} and lacks apiVersion or kind; \
                 the size of the control plane is set by Helm values, that of a sidecar by dapr.io/sidecar-* annotations",
            ),
        }
    }
}

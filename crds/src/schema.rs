//! One schema per kind, written once: the CRD documents are printed from it, and the files users write are
//! checked against it.
//!
//! It knows exactly what the resources need of a structural schema, not all of OpenAPI.

mod check;
mod near;
mod print;

use serde_json::Value;

pub(crate) use check::{Finding, FindingKind, refusals, settle};

/// What a value may be.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) shape: Shape,
    words: &'static [&'static str],
    min_length: usize,
    min_items: usize,
    is_set: bool,
    default: Option<Value>,
    rule: Option<Rule>,
    /// Whether the list may also hold plain texts when it is read from a file.
    texts_in_files: bool,
}

/// The kind of a value and what it holds.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Text,
    Boolean,
    Integer(Width),
    /// Any JSON, without a type.
    Any,
    /// Any object.
    AnyObject,
    Map(Box<Schema>),
    List(Box<Schema>),
    Object(Vec<Field>),
}

/// How large an integer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Int32,
    Int64,
}

/// One field of an object.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// One sentence for `kubectl explain`.
    description: &'static str,
    pub(crate) presence: Presence,
    pub(crate) schema: Schema,
}

/// Where a field has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    Optional,
    /// Read from files, unknown to the CRD.
    FilesOnly,
}

/// A CEL rule of the CRD and the same condition in Rust, for files that no API server sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) cel: &'static str,
    pub(crate) message: &'static str,
    pub(crate) holds: fn(&Value) -> bool,
}

impl Schema {
    const fn new(shape: Shape) -> Self {
        Self {
            shape,
            words: &[],
            min_length: 0,
            min_items: 0,
            is_set: false,
            default: None,
            rule: None,
            texts_in_files: false,
        }
    }

    pub(crate) fn required(
        self,
        name: &'static str,
        description: &'static str,
        schema: Self,
    ) -> Self {
        self.field(name, description, Presence::Required, schema)
    }

    pub(crate) fn optional(
        self,
        name: &'static str,
        description: &'static str,
        schema: Self,
    ) -> Self {
        self.field(name, description, Presence::Optional, schema)
    }

    /// Without a description, as the CRD has no such field.
    pub(crate) fn files_only(self, name: &'static str, schema: Self) -> Self {
        self.field(name, "", Presence::FilesOnly, schema)
    }

    fn field(
        mut self,
        name: &'static str,
        description: &'static str,
        presence: Presence,
        schema: Self,
    ) -> Self {
        if let Shape::Object(fields) = &mut self.shape {
            fields.push(Field {
                name,
                description,
                presence,
                schema,
            });
        }
        self
    }

    pub(crate) const fn one_of(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    pub(crate) const fn min_length(mut self, length: usize) -> Self {
        self.min_length = length;
        self
    }

    pub(crate) const fn min_items(mut self, items: usize) -> Self {
        self.min_items = items;
        self
    }

    /// Makes a list refuse duplicates.
    pub(crate) const fn set(mut self) -> Self {
        self.is_set = true;
        self
    }

    pub(crate) fn default_value(mut self, value: Value) -> Self {
        self.default = Some(value);
        self
    }

    pub(crate) const fn rule(mut self, rule: Rule) -> Self {
        self.rule = Some(rule);
        self
    }

    pub(crate) const fn or_texts_in_files(mut self) -> Self {
        self.texts_in_files = true;
        self
    }
}

pub(crate) const fn object() -> Schema {
    Schema::new(Shape::Object(Vec::new()))
}

pub(crate) const fn text() -> Schema {
    Schema::new(Shape::Text)
}

pub(crate) const fn boolean() -> Schema {
    Schema::new(Shape::Boolean)
}

pub(crate) const fn integer() -> Schema {
    Schema::new(Shape::Integer(Width::Int64))
}

pub(crate) const fn int32() -> Schema {
    Schema::new(Shape::Integer(Width::Int32))
}

pub(crate) const fn any() -> Schema {
    Schema::new(Shape::Any)
}

pub(crate) const fn any_object() -> Schema {
    Schema::new(Shape::AnyObject)
}

pub(crate) fn list(items: Schema) -> Schema {
    Schema::new(Shape::List(Box::new(items)))
}

pub(crate) fn map(values: Schema) -> Schema {
    Schema::new(Shape::Map(Box::new(values)))
}

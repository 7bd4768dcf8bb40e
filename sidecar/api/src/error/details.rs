//! The messages of `google.rpc` that errors carry, on the wire of gRPC and as JSON on HTTP.

use std::collections::BTreeMap;

use bytes::Bytes;
use dapr_sidecar_core::rpc;
use prost::Message as _;
use serde::Serialize;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "dapr.io";

const TYPE_PREFIX: &str = "type.googleapis.com/";

/// `google.rpc.Status`, the content of `grpc-status-details-bin`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Text.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Details.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ErrorInfo {
    /// The reason, a constant.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Always [`DOMAIN`].
    #[prost(string, tag = "2")]
    pub domain: String,
    /// Facts about the occurrence.
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: BTreeMap<String, String>,
}

/// `google.rpc.ResourceInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceInfo {
    /// `state` or `pubsub`.
    #[prost(string, tag = "1")]
    pub resource_type: String,
    /// Name of the component.
    #[prost(string, tag = "2")]
    pub resource_name: String,
    /// Always empty.
    #[prost(string, tag = "3")]
    pub owner: String,
    /// Text, or empty.
    #[prost(string, tag = "4")]
    pub description: String,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BadRequest {
    /// What is wrong.
    #[prost(message, repeated, tag = "1")]
    pub field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct FieldViolation {
    /// The field; empty when it cannot be told.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What is wrong with it.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// `google.rpc.Help`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Help {
    /// Where to read on.
    #[prost(message, repeated, tag = "1")]
    pub links: Vec<Link>,
}

/// `google.rpc.Help.Link`.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Link {
    /// Text of the link.
    #[prost(string, tag = "1")]
    pub description: String,
    /// Address.
    #[prost(string, tag = "2")]
    pub url: String,
}

/// One detail of an error. HTTP prints the `metadata` of an `ErrorInfo` as `null` when there is none, which
/// the protobuf message cannot tell from an empty map; hence a type of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// A link to documentation.
    Help {
        /// Text of the link.
        description: String,
        /// Address.
        url: String,
    },
    /// A field of the request that is wrong.
    BadRequest {
        /// The field; empty when it cannot be told.
        field: String,
        /// What is wrong with it.
        description: String,
    },
    /// The component concerned.
    Resource {
        /// `state` or `pubsub`.
        resource_type: &'static str,
        /// Name of the component.
        name: String,
        /// Text, or empty.
        description: String,
    },
    /// Reason and facts.
    Info {
        /// The reason, a constant.
        reason: String,
        /// Facts about the occurrence.
        metadata: Option<BTreeMap<String, String>>,
    },
}

impl Detail {
    /// The detail as gRPC carries it.
    pub fn to_rpc(&self) -> rpc::Detail {
        let (name, value) = match self {
            Self::Help { description, url } => {
                let links = vec![Link {
                    description: description.clone(),
                    url: url.clone(),
                }];
                ("google.rpc.Help", Help { links }.encode_to_vec())
            }
            Self::BadRequest { field, description } => {
                let field_violations = vec![FieldViolation {
                    field: field.clone(),
                    description: description.clone(),
                }];
                let message = BadRequest { field_violations };
                ("google.rpc.BadRequest", message.encode_to_vec())
            }
            Self::Resource {
                resource_type,
                name,
                description,
            } => {
                let message = ResourceInfo {
                    resource_type: (*resource_type).to_owned(),
                    resource_name: name.clone(),
                    owner: String::new(),
                    description: description.clone(),
                };
                ("google.rpc.ResourceInfo", message.encode_to_vec())
            }
            Self::Info { reason, metadata } => {
                let message = ErrorInfo {
                    reason: reason.clone(),
                    domain: DOMAIN.to_owned(),
                    metadata: metadata.clone().unwrap_or_default(),
                };
                ("google.rpc.ErrorInfo", message.encode_to_vec())
            }
        };
        rpc::Detail {
            type_url: format!("{TYPE_PREFIX}{name}"),
            value: Bytes::from(value),
        }
    }
}

/// The JSON form: keys in snake case, in alphabetical order after `@type`.
#[derive(Serialize)]
#[serde(tag = "@type")]
enum Json<'a> {
    #[serde(rename = "type.googleapis.com/google.rpc.Help")]
    Help { links: [LinkJson<'a>; 1] },
    #[serde(rename = "type.googleapis.com/google.rpc.BadRequest")]
    BadRequest {
        field_violations: [FieldViolation; 1],
    },
    #[serde(rename = "type.googleapis.com/google.rpc.ResourceInfo")]
    ResourceInfo {
        description: &'a str,
        owner: &'static str,
        resource_name: &'a str,
        resource_type: &'a str,
    },
    #[serde(rename = "type.googleapis.com/google.rpc.ErrorInfo")]
    ErrorInfo {
        domain: &'static str,
        metadata: Option<&'a BTreeMap<String, String>>,
        reason: &'a str,
    },
}

#[derive(Serialize)]
struct LinkJson<'a> {
    description: &'a str,
    url: &'a str,
}

impl Serialize for Detail {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = match self {
            Self::Help { description, url } => Json::Help {
                links: [LinkJson { description, url }],
            },
            Self::BadRequest { field, description } => Json::BadRequest {
                field_violations: [FieldViolation {
                    field: field.clone(),
                    description: description.clone(),
                }],
            },
            Self::Resource {
                resource_type,
                name,
                description,
            } => Json::ResourceInfo {
                description,
                owner: "",
                resource_name: name,
                resource_type,
            },
            Self::Info { reason, metadata } => Json::ErrorInfo {
                domain: DOMAIN,
                metadata: metadata.as_ref(),
                reason,
            },
        };
        json.serialize(serializer)
    }
}

/// A detail of the types above as protobuf JSON; `None` for other types and bytes that do not decode.
pub(crate) fn to_json(detail: &rpc::Detail) -> Option<serde_json::Value> {
    let value = detail.value.as_ref();
    let mut json = match detail.type_url.strip_prefix(TYPE_PREFIX)? {
        "google.rpc.ErrorInfo" => {
            let info = ErrorInfo::decode(value).ok()?;
            serde_json::json!({"reason": info.reason, "domain": info.domain, "metadata": info.metadata})
        }
        "google.rpc.ResourceInfo" => {
            let info = ResourceInfo::decode(value).ok()?;
            serde_json::json!({
                "resourceType": info.resource_type,
                "resourceName": info.resource_name,
                "owner": info.owner,
                "description": info.description,
            })
        }
        "google.rpc.BadRequest" => {
            let request = BadRequest::decode(value).ok()?;
            serde_json::json!({"fieldViolations": request.field_violations})
        }
        "google.rpc.Help" => serde_json::json!({"links": Help::decode(value).ok()?.links}),
        _ => return None,
    };
    let object = json.as_object_mut()?;
    object.retain(|_, value| !matches!(value.as_str(), Some("")));
    object.insert("@type".to_owned(), detail.type_url.as_str().into());
    Some(json)
}

//! The resources a user writes: their types, defaults, spellings and the CRD documents made from them.
//!
//! Types without a client: nothing here talks to an API server or knows who reconciles what.

// What every kind is made of.
pub mod meta;
pub mod quantity;
mod schema;
pub mod value;

// One module per kind.
pub mod component;
pub mod configuration;
pub mod http_endpoint;
pub mod mcp_server;
pub mod resiliency;
pub mod subscription;
pub mod workflow_access_policy;

// The CRD documents, and how a user's files are read.
pub mod documents;
pub mod manifest;
pub mod standalone;

// Names on pods and workloads.
pub mod annotations;

pub use component::Component;
pub use configuration::Configuration;
pub use http_endpoint::HttpEndpoint;
pub use mcp_server::McpServer;
pub use meta::in_scope;
pub use quantity::Quantity;
pub use resiliency::Resiliency;
pub use value::{DynamicValue, NameValuePair, SecretKeyRef};
pub use workflow_access_policy::WorkflowAccessPolicy;

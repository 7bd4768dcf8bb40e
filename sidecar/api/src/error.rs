//! The one table of errors: what the core reports, and how HTTP and gRPC callers see it.
//!
//! Upstream's HTTP status and gRPC code do not follow from each other, so every row names both.

pub mod details;
mod table;

use std::borrow::Cow;

use bytes::Bytes;
use dapr_sidecar_core::rpc::{self, Code};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use prost::Message as _;
use serde::Serialize;

use dapr_sidecar_core::body::{self, Body};
use details::Detail;

pub use table::*;

/// How much an error says beyond its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// HTTP: code and text. gRPC: a plain status.
    Simple,
    /// HTTP: code and text. gRPC: an `ErrorInfo` whose reason is the code.
    Reason,
    /// Both carry these details.
    Rich(Vec<Detail>),
}

/// An error on its way to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// gRPC code.
    pub code: Code,
    /// The `errorCode` of HTTP.
    pub tag: Cow<'static, str>,
    /// Text for people.
    pub message: String,
    /// What else is said.
    pub form: Form,
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(rename = "errorCode")]
    error_code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a [Detail]>,
}

impl ApiError {
    /// An error of the simple form.
    pub fn new(
        status: StatusCode,
        code: Code,
        tag: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            tag: tag.into(),
            message: message.into(),
            form: Form::Simple,
        }
    }

    /// The same with its code as reason on gRPC.
    #[must_use]
    pub fn with_reason(mut self) -> Self {
        self.form = Form::Reason;
        self
    }

    /// The same with details.
    #[must_use]
    pub fn with_details(mut self, details: Vec<Detail>) -> Self {
        self.form = Form::Rich(details);
        self
    }

    /// The body HTTP callers get.
    pub fn to_json(&self) -> Bytes {
        let json = Json {
            error_code: &self.tag,
            message: &self.message,
            details: match &self.form {
                Form::Simple | Form::Reason => None,
                Form::Rich(details) => Some(details),
            },
        };
        // Strings and string maps only: this cannot fail, and an empty body would still be an answer.
        serde_json::to_vec(&json).unwrap_or_default().into()
    }

    /// The answer HTTP callers get.
    pub fn to_http(&self) -> http::Response<Body> {
        let mut response = http::Response::new(body::full(self.to_json()));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// The status gRPC callers get.
    pub fn to_rpc(&self) -> rpc::Status {
        let details = match &self.form {
            Form::Simple => Vec::new(),
            Form::Reason => vec![
                Detail::Info {
                    reason: self.tag.clone().into_owned(),
                    metadata: None,
                }
                .to_rpc(),
            ],
            Form::Rich(details) => details.iter().map(Detail::to_rpc).collect(),
        };
        rpc::Status {
            code: self.code,
            message: self.message.clone(),
            details,
        }
    }
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> Self {
        crate::wire::to_tonic(error.to_rpc())
    }
}

/// The content of `grpc-status-details-bin`.
pub(crate) fn encode_details(status: &rpc::Status) -> Bytes {
    let message = details::Status {
        code: status.code as i32,
        message: status.message.clone(),
        details: status
            .details
            .iter()
            .map(|detail| prost_types::Any {
                type_url: detail.type_url.clone(),
                value: detail.value.to_vec(),
            })
            .collect(),
    };
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests;

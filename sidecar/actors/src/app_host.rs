//! What hosts actors: the application over HTTP, over a gRPC stream, or the workflow engine in this process.

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use dapr_sidecar_core::actors::{Call, Reply};
use dapr_sidecar_core::peer::ReminderCall;
use dapr_sidecar_core::rpc;
use http::HeaderName;
use prost::{Message as _, Name as _};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What a method call carries that belongs to no trace.
pub(crate) const NO_TRACE: &str = "00-00000000000000000000000000000000-0000000000000000-00";

/// Why an actor did not do what it was asked for. None of these is tried again here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The application does not know the method; the text is the callback's path or the method.
    #[error("actor method not found: {0}")]
    NotFound(String),
    /// The application answered with an error.
    #[error("error from actor service: {0}")]
    Service(String),
    /// The application cancelled the reminder, on a method call.
    #[error("reminder has been canceled")]
    Cancelled,
    /// No stream of the application is open.
    #[error("actor host is not connected")]
    NotConnected,
    /// The stream ended before the answer came.
    #[error("actor host disconnected before responding")]
    Disconnected,
    /// The call failed with a status that callers get as it is.
    #[error("{0}")]
    Status(#[from] rpc::Status),
    /// Anything else; the text is complete.
    #[error("{0}")]
    Other(String),
}

/// Runs what actors do. Calls of one actor come one after the other unless it is reentrant.
#[async_trait]
pub trait AppHost: Send + Sync + 'static {
    /// Runs a method.
    async fn invoke(&self, call: &Call) -> Result<Reply, Error>;

    /// Fires a reminder; a cancelled one is success.
    async fn remind(&self, reminder: &ReminderCall) -> Result<(), Error>;

    /// Fires a timer; a cancelled one is success.
    async fn timer(&self, timer: &ReminderCall, callback: &str) -> Result<(), Error>;

    /// Says that the actor is no longer active here.
    async fn deactivate(&self, actor_type: &str, actor_id: &str) -> Result<(), Error>;
}

/// Wraps what was registered as data of a timer or reminder for the wire.
pub fn pack(data: &Bytes) -> Option<(String, Bytes)> {
    if data.is_empty() {
        return None;
    }
    Some((Bytes::type_url(), Bytes::from(data.encode_to_vec())))
}

/// The JSON text of wrapped data. What is not JSON becomes a string in base64.
pub fn unpack(data: Option<&(String, Bytes)>) -> Option<Bytes> {
    let (type_url, value) = data?;
    let bytes = if *type_url == Bytes::type_url() {
        Bytes::decode(value.clone()).unwrap_or_else(|_| value.clone())
    } else {
        value.clone()
    };
    if bytes.is_empty() {
        return None;
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() {
        return Some(bytes);
    }
    let text = base64::engine::general_purpose::STANDARD.encode(&bytes);
    Some(Bytes::from(format!("\"{text}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_comes_back_as_it_was_registered() {
        let check = |data: &'static [u8], expected: Option<&'static [u8]>| {
            let packed = pack(&Bytes::from_static(data));
            assert_eq!(unpack(packed.as_ref()).as_deref(), expected);
        };
        check(br#"{"b": 1, "a": [2]}"#, Some(br#"{"b": 1, "a": [2]}"#));
        check(b"null", Some(b"null"));
        check(b"", None);
        check(b"\xff\x00", Some(br#""/wA=""#));
    }

    #[test]
    fn other_messages_become_base64() {
        let other = (
            "type.googleapis.com/x.Y".to_owned(),
            Bytes::from_static(b"\x0a\x01"),
        );
        assert_eq!(unpack(Some(&other)).as_deref(), Some(&br#""CgE=""#[..]));
    }
}

//! One error for all components: what failed, in words, and what the caller can do about it.

/// What a caller can do with a failed component call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The component's metadata is wrong; only the user can fix it.
    Configuration,
    /// The request itself is wrong; repeating it cannot help.
    Invalid,
    /// The etag given is not the stored one.
    EtagMismatch,
    /// The etag given has a form the store can never have issued.
    EtagInvalid,
    /// The component cannot do this at all.
    Unsupported,
    /// The backend could not be reached or refused for now; another attempt can help.
    Unavailable,
    /// Anything else the backend reported; another attempt may help.
    Internal,
}

/// Error of a component call. `Display` is the text that upstream's users see, without the caller's prefix.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that reads `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Keeps the cause for the log; `message` must already say what a user needs.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The etag of a write was not the stored one; `cause` is appended as upstream does.
    pub fn etag_mismatch(cause: Option<&str>) -> Self {
        Self::new(
            ErrorKind::EtagMismatch,
            with_cause("possible etag mismatch. error from state store", cause),
        )
    }

    /// The etag of a write has an impossible form; `cause` is appended as upstream does.
    pub fn etag_invalid(cause: Option<&str>) -> Self {
        Self::new(
            ErrorKind::EtagInvalid,
            with_cause("invalid etag value", cause),
        )
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether repeating the same call can succeed.
    pub fn is_retriable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Internal)
    }
}

fn with_cause(text: &str, cause: Option<&str>) -> String {
    match cause {
        Some(cause) => format!("{text}: {cause}"),
        None => text.to_owned(),
    }
}

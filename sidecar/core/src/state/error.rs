//! Why a state call failed; `Display` is the text callers read.

use dapr_components_core::ErrorKind;

/// What an etag had to do with a failed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtagProblem {
    /// Nothing.
    None,
    /// It is not the stored one.
    Mismatch,
    /// The store can never have issued it.
    Invalid,
}

impl EtagProblem {
    /// What the kind of a component's error says about etags.
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::EtagMismatch => Self::Mismatch,
            ErrorKind::EtagInvalid => Self::Invalid,
            ErrorKind::Configuration
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::Unavailable
            | ErrorKind::Internal => Self::None,
        }
    }
}

/// Why a state call failed. `reason` is the text of the store, or of the policy that ended the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No state store is loaded at all.
    #[error("state store {store} is not configured")]
    NotConfigured {
        /// Store asked for.
        store: String,
    },
    /// Others are loaded, this one is not.
    #[error("state store {store} is not found")]
    NotFound {
        /// Store asked for.
        store: String,
    },
    /// A key contains the separator of prefixes. HTTP callers read it behind
    /// `api error: code = InvalidArgument desc = `.
    #[error("input key/keyPrefix '{key}' can't contain '||'")]
    IllegalKey {
        /// Store asked for.
        store: String,
        /// The key.
        key: String,
    },
    /// A component that cannot be served; only its user can fix it.
    #[error("{reason}")]
    Component {
        /// Store that was to be added.
        store: String,
        /// What is wrong.
        reason: String,
    },
    /// Reading a key failed.
    #[error("fail to get {key} from state store {store}: {reason}")]
    Get {
        /// Store asked.
        store: String,
        /// Key without prefix.
        key: String,
        /// Why.
        reason: String,
    },
    /// Writing failed.
    #[error("failed saving state in state store {store}: {reason}")]
    Save {
        /// Store asked.
        store: String,
        /// Whether etags were the reason.
        etag: EtagProblem,
        /// Why.
        reason: String,
    },
    /// Deleting a key failed.
    #[error("failed deleting state with key {key}: {reason}")]
    Delete {
        /// Key without prefix.
        key: String,
        /// Whether the etag was the reason.
        etag: EtagProblem,
        /// Why.
        reason: String,
    },
    /// Reading several keys failed as a whole.
    #[error("{reason}")]
    BulkGet {
        /// Store asked.
        store: String,
        /// Why.
        reason: String,
    },
    /// Deleting several keys failed.
    #[error("failed deleting state in state store {store}: {reason}")]
    BulkDelete {
        /// Store asked.
        store: String,
        /// Whether etags were the reason.
        etag: EtagProblem,
        /// Why.
        reason: String,
    },
    /// The store has no transactions.
    #[error("state store {store} doesn't support transactions")]
    TransactionsNotSupported {
        /// Store asked.
        store: String,
    },
    /// The transaction is too long for the store.
    #[error(
        "the transaction contains {count} operations, which is more than what the state store supports: {max}"
    )]
    TooManyOperations {
        /// Store asked.
        store: String,
        /// Operations asked for.
        count: usize,
        /// Operations allowed.
        max: usize,
    },
    /// The transaction failed; nothing was written.
    #[error("error while executing state transaction: {reason}")]
    Transaction {
        /// Store asked.
        store: String,
        /// Why.
        reason: String,
    },
    /// The store cannot be queried.
    #[error("state store does not support querying")]
    QueryNotSupported {
        /// Store asked.
        store: String,
    },
    /// The query failed.
    #[error("state store {store} query failed: {reason}")]
    QueryFailed {
        /// Store asked.
        store: String,
        /// Why.
        reason: String,
    },
}
